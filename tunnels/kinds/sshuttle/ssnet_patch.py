"""Changes sshuttle's module `ssnet`, on this host and at the remote end: sshuttle sends that module's source
to the remote host, and the text of this file goes along (`package.remote_source`).

It makes sshuttle faster:

- sshuttle cuts what it carries into frames of 2 KiB, and each costs a dozen Python calls on either side. A
frame
  contains its own length, so every other end understands larger ones too.
- sshuttle writes each queued frame by itself, in a turn of the event loop of its own. Here all queued frames
are one
  write.
- sshuttle asks every connection in each turn what it waits for, by a search through lists as long as there
are
  connections, and after each frame every connection tries to read and to write. So a hundred idle connections
  make all others slow. Here connections with nothing to do are skipped.

And it bounds the memory of sshuttle, because one connection must not cost the others theirs, and the remote
end may be hostile:

- A connection whose reader is slow is paused: the other end stops reading from its source until there is
room.
  sshuttle itself would hold in memory whatever the reader has not read.
- An end that sends on regardless, or that makes this one queue answers faster than it takes them, ends the
session. - A connection that the system refuses to open (no descriptor left, no such address family) is
refused; sshuttle
  itself would end.

The remote host may have an old Python: this file must import nothing but the standard library, and use no
syntax newer than Python 3.6.
"""

import select
from typing import Any

FRAME_BYTES = 32 << 10  # of data in a frame at most
TURN_BYTES = 1 << 20  # that all connections together may queue in one turn of the loop
# that may wait for the other end; an honest one leaves little more than TURN_BYTES
MAX_QUEUED_BYTES = 16 << 20
MAX_HELD_BYTES = 128 << 20  # that may wait for slow readers; an honest end stops far below, see CROWDED_BYTES
CROWDED_BYTES = 32 << 20  # held for slow readers from which on each of them gets little room
PIECE_OVERHEAD_BYTES = 64  # that Python needs for any piece of data, however short
MAX_DESCRIPTORS = 1024  # the largest number that select(2) can watch

CMD_TCP_PAUSE, CMD_TCP_RESUME = 0x42F0, 0x42F1  # commands of ours, beside sshuttle's
_WITHOUT_CHANNEL = (
    "CMD_EXIT",
    "CMD_PING",
    "CMD_PONG",
    "CMD_ROUTES",
    "CMD_HOST_REQ",
    "CMD_HOST_LIST",
    "CMD_TCP_CONNECT",
    "CMD_DNS_REQ",
    "CMD_UDP_OPEN",
)


def install(ssnet: Any) -> None:
    """Replace parts of the module whose namespace (`vars` of it) this is. Once per module."""
    ssnet["cmd_to_name"].update({CMD_TCP_PAUSE: "TCP_PAUSE", CMD_TCP_RESUME: "TCP_RESUME"})
    flow_control = FlowControl(ssnet["Fatal"])
    _patch_mux_input(ssnet)
    _patch_mux_output(ssnet["Mux"])
    _patch_wrappers(ssnet, flow_control)
    _patch_loop(ssnet, flow_control)


