"""Whether an OpenVPN server's configuration fits a sidecar (`facilitator-hub doctor`). Pure.

Each check is one function of the options; what is wrong is one sentence, and what to write instead.
"""

from __future__ import annotations

import enum
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from hub.core.openvpn.profile import HAND_WINDOW_SECONDS

_INLINE = re.compile(r"<([a-z0-9-]+)>\s*$", re.ASCII)
_VERSION = re.compile(r"OpenVPN (\d{1,3})\.(\d{1,3})(?:\.(\d{1,3}))?", re.ASCII)
OLDEST_VERSION = (2, 6)  # client-pending-auth names a key since then
NEWEST_TRIED_VERSION = (2, 6)
_LONGEST_SILENCE_SECONDS = 30  # until clients of a crashed server look for another one

Options = Mapping[str, tuple[tuple[str, ...], ...]]


class FindingWeight(enum.StrEnum):
    """How much a finding matters."""

    OK = "ok"
    WARNING = "warning"  # it works, and could be better
    PROBLEM = "problem"  # logins or sessions fail, or are not what they should be


@dataclass(frozen=True, slots=True)
class ServerFinding:
    """One sentence, and the line that helps."""

    weight: FindingWeight
    text: str
    hint: str = ""


def server_options(text: str) -> Options:
    """The options of a configuration file and the parameters of each time that they are given. Inline blocks
    count as the option without parameters.
    """
    found: dict[str, tuple[tuple[str, ...], ...]] = {}
    block: str | None = None
    for line in text.splitlines():
        stripped = line.strip()
        if block is not None:
            block = None if stripped == f"</{block}>" else block
            continue
        words = _words(stripped)
        if not words:
            continue
        if (inline := _INLINE.fullmatch(stripped)) is not None:
            block = inline[1]
            words = [block]
        name = words[0].removeprefix("--")
        found[name] = (*found.get(name, ()), tuple(words[1:]))
    return found


def _words(line: str) -> list[str]:
    if line.startswith(("#", ";")):
        return []
    try:
        return shlex.split(line, comments=True)
    except ValueError:  # a quote that does not end: OpenVPN refuses the line itself
        return line.split()


def server_findings(options: Options, socket: str) -> list[ServerFinding]:
    """All findings; `socket`: `sidecar.management` of our configuration. Never empty."""
    found = [finding for check in _CHECKS for finding in check(options)]
    found += _management(options, socket)
    return found or [ServerFinding(FindingWeight.OK, "the server's configuration fits the sidecar")]


def version_finding(said: str) -> ServerFinding:
    """What `openvpn --version` says."""
    match = _VERSION.search(said)
    if match is None:
        return ServerFinding(
            FindingWeight.PROBLEM, "the version of OpenVPN cannot be read", "openvpn --version"
        )
    version = int(match[1]), int(match[2])
    name = match[0]
    if version < OLDEST_VERSION:
        return ServerFinding(FindingWeight.PROBLEM, f"{name} is too old; the sidecar needs 2.6 or newer")
    if version > NEWEST_TRIED_VERSION:
        return ServerFinding(FindingWeight.WARNING, f"the sidecar was not tried with {name}, only with 2.6")
    return ServerFinding(FindingWeight.OK, name)


def _management(options: Options, socket: str) -> Iterator[ServerFinding]:
    line = f"management {socket} unix"
    given = options.get("management", ())
    if not given:
        yield _problem("it has no management socket, so nobody decides logins", line)
    elif given[-1][1:2] != ("unix",):
        yield _problem("its management interface listens on TCP, where anybody may guess passwords", line)
    elif given[-1][0] != socket:
        yield _problem(f"its management socket is {given[-1][0]}, sidecar.management is {socket}", line)


def _needed(options: Options) -> Iterator[ServerFinding]:
    for option, why in (
        ("management-client-auth", "without it OpenVPN lets everybody with a certificate in, unasked"),
        (
            "management-hold",
            "without it clients can log in before a sidecar knows that the server has started",
        ),
    ):
        if option not in options:
            yield _problem(f"{option} is missing: {why}", option)


