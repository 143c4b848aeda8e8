"""Is the installed sshuttle one that our changes fit? They replace and use parts that are no public interface
of it.

    check(modules) -> its version, then every name that we replace or use, then one frame through a pair of
    Mux

What does not fit is an Unfit with one sentence, before anything is started.
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from tunnels.drivers.cli import Unfit
from tunnels.kinds.sshuttle import ssnet_patch

VERSIONS = "sshuttle>=1.3.2,<2.1"
_OLDEST, _BEFORE = (1, 3, 2), (2, 1)  # read and tried; with another version our limits may have no effect
_MAX_TURNS = 16  # of the event loop of both ends, for one frame
_SAMPLE = b"one frame"

# What we replace, call or read: names of modules, and of classes in them.
NAMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "client": (
            *("FirewallClient", "FirewallClient.setup", "FirewallClient.start", "FirewallClient.check"),
            *("FirewallClient.sethostip", "FirewallClient.done", "ssh", "sdnotify"),
            *("MultiListener", "MultiListener.bind", "MultiListener.listen", "MultiListener.add_handler"),
        ),
        "cmdline": ("main",),
        "helpers": ("Fatal",),
        "methods": ("BaseMethod", "BaseMethod.get_tcp_dstip"),
        "sdnotify": ("send",),
        "ssh": ("connect", "get_module_source"),
        "ssnet": (
            *("Fatal", "LATENCY_BUFFER_SIZE", "cmd_to_name", "log", "runonce", "_add"),
            *(
                "CMD_EXIT",
                "CMD_PING",
                "CMD_PONG",
                "CMD_ROUTES",
                "CMD_HOST_REQ",
                "CMD_HOST_LIST",
                "CMD_DNS_REQ",
            ),
            *("CMD_UDP_OPEN", "CMD_TCP_CONNECT", "CMD_TCP_DATA", "CMD_TCP_EOF", "CMD_TCP_STOP_SENDING"),
            *("Handler", "Mux", "MuxWrapper", "Proxy", "SockWrapper"),
        ),
    }
)

# The same for objects, looked up in objects that were really made: attributes are set by constructors.
ATTRIBUTES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "Mux": (
            *("channels", "fullness", "too_full", "outbuf", "rfile", "wfile", "new_channel", "ok", "socks"),
            *("send", "flush", "handle", "got_packet", "next_channel", "pre_select", "callback"),
        ),
        "MuxWrapper": ("mux", "channel", "buf", "shut_read", "uwrite", "too_full", "got_packet"),
        "Proxy": ("wrap1", "wrap2", "ok", "socks", "pre_select", "callback"),
        "SockWrapper": ("buf", "connect_to", "shut_read", "shut_write", "try_connect", "seterr"),
    }
)
# The same for names that older versions do not have, by the version that brought them.
_SINCE: Mapping[tuple[int, ...], Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {(2, 0): {"ssh": ("parse_hostname",), "ssnet": ("Handler.dispose", "Proxy.dispose")}}
)


def check(modules: Mapping[str, Any], version: str) -> None:
    """Check these modules of sshuttle, and change `ssnet` (`ssnet_patch.install`). Unfit: they do not fit."""
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
    if not _OLDEST <= numbers < _BEFORE:
        raise _unfit(version)
    known = [NAMES, *(names for since, names in _SINCE.items() if numbers >= since)]
    _require(
        f"{module}.{name}"
        for names in known
        for module in names
        for name in names[module]
        if not _has(modules[module], name)
    )
    ssnet = modules["ssnet"]
    try:
        with contextlib.ExitStack() as stack:
            _require_attributes(ssnet, stack)
            ssnet_patch.install(vars(ssnet))
            _try_out(ssnet, stack)
    except (*_FAULTS, ssnet.Fatal) as error:
        raise _unfit(f"it carries nothing ({error!r})") from error


# of code that does not fit
_FAULTS = (AssertionError, AttributeError, LookupError, OSError, TypeError, ValueError)


def _unfit(what: str) -> Unfit:
    return Unfit(f"this version of sshuttle cannot be used: {what}; install {VERSIONS}")


def _require(missing: Iterator[str]) -> None:
    if names := ", ".join(f"sshuttle.{name}" for name in missing):
        raise _unfit(f"it has no {names}")


def _has(owner: Any, path: str) -> bool:
    name, _, rest = path.partition(".")
    return hasattr(owner, name) and (not rest or _has(getattr(owner, name), rest))


def _require_attributes(ssnet: Any, stack: contextlib.ExitStack) -> None:
    """Make one object of each class, unchanged, and look for what we use of it."""
    sock, _ = _socketpair(stack)
    mux = _require_of("Mux", _mux(ssnet, stack, sock))
    wrapper = _require_of("MuxWrapper", ssnet.MuxWrapper(mux, 1))
    sock_wrapper = _require_of("SockWrapper", ssnet.SockWrapper(sock, sock))
    _require_of("Proxy", ssnet.Proxy(sock_wrapper, wrapper))


def _require_of(name: str, made: Any) -> Any:
    _require(f"ssnet.{name}.{each}" for each in ATTRIBUTES[name] if not hasattr(made, each))
    return made


# --- one frame through a pair
# ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _End:
    """One end of a session: its Mux, and everything that its event loop handles."""

    mux: Any
    handlers: list[Any]

    def turn(self, ssnet: Any) -> bool:
        """Run the event loop once, if something is ready: else it would wait."""
        to_read: dict[Any, bool] = {}
        to_write: dict[Any, bool] = {}
        for handler in self.handlers:
            handler.pre_select(to_read, to_write, {})
        if not any(select.select(list(to_read), list(to_write), [], 0)):
            return False
        ssnet.runonce(self.handlers, self.mux)
        return True


def _try_out(ssnet: Any, stack: contextlib.ExitStack) -> None:
    """staff -> SockWrapper -> Mux -> Mux -> SockWrapper -> service, all of it in this process."""
    mux, remote_mux = (_mux(ssnet, stack, end) for end in _socketpair(stack))
    staff, accepted = _socketpair(stack)
    service, connected = _socketpair(stack)
    here, there = _End(mux, [mux]), _End(remote_mux, [remote_mux])

    def new_channel(channel: int, data: bytes) -> None:
        there.handlers.append(_proxy(ssnet, connected, remote_mux, channel))

    remote_mux.new_channel = new_channel
    channel = mux.next_channel()
    mux.send(channel, ssnet.CMD_TCP_CONNECT, b"2,192.0.2.1,80")
    here.handlers.append(_proxy(ssnet, accepted, mux, channel))
    staff.sendall(_SAMPLE)
    service.setblocking(False)
    for _ in range(_MAX_TURNS):
        here.turn(ssnet)
        there.turn(ssnet)
        with contextlib.suppress(BlockingIOError):
            if service.recv(len(_SAMPLE)) != _SAMPLE:
                raise ValueError("a frame arrived changed")
            return
    raise ValueError("a frame did not arrive")


def _proxy(ssnet: Any, sock: socket.socket, mux: Any, channel: int) -> Any:
    return ssnet.Proxy(ssnet.SockWrapper(sock, sock), ssnet.MuxWrapper(mux, channel))


def _mux(ssnet: Any, stack: contextlib.ExitStack, end: socket.socket) -> Any:
    rfile, wfile = end.makefile("rb", buffering=0), end.makefile("wb", buffering=0)
    return ssnet.Mux(stack.enter_context(rfile), stack.enter_context(wfile))


def _socketpair(stack: contextlib.ExitStack) -> tuple[socket.socket, socket.socket]:
    one, other = socket.socketpair()
    return stack.enter_context(one), stack.enter_context(other)
