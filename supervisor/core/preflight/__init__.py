"""Is this host fit for the configuration? Facts in, findings out; `supervisor.app.preflight` gathers the
facts.
"""

from supervisor.core.preflight.checklist import examine
from supervisor.core.preflight.finding import Finding, Severity

__all__ = ["Finding", "Severity", "examine"]