def _forbidden(options: Options) -> Iterator[ServerFinding]:
    for option, why in (
        ("management-client", "the server would end whenever the sidecar does"),
        (
            "username-as-common-name",
            "a person would be who the client claims to be, not the one named in the certificate",
        ),
        ("client-cert-not-required", "a person is the one named in the certificate"),
        ("ifconfig-pool", "the session service gives the addresses; two people could get the same one"),
    ):
        if option in options:
            yield _problem(f"{option} must not be there: {why}", f"remove {option}")
    if options.get("verify-client-cert", ((),))[-1][:1] in (("none",), ("optional",)):
        yield _problem("verify-client-cert must be `require`: a person is the one named in the certificate")
    for option in ("auth-user-pass-verify", "client-config-dir", "client-connect", "plugin"):
        if option in options:
            yield _warning(
                f"{option} may refuse what the sidecar allows, or give another address than the service",
                f"remove {option}",
            )
    if "config" in options:
        yield _warning("it includes another file, which is not looked at", "run doctor for that file too")


def _addresses(options: Options) -> Iterator[ServerFinding]:
    server = options.get("server", ())
    if server and "nopool" not in server[-1]:
        yield _problem(
            "`server` makes a pool of addresses; the session service gives them, and an address that OpenVPN "
            "reuses at once would be another person's",
            f"server {' '.join(server[-1][:2])} nopool",
        )
    if options.get("topology", ((),))[-1] != ("subnet",):
        yield _problem("topology is not `subnet`, so an address and a netmask are misread", "topology subnet")
    if "auth-user-pass-optional" not in options:
        yield _problem(
            "clients that have only a certificate are refused before anybody is asked",
            "auth-user-pass-optional",
        )
    if "duplicate-cn" not in options:
        yield _warning(
            "a person's second device ends the first one's session (the service's limit is "
            "sessions.limits.per_person)",
            "duplicate-cn",
        )


_RARE_KEYS_SECONDS = 7 * 86400  # longer than sessions are
_RARE_KEYS = "reneg-sec 2592000"


def _times(options: Options) -> Iterator[ServerFinding]:
    seconds = _number(options, "reneg-sec", 3600)
    tokens = "auth-gen-token" in options
    if tokens and seconds == 0:
        yield _problem("OpenVPN refuses `auth-gen-token` together with `reneg-sec 0`", _RARE_KEYS)
    elif seconds != 0 and not (tokens and seconds >= _RARE_KEYS_SECONDS):
        yield _problem(
            "keys are renegotiated: while no sidecar is there, that stops a client's traffic and ends its "
            "session",
            _RARE_KEYS if tokens else "reneg-sec 0",
        )
    if _number(options, "hand-window", 60) < HAND_WINDOW_SECONDS:
        yield _warning(
            "who approves a login on a phone has less time than the service gives",
            f"hand-window {HAND_WINDOW_SECONDS}",
        )
    keepalive = options.get("keepalive", ())
    silence = int(keepalive[-1][1]) if keepalive and _is_number(keepalive[-1][1:2]) else None
    if silence is None or silence > _LONGEST_SILENCE_SECONDS:
        yield _warning("clients of a crashed server look for another one late", "keepalive 5 20")
    udp = options.get("proto", (("udp",),))[-1][:1] in (("udp",), ("udp4",), ("udp6",))
    if udp and _number(options, "explicit-exit-notify", 0) < 1:
        yield _warning(
            "clients are not told when the server ends, and wait for more than a minute",
            "explicit-exit-notify 2",
        )


def _tokens(options: Options) -> Iterator[ServerFinding]:
    given = options.get("auth-gen-token", ())
    if given and "external-auth" not in given[-1]:
        yield _problem(
            "OpenVPN lets clients with a token in without asking, also after their end",
            f"auth-gen-token {' '.join(given[-1]) or '43200'} external-auth",
        )
    if given and "auth-gen-token-secret" not in options:
        yield _warning(
            "after a restart of OpenVPN, tokens are worth nothing and everybody is asked again",
            "auth-gen-token-secret FILE",
        )


_CHECKS: tuple[Callable[[Options], Iterator[ServerFinding]], ...] = (
    _needed,
    _forbidden,
    _addresses,
    _times,
    _tokens,
)


def _number(options: Options, name: str, otherwise: int) -> int:
    given = options.get(name, ())
    return int(given[-1][0]) if given and _is_number(given[-1][:1]) else otherwise


def _is_number(words: tuple[str, ...]) -> bool:
    return len(words) == 1 and re.fullmatch(r"[0-9]{1,9}", words[0], re.ASCII) is not None


def _problem(text: str, hint: str = "") -> ServerFinding:
    return ServerFinding(FindingWeight.PROBLEM, text, hint)


def _warning(text: str, hint: str = "") -> ServerFinding:
    return ServerFinding(FindingWeight.WARNING, text, hint)
