"""The daemon's log: one JSON line per event on stdout, or readable lines if stdout is a terminal.

structlog renders in the calling thread, `reports.log.sink` writes in its own. Records of the standard
library's loggers (aiohttp, urllib3, asyncio) become lines of the same form.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from supervisor.core.session.reason_pages import runbook_url
from supervisor.core.snapshot import Snapshot, Transition
from supervisor.core.state import Health, Phase
from supervisor.reports.log.redact import Secrets
from supervisor.reports.log.sink import LineWriter
from tunnels.base import Reason

_FIRST = ("timestamp", "level", "event")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(fd: int, secrets: Secrets, *, level: str = "info", terminal: bool | None = None) -> LineWriter:
    """Send every log event of this process to `fd` as lines. `level`: debug, info, warning or error. The
    caller closes the writer.
    """
    terminal = os.isatty(fd) if terminal is None else terminal
    shared = _shared(secrets, terminal)
    render: Processor = (
        structlog.dev.ConsoleRenderer(colors=terminal, exception_formatter=structlog.dev.plain_traceback)
        if terminal
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    writer = LineWriter(fd, _dropped_line(shared, render))
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=lambda *_: _Lines(writer),
        cache_logger_on_first_use=False,
    )
    handler = _StructlogHandler(writer)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), _foreign, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    logging.basicConfig(level=_LEVELS[level], handlers=[handler], force=True)
    logging.captureWarnings(True)
    return writer


class TransitionLog:
    """The `Recorder` (`supervisor.outputs`) that logs one line per transition, in the same words as metrics,
    history, status and incidents.
    """

    def __init__(self, runbooks: str = "") -> None:
        """`runbooks`: address of the page about reasons."""
        self._log, self._runbooks = structlog.get_logger(), runbooks

    def record(self, transition: Transition, snapshot: Snapshot) -> None:
        """Queue the line; `lasted` is how long the state before had lasted, in seconds."""
        page = runbook_url(self._runbooks, transition.reason)
        self._log.log(
            _level(transition),
            "transition",
            tunnel=transition.tunnel,
            session=transition.session,
            before=transition.before.value,
            after=transition.after.value,
            health=transition.health.value,
            leg=None if transition.leg is None else transition.leg.value,
            reason=transition.reason.value,
            text=transition.text,
            lasted=round(transition.lasted, 3),
            **({} if page is None else {"runbook_url": page}),
        )


def _level(transition: Transition) -> int:
    if transition.after is Phase.FAILED:
        return logging.ERROR
    if (
        transition.after is Phase.BACKOFF
        or transition.health is Health.UNHEALTHY
        or transition.reason is Reason.DEGRADED
    ):
        return logging.WARNING
    return logging.INFO


class _Lines:
    """The logger that structlog wraps: every level writes a line."""

    def __init__(self, writer: LineWriter) -> None:
        self.msg = self.debug = self.info = self.warning = self.error = self.critical = self.log = (
            writer.write
        )


class _StructlogHandler(logging.Handler):
    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line for a record of the standard library, also if its arguments do not fit
        its message.
        """
        try:
            line = self.format(record)
        except (TypeError, ValueError) as error:
            self._writer.write(
                self.format(
                    logging.makeLogRecord(
                        {
                            "name": record.name,
                            "levelno": record.levelno,
                            "levelname": record.levelname,
                            "msg": f"{record.msg!s}: {error}",
                        }
                    )
                )
            )
        else:
            self._writer.write(line)


def _shared(secrets: Secrets, terminal: bool) -> list[Processor]:
    """The processors of every event, of structlog or the standard library, before it is rendered."""
    # Local variables may contain secrets.
    plain = structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=20)
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info if terminal else structlog.processors.ExceptionRenderer(plain),
        *([_printable] if terminal else []),
        _Redaction(secrets),
    ]


class _Redaction:
    """Masks secrets in every value, and moves timestamp, level and event to the front."""

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        first = {key: event[key] for key in _FIRST if key in event}
        rest = {
            key: value if key.startswith("_") else self._secrets.masked(value)
            for key, value in event.items()
            if key not in first
        }
        return {**self._secrets.masked(first), **rest}


def _foreign(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    event["logger"] = event["_record"].name
    return event


def _printable(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Escapes control characters: a client's output must not control the reader's terminal."""
    return {
        key: _CONTROL.sub(lambda m: f"\\x{ord(m[0]):02x}", value) if isinstance(value, str) else value
        for key, value in event.items()
    }


def _dropped_line(shared: list[Processor], render: Processor) -> Callable[[int], str]:
    def line(dropped: int) -> str:
        event: Any = {
            "event": "log lines dropped, nobody read them in time",
            "dropped": dropped,
            "level": "warning",
            "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        }
        return str(render(None, "warning", event))

    return line
