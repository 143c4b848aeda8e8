"""What becomes of the session of an exclusive tunnel that has lost the lock of its account."""

from __future__ import annotations

from dataclasses import replace

from supervisor.core import events as ev
from supervisor.core.session.context import StepContext
from supervisor.core.session.machine import SessionStep, terminated
from supervisor.core.state import Failure, Phase, SessionState
from tunnels.base import Reason


def lock_lost(c: StepContext, session: SessionState, event: ev.LockChanged) -> SessionStep:
    """Its client logs off, and is killed when its permission ends."""
    by = max(c.now, event.until)
    if session.phase is Phase.STOPPING:
        deadline = by if session.deadline is None else min(by, session.deadline)
        return SessionStep(replace(session, deadline=deadline))
    text = f"the lock of account {event.lock.account} is lost: {event.lock.text}"
    failed = replace(session, resumable=False, failure=Failure(Reason.LOCK, text, c.now))
    stepped = terminated(c, failed, Reason.LOCK)
    deadline = min(by, c.now + c.kind.stop_timeout)
    return replace(stepped, session=replace(stepped.session, deadline=deadline))
