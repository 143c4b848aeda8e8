"""`facilitator check` of many tunnels with files: seconds from the command to its answer.

python -m tests.bench.check
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

TUNNELS, ROUNDS, TARGET_SECONDS = 200, 5, 2.0
_PEM_LINES = "".join(f"{'A' * 64}\n" for _ in range(20))  # about as long as a certificate of 2048 bits


def write(directory: Path) -> Path:
    """A configuration with TUNNELS tunnels, each with a profile and a certificate authority beside it."""
    blocks = "".join(
        f"<{name}>\n-----BEGIN {label}-----\n{_PEM_LINES}-----END {label}-----\n</{name}>\n"
        for name, label in (("cert", "CERTIFICATE"), ("key", "PRIVATE KEY"))
    )
    authority = f"-----BEGIN CERTIFICATE-----\n{_PEM_LINES}-----END CERTIFICATE-----\n"
    lines = ["staff: {networks: [10.8.0.0/16]}", "tunnels:"]
    for number in range(TUNNELS):
        profile = directory / f"t{number}" / "profile.ovpn"
        profile.parent.mkdir()
        profile.write_text(f"client\nremote 192.0.2.1 1194\ncipher AES-256-CBC\nca ca.crt\n{blocks}")
        (profile.parent / "ca.crt").write_text(authority)
        entry = f"kind: openvpn, destinations: [172.20.{number}.0/24], config: {profile}"
        lines.append(f"  t{number}: {{{entry}}}")
    path = directory / "config.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def seconds(path: Path, *options: str) -> float:
    """The median of some rounds."""
    took = []
    for _ in range(ROUNDS):
        begin = time.monotonic()
        command = [sys.executable, "-m", "supervisor", "check", "-c", str(path), *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        took.append(time.monotonic() - begin)
    return statistics.median(took)


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="fcb") as name:
        path = write(Path(name))
        table = Table("", "seconds", "target", title=f"check of {TUNNELS} tunnels, median of {ROUNDS}")
        table.add_row("with their files", f"{seconds(path):.2f}", f"<= {TARGET_SECONDS:g}")
        table.add_row("--no-files", f"{seconds(path, '--no-files'):.2f}", "-")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
