"""The log: one JSON line per event on stdout, or readable lines where stdout is a terminal.

structlog renders in the calling thread, `reports.log.sink` writes in its own. The standard library's loggers
(aiohttp, urllib3, asyncio) end in the same lines.
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

from supervisor.core.state import Health, Phase, Snapshot, Transition
from supervisor.reports.log.redact import Secrets
from supervisor.reports.log.sink import LineWriter
from tunnels.base import Reason

_FIRST = ("timestamp", "level", "event")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(fd: int, secrets: Secrets, *, level: str = "info", terminal: bool | None = None) -> LineWriter:
    """Send every log event of this process to `fd` as lines. `level`: debug, info, warning or error.
    `close` the writer at the end.
    """
    terminal = os.isatty(fd) if terminal is None else terminal
    shared = _shared(secrets, terminal)
    render: Processor = (
        structlog.dev.ConsoleRenderer(colors=terminal, exception_formatter=structlog.dev.plain_traceback)
        if terminal
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    writer = LineWriter(fd, _notice(shared, render))
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
    """The recorder that writes one line per transition, in the words that metric, history, status and
    incident use too.
    """

    def __init__(self) -> None:
        self._log = structlog.get_logger()

    def record(self, transition: Transition, snapshot: Snapshot) -> None:
        """Queue the line; `lasted` is in seconds, and tells how long the state before had lasted."""
        self._log.log(
            _weight(transition),
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
        )


def _weight(transition: Transition) -> int:
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
    """What structlog calls a logger: every level ends in the writer."""

    def __init__(self, writer: LineWriter) -> None:
        self.msg = self.debug = self.info = self.warning = self.error = self.critical = self.log = (
            writer.write
        )


class _StructlogHandler(logging.Handler):
    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        """One line for a record of the standard library; one that cannot be rendered is named rather than
        lost.
        """
        try:
            line = self.format(record)
        except (TypeError, ValueError) as error:  # its arguments do not fit its message
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
    """What happens to every event, native or foreign, before it is rendered."""
    plain = structlog.tracebacks.ExceptionDictTransformer(
        show_locals=False, max_frames=20
    )  # locals may hold secrets
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info if terminal else structlog.processors.ExceptionRenderer(plain),
        *([_printable] if terminal else []),
        _Redaction(secrets),
    ]


class _Redaction:
    """Masks secrets in every value, and puts the fields that a reader looks for first in front."""

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
    """A client's words must not steer the terminal of the one who reads them."""
    return {
        key: _CONTROL.sub(lambda m: f"\\x{ord(m[0]):02x}", value) if isinstance(value, str) else value
        for key, value in event.items()
    }


def _notice(shared: list[Processor], render: Processor) -> Callable[[int], str]:
    def line(dropped: int) -> str:
        event: Any = {
            "event": "log lines dropped, nobody read them in time",
            "dropped": dropped,
            "level": "warning",
            "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        }
        return str(render(None, "warning", event))

    return line
