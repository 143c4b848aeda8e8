"""The composition root: the only place that knows everybody."""

from supervisor.app.daemon import run

__all__ = ["run"]
