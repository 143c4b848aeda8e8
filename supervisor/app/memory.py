"""The daemon's memory once it has started."""

from __future__ import annotations

import gc

from supervisor.clients.syscalls import release_free_memory


def settle() -> None:
    """What the start left is a few milliseconds' work. All other objects of now stay: a garbage collection of
    them would stop the loop for tens of milliseconds. Freed memory goes back to the system.
    """
    gc.collect()
    gc.freeze()
    gc.enable()
    release_free_memory()
