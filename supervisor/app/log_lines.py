"""Lines for the log, of parts that know no log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog


def log_client_line(tunnel: str, text: str) -> None:
    """Log what a client has said."""
    structlog.get_logger().info("client output", tunnel=tunnel, text=text)


def log_fault(part: str, place: str, error: BaseException) -> None:
    """Log a fault of the daemon itself."""
    structlog.get_logger().error(
        "internal error: a part has failed, the others continue", part=part, at=place, error=repr(error)
    )


def log_warning(text: str, details: Mapping[str, Any]) -> None:
    """Log what should be different, and is no fault of the daemon."""
    structlog.get_logger().warning(text, **details)
