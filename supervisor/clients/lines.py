"""Splits the bytes of a client's output into lines that are safe to read, match, store and print. Pure.

A client's output is untrusted: it may be binary, endless, or carry escape sequences and secrets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from common.redaction import Redactor
from common.token_bucket import TokenBucket
from tunnels import text as texts

MAX_LINE_CHARS = 4096  # of a line that are shown and matched
# kept of a line: a secret that crosses MAX_LINE_CHARS must be seen whole to be masked
MAX_RAW_LINE_BYTES = 2 * MAX_LINE_CHARS
TRUNCATED = " [truncated]"
MASK = "***"


def clean(raw: bytes) -> str:
    """Text without control characters or escape sequences (tab and newline stay); undecodable bytes as
    \\xNN.
    """
    return texts.clean(raw.decode("utf-8", "surrogateescape"))


class LineSplitter:
    """Splits a stream of chunks into lines. The result does not depend on the boundaries of the chunks."""

    def __init__(self, cap: int = MAX_RAW_LINE_BYTES) -> None:
        self._cap = cap
        self._held = bytearray()  # the beginning of a line whose end has not come
        self._lost = False  # we are inside a line whose beginning is gone

    @property
    def held(self) -> int:
        """Bytes of the unfinished line, of a very long one only those that are kept."""
        return len(self._held)

    def feed(self, data: bytes) -> list[str]:
        """The lines that end in this chunk, without newline. Lines longer than `cap` bytes are cut and
        marked.
        """
        head, newline, rest = data.rpartition(b"\n")
        if not newline:
            self._hold(rest)
            return []
        raw = (bytes(self._held) + head).split(b"\n")
        self._held.clear()
        self._hold(rest)
        if self._lost:
            self._lost = False
            raw = raw[1:]
        if not raw:
            return []
        if max(map(len, raw)) > self._cap:
            return [self._cut(line) for line in raw]
        return clean(b"\n".join(raw)).split("\n")

    def flush(self) -> list[str]:
        """The unfinished line at the end of the stream, if there is one."""
        raw, lost = bytes(self._held), self._lost
        self._held.clear()
        self._lost = False
        return [self._cut(raw)] if raw and not lost else []

    def skip(self) -> None:
        """A part of the stream is missing here: drop the lines that are cut by it."""
        self._held.clear()
        self._lost = True

    def _hold(self, rest: bytes) -> None:
        self._held += rest[
            : self._cap + 1 - len(self._held)
        ]  # one more than the cap shows that it was longer

    def _cut(self, raw: bytes) -> str:
        return clean(raw) if len(raw) <= self._cap else clean(raw[: self._cap]) + TRUNCATED


class Masker:
    """Replaces secrets in text."""

    def __init__(self, secrets: Iterable[bytes] = ()) -> None:
        self._redactor = Redactor(MASK)
        self.add(*secrets)

    def add(self, *secrets: bytes) -> None:
        """Mask these too from now on."""
        self._redactor.add(secret.decode("utf-8", "replace") for secret in secrets)

    def text(self, text: str) -> str:
        """The text with every secret replaced, cut to MAX_LINE_CHARS."""
        return shorten(self._masked(text))

    def lines(self, lines: Sequence[str]) -> Sequence[str]:
        """`text` for many lines; nearly free if nothing is to be replaced."""
        if self._redactor.finds("\n".join(lines)):
            return [self.text(line) for line in lines]
        return (
            [self.text(line) for line in lines] if max(map(len, lines), default=0) > MAX_LINE_CHARS else lines
        )

    def _masked(self, text: str) -> str:
        if not text.endswith(TRUNCATED):
            return self._redactor.text(text)
        body = self._redactor.text(text.removesuffix(TRUNCATED))
        # the end may be the beginning of a secret
        return body[: max(0, len(body) - self._redactor.longest)] + TRUNCATED


def shorten(text: str) -> str:
    """At most MAX_LINE_CHARS characters, and a mark where something is missing."""
    return text if len(text) <= MAX_LINE_CHARS else text[:MAX_LINE_CHARS].removesuffix(TRUNCATED) + TRUNCATED


class LineLimiter:
    """The rate limit (a token bucket) for lines on their way to the daemon's log. Repeated and suppressed
    lines become one sentence.
    """

    def __init__(self, rate: float = 20.0, burst: float = 100.0) -> None:
        self._bucket = TokenBucket(burst, rate)
        self._last: str | None = None
        self._repeated = self._suppressed = self._skipped = 0

    @property
    def pending(self) -> bool:
        """`flush` has something to return."""
        return bool(self._repeated or self._suppressed or self._skipped)

    def offer(self, lines: Iterable[str], now: float) -> list[str]:
        """The lines that may pass now (monotonic seconds)."""
        self._bucket = self._bucket.at_time(now)
        passed: list[str] = []
        for line in lines:
            if line == self._last:
                self._repeated += 1
            elif (rest := self._bucket.take()) is None:
                self._suppressed += 1
            else:
                self._bucket = rest
                passed += self._repeats()
                passed.append(line)
                self._last = line
        return passed

    def skip(self, size: int) -> None:
        """Count bytes that were not read."""
        self._skipped += size

    def flush(self) -> list[str]:
        """What was suppressed, in words."""
        said = self._repeats()
        if self._suppressed:
            said.append(f"{self._suppressed} lines suppressed")
        if self._skipped:
            said.append(f"{self._skipped} bytes skipped")
        self._suppressed = self._skipped = 0
        return said

    def _repeats(self) -> list[str]:
        count, self._repeated = self._repeated, 0
        return [f"repeated {count} times"] if count else []
