"""One tunnel's sessions: the state machine, when to retry, whether a session is alive, make-before-break."""
