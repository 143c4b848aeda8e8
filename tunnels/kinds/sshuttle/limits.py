"""The limits of sshuttle's workers that others must know too, and what marks lines of the driver's output."""

from __future__ import annotations

MAX_DESCRIPTORS = 1024  # of a worker: sshuttle uses select(2), which cannot watch descriptors above that
# of staff, carried by one worker; the other descriptors are for itself and for probes
WORKER_CONNECTIONS = 960
WORKER_CONNECTIONS_PER_SOURCE = WORKER_CONNECTIONS // 2
MAX_DATA_BYTES = 512 << 20  # memory of one process: several times what the limits of ssnet_patch.py allow
NOT_FULL = "not full any more"  # printed when a worker accepts new connections again
# what lines begin with that are not of the ssh to the remote host itself
REMOTE, JUMP = "remote: ", "jump: "
