"""command: any program that creates a tunnel interface, described by the configuration instead of by a
package.

`up:` says how it is known to be up: by a line of its output, by its interface, by sd_notify(3), or by the
first answered probe. For an interface or a probe, tunnels/kinds/command/driver.py watches beside it. Regular
expressions say which lines mean that it failed, and how.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from common.constraints import CheckedBy, NotEmpty
from common.settings import setting
from tunnels.base import (
    Carrier,
    Connected,
    Failed,
    Input,
    Kind,
    Launch,
    LineSource,
    Observation,
    Placement,
    Reason,
    Settings,
    Tunnel,
)
from tunnels.failure_patterns import table
from tunnels.regex import MAX_MATCHED_CHARS, check_sizes, compiled
from tunnels.targets import parse_target

# --- patterns
# ----------------------------------------------------------------------------------------------------------

# The name of a matching group is the reason; without one it is the first.
PERMANENT = (
    Reason.CLIENT_CONFIG,
    Reason.AUTH,
    Reason.CERTIFICATE,
    Reason.CHALLENGE,
    Reason.KEY,
    Reason.KICKED,
    Reason.OUR_CERTIFICATE,
)
TRANSIENT = (
    Reason.NETWORK,
    Reason.BANNED,
    Reason.DNS,
    Reason.FAR_END_FULL,
    Reason.HANDSHAKE,
    Reason.LOCAL,
    Reason.PEER_CLOSED,
    Reason.PEER_TIMEOUT,
    Reason.SESSION_EXPIRED,
)
_FACTS = ("address", "peer")


def _group(reason: Reason) -> str:
    return reason.replace("-", "_")


def _checked(value: str, groups: Iterable[str]) -> str:
    """The pattern. ValueError: it is malformed, or has a group with another name."""
    for name in compiled(value).groupindex.keys() - set(groups):
        raise ValueError(f"{value!r}: a group here can be called {', '.join(sorted(groups))}, not {name}")
    return value


# --- placeholders
# ----------------------------------------------------------------------------------------------------------

# the name of the anonymous file; no word of the configuration can be mistaken for it
_MEMFD = "login.password"
_PLACEHOLDER = re.compile(r"\{\{([a-z_]+)\}\}|\{([a-z_]+)\}")
_IN_ARGV = ("device", "directory", "username", "password_file")
_IN_ENVIRONMENT = ("device", "directory", "username")
_SECRET_OPTION = re.compile(
    r"--?(?:pass(?:word|wd|phrase)?|secret|token|otp|api-?key)(?:=([^/{].*))?", re.IGNORECASE
)
_SECRET_NAME = re.compile(
    r"pass(?:word|wd|phrase)|secret|token|credential|api_?key|private_?key", re.IGNORECASE
)
_IN_URL = re.compile(r"://[^/\s:@]+:[^/\s@]+@")
_HANDED_OVER = (
    "say login.password and {password_file}, which becomes the path of a file that only the program can read"
)


def _check_placeholders(word: str, known: Iterable[str]) -> None:
    for match in _PLACEHOLDER.finditer(word):
        name = match[2]
        if name in ("password", "totp", "code", "secret"):
            raise ValueError(f"{{{name}}}: everybody on this host could read it there; {_HANDED_OVER}")
        if name is not None and name not in known:
            choice = ", ".join(f"{{{each}}}" for each in known)
            raise ValueError(
                f"{{{name}}} is no placeholder here; these are: {choice}; for the text itself write "
                f"{{{{{name}}}}}"
            )


def _filled(word: str, values: Mapping[str, str]) -> str:
    return _PLACEHOLDER.sub(
        lambda match: f"{{{match[1]}}}" if match[1] is not None else values[match[2]], word
    )


def _names(words: Iterable[str]) -> set[str]:
    """The placeholders in these words."""
    return {match[2] for word in words for match in _PLACEHOLDER.finditer(word)} - {None}


# --- the settings
# ----------------------------------------------------------------------------------------------------------


def _fact_pattern(value: str) -> str:
    return _checked(value, _FACTS)


def _checked_argv(value: tuple[str, ...]) -> tuple[str, ...]:
    for word, after in zip(value, (*value[1:], ""), strict=True):
        _check_placeholders(word, _IN_ARGV)
        if "\0" in word or not value[0]:
            raise ValueError("argv: the program's name is missing, or a word holds a zero character")
        option = _SECRET_OPTION.fullmatch(word)
        if _IN_URL.search(word) or (
            option and (option[1] or ("=" not in word and after[:1] not in ("", "-", "/", "{")))
        ):
            raise ValueError(
                f"a secret on the command line could be read by everybody on this host; {_HANDED_OVER}"
            )
    return value


def _permanent_patterns(value: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_checked(pattern, map(_group, PERMANENT)) for pattern in value)


def _transient_patterns(value: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_checked(pattern, map(_group, TRANSIENT)) for pattern in value)


def _checked_environment(value: Mapping[str, str]) -> Mapping[str, str]:
    for name, text in value.items():
        if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name, re.ASCII) is None or "\0" in text:
            raise ValueError(f"{name!r} cannot be an environment variable")
        _check_placeholders(text, _IN_ENVIRONMENT)
        if (_SECRET_NAME.search(name) and not text.startswith(("/", "{"))) or _IN_URL.search(text):
            raise ValueError(f"{name}: a secret is never written here; {_HANDED_OVER} (in argv)")
    return value


class Up(Settings):
    """How the program is known to be up; exactly one of these."""

    whole: ClassVar[bool] = True

    line: Annotated[str, CheckedBy(_fact_pattern)] | None = setting(
        default=None,
        description="a regular expression (RE2): a line of its output; groups named address and peer are "
        "shown",
    )
    device: str | None = setting(
        default=None,
        description="name of the interface that it creates: as soon as that is up and has an address",
    )
    notify: bool = setting(
        default=False, description="true: it says READY=1 on its NOTIFY_SOCKET (sd_notify)"
    )
    probe: bool = setting(
        default=False,
        description="true: as soon as its interface is up and a target of the probe answers through it",
    )

    def check(self) -> None:
        """It is exactly one."""
        if sum((self.line is not None, self.device is not None, self.notify, self.probe)) != 1:
            raise ValueError("up is one of {line: REGEX}, {device: NAME}, {notify: true} and {probe: true}")


class Command(Tunnel):
    """A tunnel of kind command."""

    kind: Literal["command"] = setting(
        default="command", description="any program that creates a tunnel interface"
    )
    argv: Annotated[tuple[str, ...], NotEmpty(), CheckedBy(_checked_argv)] = setting(
        description="the program and its arguments, no shell; {device}, {directory}, {username} and "
        "{password_file} are filled in"
    )
    up: Up = setting(description="how it is known to be up")
    permanent: Annotated[tuple[str, ...], CheckedBy(_permanent_patterns)] = setting(
        default=(), description="regular expressions (RE2): lines after which trying again is useless"
    )
    transient: Annotated[tuple[str, ...], CheckedBy(_transient_patterns)] = setting(
        default=(), description="regular expressions (RE2): lines after which it is restarted"
    )
    reads: tuple[Path, ...] = setting(
        default=(),
        description="files and directories that it opens, beside the system's and those that argv names",
    )
    writes: tuple[Path, ...] = setting(
        default=(),
        description="files and directories that it changes, beside its own directory; [/] closes nothing",
    )
    environment: Annotated[Mapping[str, str], CheckedBy(_checked_environment)] = setting(
        default_factory=dict,
        description="variables beside PATH and LANG, no secrets; {device}, {directory} and {username} are "
        "filled in",
    )

    @classmethod
    def long_form(cls, value: Any) -> Any:
        """`up.device` is the tunnel's device."""
        named = (
            value["up"].get("device")
            if isinstance(value, dict) and isinstance(value.get("up"), dict)
            else None
        )
        if isinstance(named, str) and value.get("device") is None:
            return {**value, "device": named}
        return value

    def check(self) -> None:
        """Everything that it needs is there, and its patterns are not too large."""
        used = _names((*self.argv, *self.environment.values()))
        check_sizes((*self.permanent, *self.transient, *(() if self.up.line is None else (self.up.line,))))
        if self.up.device not in (None, self.device):
            raise ValueError(f"device: {self.device} and up.device: {self.up.device} must be the same")
        if self.device is None and "device" not in used:
            raise ValueError(
                "which interface is the tunnel's? Put {device} into argv or environment, or name under "
                "device: what it creates"
            )
        if "username" in used and self.login.username is None:
            raise ValueError("{username} is login.username, which is missing")
        if "password_file" in used and self.login.password is None:
            raise ValueError("{password_file} holds login.password, which is missing")
        if self.up.probe and not any(
            parse_target(target).address.version == 4 for target in self.probe.targets
        ):
            raise ValueError("up: {probe: true} needs probe.targets with an IPv4 address")


