"""Log lines: their shape, the secrets that are not in them, and the reader who does not read."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.state import Health, Leg, Phase
from supervisor.reports.log import configure as log
from supervisor.reports.log.redact import MASK, MIN_SECRET_CHARS, Secrets
from supervisor.reports.log.sink import MAX_BATCH_LINES, LineWriter
from tests.reports.worlds import snapshot, transition, up
from tunnels.base import Reason


@dataclass
class LogPipe:
    """The log's stdout, read at the end."""

    reader: int
    writer: int
    secrets: Secrets = field(default_factory=Secrets)
    lines_out: LineWriter | None = None

    def configure(self, **options: object) -> None:
        self.lines_out = log.configure(self.writer, self.secrets, **options)  # type: ignore[arg-type]

    def close_reader(self) -> None:
        self.reader = _closed(self.reader)

    def close_writer(self) -> None:
        self.writer = _closed(self.writer)

    def text(self) -> str:
        assert self.lines_out is not None
        assert self.lines_out.close()
        self.close_writer()
        with os.fdopen(self.reader, "rb", closefd=False) as stream:
            return stream.read().decode()

    def events(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.text().splitlines()]


def _closed(fd: int) -> int:
    if fd >= 0:
        os.close(fd)
    return -1


@pytest.fixture
def pipe() -> Iterator[LogPipe]:
    handlers, level = logging.root.handlers[:], logging.root.level
    reader, writer = os.pipe()
    pipe = LogPipe(reader, writer)
    yield pipe
    pipe.close_reader()
    pipe.close_writer()
    logging.captureWarnings(False)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    structlog.reset_defaults()


def test_a_line_is_json_with_time_level_and_event_first(pipe: LogPipe) -> None:
    pipe.configure()
    structlog.get_logger().info("started", tunnel="acme", port=7)
    [event] = pipe.events()
    assert list(event)[:3] == ["timestamp", "level", "event"]
    assert str(event["timestamp"]).endswith("Z")
    assert (event["level"], event["event"], event["tunnel"], event["port"]) == ("info", "started", "acme", 7)


def test_the_level_filters_native_and_foreign_events(pipe: LogPipe) -> None:
    pipe.configure(level="warning")
    for logger in (structlog.get_logger(), logging.getLogger("aiohttp.access")):
        logger.info("quiet")
        logger.warning("loud")
    assert [event["event"] for event in pipe.events()] == ["loud", "loud"]


def test_loggers_of_the_standard_library_come_out_the_same(pipe: LogPipe) -> None:
    pipe.configure()
    logging.getLogger("pyroute2").warning("lost %d of %s", 3, "them", extra={"device": "t-acme"})
    warnings.warn("old thing", DeprecationWarning, stacklevel=1)
    logging.getLogger("asyncio").error("arguments do not fit: %d", "x")
    first, second, third = pipe.events()
    assert (first["logger"], first["event"], first["level"], first["device"]) == (
        "pyroute2",
        "lost 3 of them",
        "warning",
        "t-acme",
    )
    assert second["logger"] == "py.warnings"
    assert str(third["event"]).startswith("arguments do not fit: %d")


def test_context_of_the_task_is_in_each_line(pipe: LogPipe) -> None:
    pipe.configure()
    with structlog.contextvars.bound_contextvars(tunnel="acme"):
        structlog.get_logger().info("one")
        logging.getLogger("aiohttp").warning("two")
    assert [event["tunnel"] for event in pipe.events()] == ["acme", "acme"]


def test_transition_in_the_words_of_everywhere(pipe: LogPipe) -> None:
    pipe.configure()
    recorder = log.TransitionLog()
    world = snapshot(acme=up())
    recorder.record(
        transition(Phase.UP, Phase.BACKOFF, Reason.PEER_TIMEOUT, text="silent", lasted=12.3456, session=4),
        world,
    )
    recorder.record(transition(Phase.STARTING, Phase.UP, Reason.CONNECTED), world)
    recorder.record(transition(Phase.STOPPING, Phase.FAILED, Reason.AUTH), world)
    recorder.record(
        transition(Phase.UP, Phase.STOPPING, Reason.UNHEALTHY, health=Health.UNHEALTHY, leg=Leg.ENDPOINT),
        world,
    )
    recorder.record(transition(Phase.UP, Phase.UP, Reason.DEGRADED, health=Health.HEALTHY), world)
    events = pipe.events()
    assert [event["level"] for event in events] == ["warning", "info", "error", "warning", "warning"]
    assert events[3]["leg"] == "endpoint"
    del events[0]["timestamp"]
    assert events[0] == {
        "level": "warning",
        "event": "transition",
        "tunnel": "acme",
        "session": 4,
        "before": "up",
        "after": "backoff",
        "health": "unknown",
        "leg": None,
        "reason": "peer-timeout",
        "text": "silent",
        "lasted": 12.346,
        "runbook_url": "docs/reasons.md#peer-timeout",
    }
    assert "runbook_url" not in events[1]


def fail() -> None:
    password = "-".join(("hunter2", "in", "a", "local"))  # noqa: F841, FLY002
    raise RuntimeError("refused: tr0ub4dor&3")


