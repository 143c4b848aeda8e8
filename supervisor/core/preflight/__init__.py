"""Preflight checks (`facilitator doctor`): is this host fit for the configuration? Facts in, findings out.

Pure: `supervisor.app.preflight` gathers the facts.
"""

from supervisor.core.preflight.checklist import run_checks
from supervisor.core.preflight.finding import Finding, Severity

__all__ = ["Finding", "Severity", "run_checks"]
