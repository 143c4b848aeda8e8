"""What is known of the lock of an exclusive tunnel's account."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LockView:
    """What this member knows of the lock of an exclusive tunnel's account (`core.fleet.lease`)."""

    account: str
    engine: bool = True  # the lock engine answers
    held: bool = False  # by us, for this tunnel
    token: int | None = None  # while we hold it: orders all that ever held it
    holder: str | None = None  # another one that holds it, and since when
    text: str = ""  # why it was lost, or nothing is known of it

    @property
    def waits_for(self) -> str:
        """Why a tunnel that does not have it waits, as a sentence."""
        if self.holder is not None:
            return f"waits for the lock of account {self.account}, held by {self.holder}"
        why = f": {self.text}" if self.text else ""
        return f"waits for the lock of account {self.account}{why}"
