"""What people use today: two hosts with a floating address (VRRP, keepalived) as the next hop.

Each host has an OpenVPN client that is started by hand, a route into it and masquerading.
"""

from __future__ import annotations

import contextlib
import subprocess
import textwrap
from collections.abc import Iterator

from tests.lab.fleet import MEMBERS, FleetLab, LabMember
from tests.lab.network import DATACENTRE
from tests.lab.servers import Server
from tests.lab.wait import eventually

FLOATING = "10.60.0.4"
_NAT = """
table ip hand {
  chain post { type nat hook postrouting priority 100; oifname "hand0" masquerade; }
}
"""


@contextlib.contextmanager
def floating_address(lab: FleetLab, profile: str, advert_seconds: float = 0.1) -> Iterator[None]:
    """Both hosts carry the datacentre, and the first one holds the address; the router has a static route."""
    hub = lab.network["hub"]
    with contextlib.ExitStack() as running:
        for member in MEMBERS:
            running.enter_context(_client(lab, member, profile))
        for priority, member in zip((150, 100), MEMBERS, strict=True):
            server = Server(
                lab.namespace_of(member),
                lab.directory,
                f"keepalived-{member.name}",
                _argv(lab, member, priority, advert_seconds),
                "Entering BACKUP STATE" if priority == 100 else "Entering MASTER STATE",
            )
            server.start()
            running.callback(server.stop)
        hub.run("ip", "route", "add", str(DATACENTRE), "via", FLOATING)
        running.callback(hub.run, "ip", "route", "del", str(DATACENTRE))
        yield


def _argv(lab: FleetLab, member: LabMember, priority: int, advert_seconds: float) -> tuple[str, ...]:
    prefix = lab.directory / f"keepalived-{member.name}"
    config = prefix.with_suffix(".conf")
    config.write_text(
        textwrap.dedent(f"""\
        global_defs {{ vrrp_garp_master_refresh 1 }}
        vrrp_instance staff {{
          state BACKUP
          interface vpc
          virtual_router_id 17
          priority {priority}
          advert_int {advert_seconds}
          version 3
          virtual_ipaddress {{ {FLOATING}/29 }}
        }}
        """)
    )
    pids = [f"--{name}={prefix}-{name}.pid" for name in ("pid", "vrrp_pid")]
    return ("keepalived", "--vrrp", "--dont-fork", "--log-console", f"--use-file={config}", *pids)


@contextlib.contextmanager
def _client(lab: FleetLab, member: LabMember, profile: str) -> Iterator[None]:
    namespace, log = lab.namespace_of(member), lab.directory / f"hand-{member.name}.log"
    argv = ("openvpn", "--config", str(lab.directory / profile), "--dev", "hand0", "--dev-type", "tun")
    with log.open("w") as output:
        process = namespace.popen(
            *argv, "--route-noexec", stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        eventually(lambda: "Initialization Sequence Completed" in log.read_text(), 20, "openvpn is up")
        namespace.run("nft", "-f", "-", input=_NAT)
        namespace.run("ip", "route", "add", str(DATACENTRE), "dev", "hand0")
        yield
    finally:
        namespace.run("nft", "delete", "table", "ip", "hand", check=False)
        process.terminate()
        process.wait()
