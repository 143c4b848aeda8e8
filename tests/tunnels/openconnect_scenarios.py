"""What can happen to a session of openconnect, made to happen for real: used by the root tests, and to
write the transcripts.

`python -m tests.tunnels.openconnect_scenarios` as root writes the transcripts anew. Look at what changed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyotp

from tests.lab.ocserv import TOTP
from tests.tunnels.driver import ClientRun
from tests.tunnels.openconnect_lab import SERVER, OpenConnectLab, laboratory
from tunnels.base import Reason

FOLDER = Path(__file__).parent / "transcripts" / "openconnect"
BANS = {"max-ban-score": 20, "min-reauth-time": 300}  # two wrong passwords


@dataclass(frozen=True)
class OpenconnectScenario:
    """One session: how it is played to its end, and why it must fail (None: it stays connected)."""

    name: str
    reason: Reason | None
    start: Callable[[OpenConnectLab], ClientRun]
    disturb: Callable[[OpenConnectLab, ClientRun], object] | None = None
    slow: bool = False

    def play(self, lab: OpenConnectLab) -> ClientRun:
        """Run it to its observation; the client is gone afterwards."""
        run = self.start(lab)
        try:
            if self.disturb is not None or self.reason is None:
                run.connected()
            if self.disturb is not None:
                self.disturb(lab, run)
            if self.reason is not None:
                run.failed()
        finally:
            run.stop()
        return run


def _password(lab: OpenConnectLab) -> ClientRun:
    lab.serving()
    return lab.run()


def _code(lab: OpenConnectLab, code: Callable[[], str]) -> ClientRun:
    lab.serving("code")
    run = lab.run()
    run.asked()
    run.answer(code())
    return run


def _shown(lab: OpenConnectLab, inputs: Mapping[str, bytes]) -> ClientRun:
    lab.serving("certificate")
    return lab.run(inputs)


def _key_of_another(lab: OpenConnectLab) -> Mapping[str, bytes]:
    return {**lab.certificate(), "key": lab.certificate(lab.stranger)["key"]}


def _banned(lab: OpenConnectLab) -> ClientRun:
    server = lab.serving("password", **BANS)
    for _ in range(10):
        run = lab.run(password="wrong")
        reason = run.failed().reason
        run.stop()
        if reason is not Reason.AUTH:
            break
    assert server.logins <= 3
    return lab.run()


def _kept_refused(lab: OpenConnectLab) -> ClientRun:
    server = lab.serving()
    first = lab.run()
    first.connected()
    server.throw_out()
    first.failed()
    first.stop()
    return lab.resume(first)


def _second(lab: OpenConnectLab) -> ClientRun:
    lab.serving()
    first = lab.run()
    first.connected()
    run = lab.run()
    run.failed()
    first.stop()
    return run


SCENARIOS = (
    OpenconnectScenario("connected", None, _password),
    OpenconnectScenario(
        "login-refused", Reason.AUTH, lambda lab: (lab.serving(), lab.run(password="wrong"))[1]
    ),
    OpenconnectScenario(
        "pin-wrong",
        Reason.CERTIFICATE,
        lambda lab: (lab.serving(), lab.run(server_certificate=f"pin-sha256:{'A' * 43}="))[1],
    ),
    OpenconnectScenario(
        "server-untrusted",
        Reason.CERTIFICATE,
        lambda lab: (lab.serving(), lab.run(server_certificate=None))[1],
    ),
    OpenconnectScenario(
        "other-protocol", Reason.CLIENT_CONFIG, lambda lab: (lab.serving(), lab.run(protocol="gp"))[1]
    ),
    OpenconnectScenario("closed", Reason.NETWORK, lambda lab: lab.run(server=f"{SERVER}:444")),
    OpenconnectScenario("no-route", Reason.NETWORK, lambda lab: lab.run(server="203.0.113.9")),
    OpenconnectScenario("no-name", Reason.DNS, lambda lab: lab.run(server="vpn.nowhere.invalid")),
    OpenconnectScenario(
        "thrown-out", Reason.PEER_CLOSED, _password, lambda lab, run: lab.serving().throw_out()
    ),
    OpenconnectScenario("kept-refused", Reason.SESSION_EXPIRED, _kept_refused),
    OpenconnectScenario("second-session", Reason.FAR_END_FULL, _second),
    OpenconnectScenario("server-killed", Reason.NETWORK, _password, lambda lab, run: lab.serving().kill()),
    OpenconnectScenario("connected-code", None, lambda lab: _code(lab, pyotp.TOTP(TOTP).now)),
    OpenconnectScenario("code-refused", Reason.AUTH, lambda lab: _code(lab, lambda: "000000")),
    OpenconnectScenario("connected-certificate", None, lambda lab: _shown(lab, lab.certificate())),
    OpenconnectScenario(
        "certificate-expired", Reason.OUR_CERTIFICATE, lambda lab: _shown(lab, lab.certificate(expired=True))
    ),
    OpenconnectScenario(
        "certificate-refused", Reason.HANDSHAKE, lambda lab: _shown(lab, lab.certificate(lab.stranger))
    ),
    OpenconnectScenario("certificate-missing", Reason.HANDSHAKE, lambda lab: _shown(lab, {})),
    OpenconnectScenario("key-of-another", Reason.KEY, lambda lab: _shown(lab, _key_of_another(lab))),
    OpenconnectScenario("banned", Reason.BANNED, _banned),
    OpenconnectScenario(
        "session-over",
        Reason.SESSION_EXPIRED,
        lambda lab: (lab.serving("password", **{"session-timeout": 4}), lab.run())[1],
        lambda lab, run: None,
        slow=True,
    ),
)


def main() -> None:
    """Record all scenarios."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with laboratory() as lab:
        for scenario in SCENARIOS:
            if not sys.argv[1:] or scenario.name in sys.argv[1:]:
                text = "".join(f"{line}\n" for line in scenario.play(lab).transcript)
                (FOLDER / f"{scenario.name}.txt").write_text(
                    re.sub(r'((?:webvpn|strapkey)=)[^;"\\]+', r"\1AAAA", text)
                )


if __name__ == "__main__":
    main()
