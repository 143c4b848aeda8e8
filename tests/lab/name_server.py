"""A name server of a namespace's own: what is in it resolves the names of the lab, and no other."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.lab.servers import Server, program
from tests.netns import Namespace


class LabNameServer(Server):
    """Programs that start in the namespace from now on ask it (ip-netns(8): /etc/netns/NAME/resolv.conf)."""

    def __init__(self, namespace: Namespace, directory: Path) -> None:
        self._names = directory / "names"
        self._names.touch()
        self._etc = Path("/etc/netns", namespace.name)
        super().__init__(
            namespace, directory, "nameserver", program("nameserver", str(self._names), "53"), "answering"
        )

    def __enter__(self) -> LabNameServer:
        self._etc.mkdir(parents=True)
        (self._etc / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:2\n")
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self._etc)
        subprocess.run(["rmdir", "--ignore-fail-on-non-empty", str(self._etc.parent)], check=True)

    def set(self, name: str, *addresses: object) -> None:
        """The addresses of the name from now on; the only name that there is."""
        new = self._names.with_suffix(".new")
        new.write_text(f"{name} {' '.join(map(str, addresses))}\n")
        new.rename(self._names)