@pytest.mark.parametrize("terminal", [False, True])
def test_no_secret_in_values_exceptions_or_locals(pipe: LogPipe, terminal: bool) -> None:
    pipe.configure(terminal=terminal)
    pipe.secrets.add("tr0ub4dor&3")
    logger = structlog.get_logger()
    logger.info(
        "event tr0ub4dor&3", text="x tr0ub4dor&3", deep={"a": ["tr0ub4dor&3", {"b": "tr0ub4dor%263"}]}
    )
    logging.getLogger("urllib3").warning("GET /?p=%s", "tr0ub4dor%263")
    try:
        fail()
    except RuntimeError:
        logger.exception("caught")
        logging.getLogger("asyncio").exception("caught too")
    text = pipe.text()
    assert "tr0ub4dor" not in text
    assert "hunter2-in-a-local" not in text
    assert text.count(MASK) >= 6
    assert "RuntimeError" in text


def test_readable_and_harmless_on_a_terminal(pipe: LogPipe) -> None:
    pipe.configure(terminal=True)
    structlog.get_logger().info("client said", text="\x1b[2J\x07gone")
    text = pipe.text()
    assert "client said" in text
    assert "\x1b[2J" not in text
    assert "\x07" not in text
    assert "gone" in text


@pytest.mark.slow
async def test_a_reader_that_does_not_read_stalls_nobody(pipe: LogPipe) -> None:
    pipe.configure()
    loop = asyncio.get_running_loop()
    worst = 0.0
    for _ in range(40):
        started = loop.time()
        for number in range(500):
            structlog.get_logger().info("flood", number=number, text="x" * 100)
        await asyncio.sleep(0)
        worst = max(worst, loop.time() - started)
    assert worst < 10.0  # 500 events; a blocked write would last for ever
    assert pipe.lines_out is not None
    dropped = pipe.lines_out.dropped
    assert dropped >= 20_000 - log_capacity()
    structlog.get_logger().info("one more")
    closer = threading.Thread(target=pipe.lines_out.close, args=(10,))
    closer.start()
    with os.fdopen(pipe.reader, "rb", closefd=False) as stream:  # somebody reads at last
        notice = next(event for line in stream if "dropped" in (event := json.loads(line)))
    assert 0 < notice["dropped"] <= dropped + 1
    pipe.close_reader()
    closer.join(10)


def log_capacity() -> int:
    """Lines that fit into the queue, the batch under way and the kernel's pipe."""
    return 10_000 + 2 * MAX_BATCH_LINES + 65_536 // 100


def test_closing_gives_up_after_its_time(pipe: LogPipe) -> None:
    writer = LineWriter(pipe.writer, lambda dropped: f"dropped {dropped}")
    for _ in range(3000):
        writer.write("x" * 100)
    started = time.monotonic()
    assert not writer.close(0.2)
    assert time.monotonic() - started < 10.0
    pipe.close_reader()  # and the thread that still tries to write ends
    assert writer.close(10)


def test_full_queue_is_counted_and_said_once_room_is_there(pipe: LogPipe) -> None:
    writer = LineWriter(pipe.writer, lambda dropped: f"dropped {dropped}", limit=10)
    while writer.dropped < 5:  # the pipe fills, then the queue
        writer.write("x" * 1000)
    threading.Thread(target=writer.close, args=(10,)).start()
    lines = []
    with os.fdopen(pipe.reader, "r", closefd=False) as stream:
        while not lines or not lines[-1].startswith("dropped"):
            lines.append(stream.readline().strip())
    assert lines[-1] == "dropped 5"
    assert [line for line in lines if line.startswith("dropped")] == ["dropped 5"]


def test_a_non_blocking_descriptor_loses_nothing(pipe: LogPipe) -> None:
    os.set_blocking(pipe.writer, False)
    writer = LineWriter(pipe.writer, lambda dropped: f"dropped {dropped}")
    for number in range(5000):
        writer.write(f"{number:060d}")
    closer = threading.Thread(target=lambda: (writer.close(10), pipe.close_writer()))
    closer.start()
    with os.fdopen(pipe.reader, "r", closefd=False) as stream:
        assert [int(line) for line in stream] == list(range(5000))
    closer.join()


def test_a_broken_pipe_ends_nothing(pipe: LogPipe) -> None:
    pipe.close_reader()
    writer = LineWriter(pipe.writer, lambda dropped: f"dropped {dropped}")
    writer.write("into the void")
    assert writer.close()
    assert writer.dropped == 1


@pytest.mark.slow
def test_the_exit_of_a_program_flushes() -> None:
    program = (
        "import structlog; from supervisor.reports.log import configure as log, redact\n"
        "w = log.configure(1, redact.Secrets())\n"
        "for n in range(2000): structlog.get_logger().info('line', n=n)\n"
        "assert w.close()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert [json.loads(line)["n"] for line in done.stdout.splitlines()] == list(range(2000))
    assert done.stderr == ""


@given(st.lists(st.text(min_size=1, max_size=12), max_size=5), st.text(max_size=50), st.integers(0, 50))
def test_whatever_the_secrets_none_is_left(values: list[str], text: str, at: int) -> None:
    secrets = Secrets()
    for value in values:
        secrets.add(value)
    long = [
        value.strip()
        for value in values
        if len(value.strip()) >= MIN_SECRET_CHARS and len(value.splitlines()) == 1
    ]
    for value in long:
        masked = secrets.mask(text[:at] + value + text[at:])
        assert not any(value in part for part in masked.split(MASK))
    assert secrets.masked({"a": [text, 1, None, True]}) == {"a": [secrets.mask(text), 1, None, True]}
