"""What runs in sshuttle's module `ssnet`, here and at the remote side: sshuttle sends that module's source
there.

It makes sshuttle faster:

- What is carried is cut into frames of 2 KiB, each of which costs a dozen Python calls on either side. A
  frame says its own length, so
  any other end understands larger ones too.
- Each frame that waits is written by itself, in a turn of the loop of its own.
- In each turn every connection is asked what it waits for, by a search through lists as long as there are
  connections, and after each
  frame every connection tries to read and to write. So a hundred that are idle make all others slow, and
  where the CPU is scarce more
  connections mean less done, until nothing is. Here those that have nothing to do are left alone.

And it bounds what sshuttle holds in memory, because one connection must not cost all others theirs, and the
remote side may be hostile:

- A connection whose reader is slow is paused: the other end stops reading from its source until there is
  room. sshuttle itself would
  hold in memory whatever the reader has not read.
- Whoever sends on regardless, or makes this end queue answers faster than it takes them, ends the session.
- A connection that the system refuses to open (no descriptor is left, no such address family) is refused;
  sshuttle itself would end.
"""

from __future__ import annotations

PIECE = 32 << 10  # bytes of a frame at most
AT_ONCE = 1 << 20  # bytes that all connections together may queue in one turn of the loop
MOST_QUEUED = (
    16 << 20
)  # bytes that may wait to be sent to the other end; an honest one leaves little more than AT_ONCE
MOST_HELD = 128 << 20  # bytes that may wait for slow readers; an honest end stops far below, see CROWDED
CROWDED = 32 << 20  # bytes for slow readers from which on each of them gets little room
OVERHEAD = 64  # bytes that Python needs for any piece of data, however short

SSNET = (
    f"""
PIECE, AT_ONCE, MOST_QUEUED, MOST_HELD, CROWDED, OVERHEAD = {PIECE}, {AT_ONCE}, {MOST_QUEUED}, {MOST_HELD}, {CROWDED}, {OVERHEAD}
""".encode()
    + b"""
CMD_TCP_PAUSE, CMD_TCP_RESUME = 0x42f0, 0x42f1
cmd_to_name.update({CMD_TCP_PAUSE: "TCP_PAUSE", CMD_TCP_RESUME: "TCP_RESUME"})
_OF_NO_CHANNEL = {CMD_EXIT, CMD_PING, CMD_PONG, CMD_ROUTES, CMD_HOST_REQ, CMD_HOST_LIST, CMD_TCP_CONNECT, CMD_DNS_REQ, CMD_UDP_OPEN}
_holding = set()        # those whose reader has not read everything yet
_halted = set()         # of these, those whose other end was told to pause
_taken = 0              # bytes for readers since the last look at what they hold


def _stay_below_the_limit_of_select():
    try:
        import resource
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        soft = 1024 if most == resource.RLIM_INFINITY else min(1024, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, most))
    except (ImportError, OSError, ValueError):
        pass


def _uwrite(self, data):
    if self.mux.too_full or self.paused or self.mux.fullness > AT_ONCE:
        return 0
    frame = data[:PIECE]
    self.mux.send(self.channel, CMD_TCP_DATA, frame)
    return len(frame)


def _too_full(self):
    return self.mux.too_full or self.paused


def _take(self, cmd, data):
    global _taken
    if cmd == CMD_TCP_DATA:
        self.buf.append(data)
        _holding.add(self)
        _taken += len(data) + OVERHEAD
    elif cmd == CMD_TCP_PAUSE:
        self.paused = True
    elif cmd == CMD_TCP_RESUME:
        self.paused = False
    else:
        _take_first(self, cmd, data)


def _try_connect(self):
    try:
        _try_connect_first(self)
    except OSError as error:
        self.connect_to = None
        self.seterr(error)


def _got_packet(self, channel, cmd, data):
    if cmd == CMD_EXIT:
        raise Fatal("the other end has ended the session")
    if cmd not in cmd_to_name:
        raise Fatal("the other end breaks the protocol: there is no command %#x" % cmd)
    if cmd not in _OF_NO_CHANNEL and not self.channels.get(channel):
        return      # what was under way when the connection was closed
    try:
        _got_packet_first(self, channel, cmd, data)
    except OSError as error:
        if cmd != CMD_TCP_CONNECT:
            raise
        log("cannot open a connection: %s" % error)
        self.send(channel, CMD_TCP_EOF, b"")
        self.send(channel, CMD_TCP_STOP_SENDING, b"")


def _handle(self):
    try:
        _handle_first(self)
    except (Fatal, OSError, MemoryError):
        raise
    except Exception as error:
        raise Fatal("the other end breaks the protocol: %r" % error)


def _flush(self):
    if len(self.outbuf) > 1:
        self.outbuf[:] = [b"".join(self.outbuf)]
    _flush_first(self)


def _size(pieces):
    return sum(map(len, pieces)) + OVERHEAD * len(pieces)


def _regulate(mux):
    global _taken
    if mux.outbuf and _size(mux.outbuf) > MOST_QUEUED:
        raise Fatal("the other end floods this one: more than %d MiB wait to be sent to it" % (MOST_QUEUED >> 20))
    if _taken < 4 * PIECE and not _halted:
        return
    _taken = 0
    sizes = dict((each, _size(each.buf)) for each in _holding)
    held = sum(sizes.values())
    if held > MOST_HELD:
        raise Fatal("the other end floods this one: more than %d MiB wait for slow readers" % (MOST_HELD >> 20))
    room = PIECE if held > CROWDED else 8 * PIECE
    for each, size in sizes.items():
        if not size:
            _holding.discard(each)
        if each.shut_read:
            _halted.discard(each)
        elif size > room and each not in _halted:
            _halted.add(each)
            mux.send(each.channel, CMD_TCP_PAUSE, b"")
        elif size <= room // 2 and each in _halted:
            _halted.discard(each)
            mux.send(each.channel, CMD_TCP_RESUME, b"")


def _add(socks, elem):
    socks[elem] = True


def _at_rest(handler):
    if type(handler) is not Proxy:
        return False
    one, two = handler.wrap1, handler.wrap2
    return not (
        one.buf or two.buf or one.connect_to or two.connect_to
        or one.shut_read or one.shut_write or two.shut_read or two.shut_write
    )


def runonce(handlers, mux):
    for over in [each for each in handlers if not each.ok]:
        handlers.remove(over)
        if hasattr(over, "dispose"):
            over.dispose()
    r, w = {}, {}
    for each in handlers:
        each.pre_select(r, w, {})
    readable, writable, _ = select.select(list(r), list(w), [])
    ready = {*readable, *writable}
    own = ready - {mux.rfile, mux.wfile}
    for each in list(handlers):
        called = own if _at_rest(each) else ready
        for sock in [sock for sock in each.socks if sock in called]:
            each.callback(sock)
            if type(each) in (Mux, Proxy):
                break
    _regulate(mux)


_flush_first, _handle_first, _got_packet_first = Mux.flush, Mux.handle, Mux.got_packet
_take_first, _try_connect_first = MuxWrapper.got_packet, SockWrapper.try_connect
Mux.flush, Mux.handle, Mux.got_packet = _flush, _handle, _got_packet
MuxWrapper.uwrite, MuxWrapper.too_full, MuxWrapper.got_packet = _uwrite, _too_full, _take
MuxWrapper.paused = False       # by the other end
SockWrapper.try_connect = _try_connect
_stay_below_the_limit_of_select()
"""
)
