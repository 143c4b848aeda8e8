"""The composition root: the only place that knows everybody."""

from supervisor.lean_imports import apply

apply()  # before all others

from supervisor.app.daemon import run  # noqa: E402

__all__ = ["run"]
