"""Bytes of a client -> lines that are safe to read, match, store and print. Pure.

A client's output is untrusted: it may be binary, endless, or carry escape sequences and secrets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from common.token_bucket import TokenBucket
from supervisor.core.redaction import Redactor
from tunnels import text as texts

LINE_CAP = 4096  # characters of a line that anybody sees
RAW_CAP = (
    2 * LINE_CAP
)  # bytes of a line that are kept: a secret that crosses LINE_CAP must be seen whole to be masked
TRUNCATED = " [truncated]"
MASK = "***"


def clean(raw: bytes) -> str:
    """Text without control characters or escape sequences (tab and newline stay); undecodable bytes as
    \\xNN.
    """
    return texts.clean(raw.decode("utf-8", "surrogateescape"))


class LineSplitter:
    """Cuts a stream of chunks into lines. The result does not depend on where the chunks were cut."""

    def __init__(self, cap: int = RAW_CAP) -> None:
        self._cap = cap
        self._held = bytearray()  # the beginning of a line whose end has not come
        self._lost = False  # we are inside a line whose beginning is gone

    @property
    def held(self) -> int:
        """Bytes of the line whose end has not come; of a very long one only those that count."""
        return len(self._held)

    def feed(self, data: bytes) -> list[str]:
        """The lines that end in this chunk, without newline; longer than `cap` bytes are cut and marked."""
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
        """The line without a newline at the end of the stream, if there is one."""
        raw, lost = bytes(self._held), self._lost
        self._held.clear()
        self._lost = False
        return [self._cut(raw)] if raw and not lost else []

    def skip(self) -> None:
        """A part of the stream is missing here: what belongs to a cut line is dropped."""
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
        """The text with every secret replaced, cut to LINE_CAP."""
        return shorten(self._masked(text))

    def lines(self, lines: Sequence[str]) -> Sequence[str]:
        """`text` for many lines; nearly free when there is nothing to do."""
        if self._redactor.finds("\n".join(lines)):
            return [self.text(line) for line in lines]
        return [self.text(line) for line in lines] if max(map(len, lines), default=0) > LINE_CAP else lines

    def _masked(self, text: str) -> str:
        if not text.endswith(TRUNCATED):
            return self._redactor.text(text)
        body = self._redactor.text(text.removesuffix(TRUNCATED))
        return (
            body[: max(0, len(body) - self._redactor.longest)] + TRUNCATED
        )  # the end may be the beginning of a secret


def shorten(text: str) -> str:
    """At most LINE_CAP characters, and a mark where something is missing."""
    return text if len(text) <= LINE_CAP else text[:LINE_CAP].removesuffix(TRUNCATED) + TRUNCATED


class LineLimiter:
    """The rate limit (a token bucket) for lines on their way to the log. Equal lines in a row, and lines too
    many, become one sentence.
    """

    def __init__(self, rate: float = 20.0, burst: float = 100.0) -> None:
        self._bucket = TokenBucket(burst, rate)
        self._last: str | None = None
        self._repeated = self._suppressed = self._skipped = 0

    @property
    def pending(self) -> bool:
        """`flush` has something to say."""
        return bool(self._repeated or self._suppressed or self._skipped)

    def offer(self, lines: Iterable[str], now: float) -> list[str]:
        """Those lines that may pass now (monotonic seconds)."""
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
        """So many bytes were not read at all."""
        self._skipped += size

    def flush(self) -> list[str]:
        """What was held back, in words."""
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
