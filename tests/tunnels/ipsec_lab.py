"""A strongSwan gateway and a client's place in two namespaces, for vpnc and strongSwan; and what can
happen to their sessions.

`python -m tests.tunnels.ipsec_lab` as root records the transcripts anew. Look at what changed.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from supervisor.config.validation import validated
from tests.lab.pki import Authority
from tests.lab.servers import PASSWORD, web_server
from tests.lab.strongswan import GROUP_SECRET, PRESHARED_KEY, USER, StrongSwanServer
from tests.netns import Namespace, link
from tests.tunnels.driver import ClientRun, with_companions
from tunnels.base import AnyKind, Placement, Reason
from tunnels.kinds.strongswan.kind import STRONGSWAN
from tunnels.kinds.vpnc.kind import VPNC

CLIENT, SERVER, INSIDE = "198.18.2.1", "198.18.2.2", "10.77.0.1"
FOLDER = Path(__file__).parent / "transcripts"


class IpsecLab:
    """The gateway runs; `run` starts clients against it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.client, self.server = Namespace("ipsec-client"), Namespace("ipsec-server")
        link(self.client, "wan", self.server, "wan")
        self.client.run("ip", "address", "add", f"{CLIENT}/30", "dev", "wan")
        self.server.run("ip", "address", "add", f"{SERVER}/30", "dev", "wan")
        self.server.run("ip", "address", "add", f"{INSIDE}/32", "dev", "lo")
        self.gateway = StrongSwanServer(self.server, directory, Authority(directory), IPv4Address(SERVER))
        self.gateway.write_client_files(directory)
        self.gateway.start()
        self.web = web_server(self.server, directory, "inside")
        self.web.start()
        self._runs = 0

    def close(self) -> None:
        """End everything."""
        self.client.remove()
        self.server.remove()

    def run(
        self, kind: str, config: str, device: str = "", *, remote: int = 0, **secrets: str | None
    ) -> ClientRun:
        """A client with this configuration, which tries the gateway with number `remote` first; secrets are
        `password`, `psk` and `group_secret`.
        """
        self._runs += 1
        directory = self.directory / f"run-{self._runs}"
        place = Placement(directory, device or f"t-{kind}", 0, sys.executable, remote=remote)
        place.directory.mkdir(mode=0o700)
        path = self.directory / "client.conf"
        path.write_text(config)
        given = {name: value for name, value in secrets.items() if value is not None}
        login = {"username": USER, "password": {"file": "password"}} if "password" in given else {}
        options = {
            "name": "acme",
            "kind": kind,
            "destinations": ["10.77.0.0/24"],
            "config": str(path),
            "login": login,
        }
        options |= {name: {"file": name} for name in given if name != "password"}
        of: AnyKind = VPNC if kind == "vpnc" else STRONGSWAN
        tunnel = validated(of.options, options)
        inputs = {"config": config.encode()} | {name: value.encode() for name, value in given.items()}
        return ClientRun(of, tunnel, place, with_companions(of, tunnel, inputs), self.client)

    def passes(self, device: str) -> bool:
        """A request through the device is answered."""
        found = self.client.run(
            "curl", "-s", "-m", "2", "--interface", device, f"http://{INSIDE}/", check=False
        )
        return found.returncode == 0 and "sees 10.79." in found.stdout

    def silence(self) -> None:
        """From now on nothing arrives at the gateway."""
        self.server.run(
            "nft",
            "-f",
            "-",
            input="table inet t { chain i { type filter hook input priority 0; policy drop; }; }",
        )

    def speak(self) -> None:
        """The gateway hears again."""
        self.server.run("nft", "delete", "table", "inet", "t", check=False)