# --- the launch
# ----------------------------------------------------------------------------------------------------------


def _inputs(tunnel: Command) -> tuple[Input, ...]:
    password = tunnel.login.password
    return (
        (Input("password", password),)
        if password is not None and "password_file" in _names(tunnel.argv)
        else ()
    )


def _uses(tunnel: Command) -> frozenset[str]:
    """Its account is used as far as it is filled in; nobody can ask for a code."""
    filled = _names((*tunnel.argv, *tunnel.environment.values()))
    username = ("login.username",) if "username" in filled else ()
    password = ("login.password",) if "password_file" in filled else ()
    return frozenset(("device", *username, *password))


def _launch(tunnel: Command, place: Placement, inputs: Mapping[str, bytes]) -> Launch:
    values = {
        "device": place.device,
        "directory": str(place.directory),
        "username": tunnel.login.username or "",
        "password_file": f"/proc/self/fd/{{{_MEMFD}}}",
    }
    return Launch(
        argv=(*_watched(tunnel, place), *(_filled(word, values) for word in tunnel.argv)),
        environment={name: _filled(text, values) for name, text in tunnel.environment.items()},
        files={_MEMFD: inputs["password"]} if "password" in inputs else {},
        notify=tunnel.up.line is None,
        reads=(*tunnel.reads, *_paths((*tunnel.argv, *tunnel.environment.values()))),
        writes=tunnel.writes,
    )


