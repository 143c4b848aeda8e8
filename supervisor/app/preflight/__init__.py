"""`facilitator doctor`: gathers facts about this host, within a few seconds and without changing anything,
and has them judged.
"""

from supervisor.app.preflight.gather import diagnose, gather

__all__ = ["diagnose", "gather"]
