"""Keeps the resident pages of a process in use, so that its idle CPU can be measured in a virtual machine.

Some hypervisors take pages of a guest away that nobody has touched for a fraction of a second (ballooning
with free page reporting, swapping of the guest). The next touch then costs 20-30 us of what the guest
accounts as the process's own CPU time, a hundred times the cost of the work itself: anything that wakes
once a second, ours or supervisord, shows tens of milliseconds. On hardware there is no such cost, so the
measurement takes it away for both: a second process reads one byte of each resident page of the measured
one (process_vm_readv(2)), fifty times a second. The reader pays for that, the measured process does not.

    python -m tests.bench.hot PID
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROUND_SECONDS = 0.02  # between two reads of all pages
LIST_SECONDS = 1.0  # between two listings of the resident pages
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_MAX_PARTS = 1024  # IOV_MAX: pages that one call can read
_ENTRY_BYTES = 8  # of /proc/PID/pagemap for each page (Documentation/admin-guide/mm/pagemap.rst)
_PRESENT = 1 << 63


class _IoVector(ctypes.Structure):
    """struct iovec (readv(2))."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class PageReader:
    """Reads one byte of each page of a process."""

    def __init__(self, pid: int) -> None:
        self._pid, self._libc = pid, ctypes.CDLL(None)
        self._buffer = ctypes.create_string_buffer(_MAX_PARTS)
        self._local = _IoVector(ctypes.addressof(self._buffer), _MAX_PARTS)
        self._parts: list[ctypes.Array[_IoVector]] = []

    def list_pages(self) -> int:
        """Note which pages are resident now; how many."""
        pages = list(resident(self._pid))
        chunks = (pages[i : i + _MAX_PARTS] for i in range(0, len(pages), _MAX_PARTS))
        self._parts = [(_IoVector * len(chunk))(*(_IoVector(page, 1) for page in chunk)) for chunk in chunks]
        return len(pages)

    def read(self) -> None:
        """Touch all of them. A page that has gone ends the rest of its chunk until the next listing."""
        for part in self._parts:
            self._libc.process_vm_readv(self._pid, ctypes.byref(self._local), 1, part, len(part), 0)


def resident(pid: int) -> Iterator[int]:
    """The addresses of the readable pages of a process that are in memory."""
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights, *_ = line.split()
            if "r" not in rights or "[v" in line:  # the kernel's own: [vdso], [vvar], [vsyscall]
                continue
            first, end = (int(each, 16) for each in span.split("-"))
            count = (end - first) // _PAGE_BYTES
            entries = os.pread(pagemap.fileno(), count * _ENTRY_BYTES, first // _PAGE_BYTES * _ENTRY_BYTES)
            for number, (entry,) in enumerate(struct.iter_unpack("=Q", entries)):
                if entry & _PRESENT:
                    yield first + number * _PAGE_BYTES


@contextlib.contextmanager
def kept_hot(pid: int) -> Iterator[None]:
    """While this lasts, the process has its pages."""
    helper = subprocess.Popen([sys.executable, "-m", "tests.bench.hot", str(pid)])
    try:
        yield
        assert helper.poll() is None, "the pages were not kept in use"
    finally:
        helper.send_signal(signal.SIGTERM)
        helper.wait()


def main(pid: int) -> None:
    """Until SIGTERM."""
    reader, list_at = PageReader(pid), 0.0
    while True:
        if time.monotonic() >= list_at:
            reader.list_pages()
            list_at = time.monotonic() + LIST_SECONDS
        reader.read()
        time.sleep(ROUND_SECONDS)


if __name__ == "__main__":
    main(int(sys.argv[1]))
