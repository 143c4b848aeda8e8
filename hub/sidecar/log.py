"""The sidecar's log: one JSON document a line."""

from __future__ import annotations

from typing import TextIO

import structlog


def log_json(output: TextIO) -> None:
    """Everything that is logged from now on goes there."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(output),
        cache_logger_on_first_use=False,
    )
