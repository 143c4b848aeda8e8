"""One tunnel's sessions: the state machine (`machine`), make-before-break with a standby session
(`handover`), retries (`retry`), login pacing that prevents account lockout (`pacing`), and whether a session
is alive (`liveness`).
"""
