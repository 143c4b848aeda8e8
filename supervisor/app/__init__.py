"""The composition root: the only place that knows everybody."""

import supervisor.app.lean_imports  # noqa: F401 - before all others
from supervisor.app.daemon import run

__all__ = ["run"]
