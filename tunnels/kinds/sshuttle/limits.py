"""The numbers of the sshuttle launcher that others must know too, and the words by which it says that one
is reached.
"""

from __future__ import annotations

DESCRIPTORS = 1024  # of a worker: select(), which sshuttle uses, cannot see any above that
CONNECTIONS = (
    960  # of staff that one worker carries; the other descriptors are for itself and for the daemon's probes
)
SHARE = CONNECTIONS // 2  # of them for one source
MEMORY = 512 << 20  # bytes of data of one process: several times what the limits of sshuttle_mux.py come to
NOT_FULL = "not full any more"
