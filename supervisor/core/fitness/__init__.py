"""Is this host fit for the configuration? Facts in, findings out; `supervisor.app.doctor` gathers the facts."""

from supervisor.core.fitness.finding import Finding, Severity
from supervisor.core.fitness.judge import examine

__all__ = ["Finding", "Severity", "examine"]