def limit_descriptors() -> None:
    """Let this process open no descriptor that select(2) cannot watch: opening a connection fails instead."""
    try:
        import resource

        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        soft = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(MAX_DESCRIPTORS, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    except (ImportError, OSError, ValueError):
        pass


class FlowControl:
    """Pauses the sources of slow readers, and ends the session with an end that floods this one."""

    def __init__(self, fatal: Any) -> None:
        """`fatal`: the exception that ends a session."""
        self._fatal = fatal
        self._holding: Any = set()  # MuxWrappers whose reader has not read everything yet
        self._paused: Any = set()  # of these, those whose source was told to pause
        self._taken = 0  # bytes for readers since the last look at what they hold

    def took(self, wrapper: Any, size: int) -> None:
        """Note that the wrapper got that many bytes for its reader."""
        self._holding.add(wrapper)
        self._taken += size + PIECE_OVERHEAD_BYTES

    def regulate(self, mux: Any) -> None:
        """Look at what is held, at most once for a few frames. Once in each turn of the loop."""
        if mux.outbuf and _size(mux.outbuf) > MAX_QUEUED_BYTES:
            limit = MAX_QUEUED_BYTES >> 20
            raise self._fatal(f"the other end floods this one: more than {limit} MiB wait to be sent to it")
        if self._taken < 4 * FRAME_BYTES and not self._paused:
            return
        self._taken = 0
        sizes = {each: _size(each.buf) for each in self._holding}
        held = sum(sizes.values())
        if held > MAX_HELD_BYTES:
            limit = MAX_HELD_BYTES >> 20
            raise self._fatal(f"the other end floods this one: more than {limit} MiB wait for slow readers")
        room = FRAME_BYTES if held > CROWDED_BYTES else 8 * FRAME_BYTES
        for each, size in sizes.items():
            self._pause_or_resume(mux, each, size, room)

    def _pause_or_resume(self, mux: Any, wrapper: Any, size: int, room: int) -> None:
        if not size:
            self._holding.discard(wrapper)
        if wrapper.shut_read:
            self._paused.discard(wrapper)
        elif size > room and wrapper not in self._paused:
            self._paused.add(wrapper)
            mux.send(wrapper.channel, CMD_TCP_PAUSE, b"")
        elif size <= room // 2 and wrapper in self._paused:
            self._paused.discard(wrapper)
            mux.send(wrapper.channel, CMD_TCP_RESUME, b"")


def _size(pieces: Any) -> int:
    return sum(map(len, pieces)) + PIECE_OVERHEAD_BYTES * len(pieces)


def _patch_mux_input(ssnet: Any) -> None:
    """A frame that the protocol does not allow ends the session; one for a connection that is closed is
    ignored.
    """
    mux_class, fatal, known = ssnet["Mux"], ssnet["Fatal"], ssnet["cmd_to_name"]
    handle_original, got_packet_original = mux_class.handle, mux_class.got_packet
    without_channel = {ssnet[name] for name in _WITHOUT_CHANNEL}

    def got_packet(self: Any, channel: int, cmd: int, data: bytes) -> None:
        if cmd == ssnet["CMD_EXIT"]:
            raise fatal("the other end has ended the session")
        if cmd not in known:
            raise fatal(f"the other end breaks the protocol: there is no command {cmd:#x}")
        if cmd not in without_channel and not self.channels.get(channel):
            return  # was under way when the connection was closed
        try:
            got_packet_original(self, channel, cmd, data)
        except OSError as error:
            if cmd != ssnet["CMD_TCP_CONNECT"]:
                raise
            ssnet["log"](f"cannot open a connection: {error}")
            self.send(channel, ssnet["CMD_TCP_EOF"], b"")
            self.send(channel, ssnet["CMD_TCP_STOP_SENDING"], b"")

    def handle(self: Any) -> None:
        try:
            handle_original(self)
        except (fatal, OSError, MemoryError):
            raise
        except Exception as error:
            raise fatal(f"the other end breaks the protocol: {error!r}") from error

    mux_class.got_packet, mux_class.handle = got_packet, handle


def _patch_mux_output(mux_class: Any) -> None:
    """All frames that wait are written at once."""
    flush_original = mux_class.flush

    def flush(self: Any) -> None:
        if len(self.outbuf) > 1:
            self.outbuf[:] = [b"".join(self.outbuf)]
        flush_original(self)

    mux_class.flush = flush


def _patch_wrappers(ssnet: Any, flow_control: FlowControl) -> None:
    """Connections: larger frames, pauses, and a connection that cannot be opened ends alone."""
    mux_wrapper, sock_wrapper, cmd_tcp_data = ssnet["MuxWrapper"], ssnet["SockWrapper"], ssnet["CMD_TCP_DATA"]
    got_packet_original, try_connect_original = mux_wrapper.got_packet, sock_wrapper.try_connect

    def uwrite(self: Any, data: bytes) -> int:
        if self.mux.too_full or self.paused or self.mux.fullness > TURN_BYTES:
            return 0
        frame = data[:FRAME_BYTES]
        self.mux.send(self.channel, cmd_tcp_data, frame)
        return len(frame)

    def too_full(self: Any) -> bool:
        return bool(self.mux.too_full or self.paused)

    def got_packet(self: Any, cmd: int, data: bytes) -> None:
        if cmd == cmd_tcp_data:
            self.buf.append(data)
            flow_control.took(self, len(data))
        elif cmd == CMD_TCP_PAUSE:
            self.paused = True
        elif cmd == CMD_TCP_RESUME:
            self.paused = False
        else:
            got_packet_original(self, cmd, data)

    def try_connect(self: Any) -> None:
        try:
            try_connect_original(self)
        except OSError as error:
            self.connect_to = None
            self.seterr(error)

    mux_wrapper.uwrite, mux_wrapper.too_full, mux_wrapper.got_packet = uwrite, too_full, got_packet
    mux_wrapper.paused = False  # by the other end
    sock_wrapper.try_connect = try_connect


def _patch_loop(ssnet: Any, flow_control: FlowControl) -> None:
    """The event loop: its cost in a turn depends on the connections that have something to do, not on all."""
    mux_class, proxy_class = ssnet["Mux"], ssnet["Proxy"]

    def call_back(handlers: Any, ready: Any, own: Any) -> None:
        for each in list(handlers):
            idle = type(each) is proxy_class and _is_idle(each.wrap1, each.wrap2)
            candidates = own if idle else ready
            for sock in [sock for sock in each.socks if sock in candidates]:
                each.callback(sock)
                if type(each) in (mux_class, proxy_class):
                    break  # one call does everything that these can do

    def runonce(handlers: Any, mux: Any) -> None:
        _remove_closed(handlers)
        to_read: Any = {}
        to_write: Any = {}
        for each in handlers:
            each.pre_select(to_read, to_write, {})
        readable, writable, _ = select.select(list(to_read), list(to_write), [])
        ready = set(readable) | set(writable)
        call_back(handlers, ready, ready - {mux.rfile, mux.wfile})
        flow_control.regulate(mux)

    def add(socks: Any, elem: Any) -> None:
        socks[elem] = True

    ssnet["runonce"], ssnet["_add"] = runonce, add


def _remove_closed(handlers: Any) -> None:
    for closed in [each for each in handlers if not each.ok]:
        handlers.remove(closed)
        if hasattr(closed, "dispose"):  # since sshuttle 2.0
            closed.dispose()


def _is_idle(one: Any, two: Any) -> bool:
    """Both sides of a connection are open and hold nothing: only its own socket can bring it work."""
    busy = one.buf or two.buf or one.connect_to or two.connect_to
    return not (busy or one.shut_read or one.shut_write or two.shut_read or two.shut_write)