def _paths(words: Iterable[str]) -> Iterator[Path]:
    """Absolute paths in these words, as in `/etc/acme.conf` and `--config=/etc/acme.conf`."""
    for word in words:
        path = word if word.startswith("/") else word.partition("=")[2]
        if path.startswith("/") and "{" not in path and "\0" not in path:
            yield Path(path)


def _watched(tunnel: Command, place: Placement) -> tuple[str, ...]:
    """The driver's command line, if somebody has to watch the interface."""
    if tunnel.up.device is None and not tunnel.up.probe:
        return ()
    targets = (
        target
        for target in tunnel.probe.targets
        if tunnel.up.probe and parse_target(target).address.version == 4
    )
    probes = (word for target in targets for word in ("--probe", target))
    return (
        place.python,
        "-I",
        "-m",
        "tunnels.kinds.command.driver",
        "--device",
        place.device,
        "--mark",
        str(place.mark),
        *probes,
        "--",
    )


# --- what it says
# ----------------------------------------------------------------------------------------------------------

_OURS = table(
    (
        r"^facilitator: (\S+) cannot be run: No such file or directory$",
        Reason.MISSING_BINARY,
        "{1} is not installed",
    ),
    (r"^facilitator: (\S+ cannot be run: Permission denied)$", Reason.MISSING_RIGHT, "{1}"),
    (r"^facilitator: (\S+ cannot be run: .+)$", Reason.LOCAL, "{1}"),
)
Explain = Callable[[str], Failed | None]


class CommandDialogue:
    """The dialogue of one program. Reports one failure and is silent after it."""

    def __init__(self, tunnel: Command) -> None:
        self._up = None if tunnel.up.line is None else compiled(tunnel.up.line)
        self._permanent, self._transient = (
            [compiled(pattern) for pattern in each] for each in (tunnel.permanent, tunnel.transient)
        )
        self._failed = False
        self._facts: dict[str, str] = {}

    def receive(self, source: LineSource, line: str) -> Iterator[Observation]:
        """Take one line and return what it means."""
        if self._failed:
            return
        if source is LineSource.NOTIFY:
            yield from self._notified(line)
        elif source is LineSource.OUTPUT:
            yield from self._printed(line[:MAX_MATCHED_CHARS])

    def answer(self, text: str) -> Iterator[Observation]:
        """An unknown program asks nothing."""
        return iter(())

    def _notified(self, line: str) -> Iterator[Observation]:
        name, _, value = line.partition("=")
        if name in ("X_ADDRESS", "X_PEER"):
            self._facts[name[2:].lower()] = value
        elif line == "READY=1":
            yield _connected(self._facts)

    def _printed(self, line: str) -> Iterator[Observation]:
        failed = (
            _first(self._permanent, line, PERMANENT[0])
            or _first(self._transient, line, TRANSIENT[0])
            or _of_ours(line)
        )
        if failed is not None:
            self._failed = True
            yield failed
        elif self._up is not None and (match := self._up.search(line)):
            yield _connected({name: text for name, text in match.groupdict().items() if text is not None})


def _of_ours(line: str) -> Failed | None:
    return next(
        (
            Failed(reason, text.format(match[0], *match.groups()))
            for pattern, reason, text in _OURS
            if (match := pattern.search(line))
        ),
        None,
    )


def _first(patterns: Iterable[Any], line: str, otherwise: Reason) -> Failed | None:
    for pattern in patterns:
        if match := pattern.search(line):
            named = next((name for name, text in match.groupdict().items() if text is not None), None)
            return Failed(otherwise if named is None else Reason(named.replace("_", "-")), line)
    return None


def _connected(facts: Mapping[str, str]) -> Connected:
    found = _address(facts.get("address", ""))
    address, address6 = (None, found) if found is not None and ":" in found else (found, None)
    return Connected(address=address, address6=address6, peer=facts.get("peer"), on_interface=True)


def _address(text: str) -> str | None:
    try:
        return str(ip_address(text))
    except ValueError:
        return None


def _dialogue(tunnel: Command, inputs: Mapping[str, bytes]) -> CommandDialogue:
    return CommandDialogue(tunnel)


COMMAND = Kind(
    name="command",
    options=Command,
    carrier=Carrier.DEVICE,
    inputs=_inputs,
    launch=_launch,
    dialogue=_dialogue,
    binaries=(),
    allows_parallel=lambda tunnel: "device" in _names((*tunnel.argv, *tunnel.environment.values())),
    uses=_uses,
)