@dataclass(frozen=True)
class IpsecScenario:
    """One session: how it begins, what is done to it once it is connected, and why it must fail; without a
    reason it must not.
    """

    kind: str
    name: str
    begin: Callable[[IpsecLab], ClientRun]
    reason: Reason | None = None
    disturb: Callable[[IpsecLab, ClientRun], object] | None = None
    silent: bool = False  # the gateway is not heard from the beginning

    def play(self, lab: IpsecLab) -> ClientRun:
        """Run it to its observation; the client is gone afterwards."""
        if self.silent:
            lab.silence()
        run = self.begin(lab)
        try:
            if self.reason is None or self.disturb is not None:
                run.connected(30)
            if self.disturb is not None:
                self.disturb(lab, run)
            if self.reason is not None:
                run.failed(60)
                run.to_end(30)
        finally:
            run.stop()
            lab.speak()
        return run


def _vpnc(
    lab: IpsecLab, *, config: str | None = None, password: str = PASSWORD, group_secret: str = GROUP_SECRET
) -> ClientRun:
    return lab.run("vpnc", config or lab.gateway.vpnc_config(), password=password, group_secret=group_secret)


def _swan(
    lab: IpsecLab,
    how: str = "psk",
    *,
    psk: str = PRESHARED_KEY,
    password: str = PASSWORD,
    address: str = SERVER,
) -> ClientRun:
    config = lab.gateway.swanctl_config(how).replace(SERVER, address)
    return lab.run(
        "strongswan", config, psk=psk if how == "psk" else None, password=password if how == "eap" else None
    )


SCENARIOS = (
    IpsecScenario("vpnc", "connected", _vpnc),
    IpsecScenario("vpnc", "password-refused", lambda lab: _vpnc(lab, password="wrong"), Reason.AUTH),
    IpsecScenario("vpnc", "group-refused", lambda lab: _vpnc(lab, group_secret="wrong"), Reason.AUTH),
    IpsecScenario(
        "vpnc",
        "no-name",
        lambda lab: _vpnc(lab, config=lab.gateway.vpnc_config().replace(SERVER, "gateway.invalid")),
        Reason.DNS,
    ),
    IpsecScenario("vpnc", "no-answer", _vpnc, Reason.NETWORK, silent=True),
    IpsecScenario("vpnc", "ended", _vpnc, Reason.PEER_CLOSED, lambda lab, run: lab.gateway.end_sessions()),
    IpsecScenario("vpnc", "silent", _vpnc, Reason.PEER_TIMEOUT, lambda lab, run: lab.silence()),
    IpsecScenario("strongswan", "connected-psk", _swan),
    IpsecScenario("strongswan", "connected-eap", lambda lab: _swan(lab, "eap")),
    IpsecScenario("strongswan", "connected-certificate", lambda lab: _swan(lab, "certificate")),
    IpsecScenario("strongswan", "psk-refused", lambda lab: _swan(lab, psk="wrong"), Reason.AUTH),
    IpsecScenario(
        "strongswan", "password-refused", lambda lab: _swan(lab, "eap", password="wrong"), Reason.AUTH
    ),
    IpsecScenario("strongswan", "no-name", lambda lab: _swan(lab, address="gateway.invalid"), Reason.DNS),
    IpsecScenario("strongswan", "no-answer", _swan, Reason.NETWORK, silent=True),
    IpsecScenario(
        "strongswan", "ended", _swan, Reason.PEER_CLOSED, lambda lab, run: lab.gateway.end_sessions()
    ),
    IpsecScenario("strongswan", "silent", _swan, Reason.PEER_TIMEOUT, lambda lab, run: lab.silence()),
)


def main(wanted: list[str]) -> None:
    """Record the named scenarios, or all."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        lab = IpsecLab(Path(name))
        try:
            for scenario in SCENARIOS:
                if not wanted or f"{scenario.kind}-{scenario.name}" in wanted:
                    run = scenario.play(lab)
                    path = FOLDER / scenario.kind / f"{scenario.name}.txt"
                    path.parent.mkdir(exist_ok=True)
                    path.write_text("".join(f"{line.replace(name, '/lab')}\n" for line in run.transcript))
                    print(scenario.kind, scenario.name, [each for each in run.observations][-1:], flush=True)
        finally:
            lab.close()


if __name__ == "__main__":
    main(sys.argv[1:])
