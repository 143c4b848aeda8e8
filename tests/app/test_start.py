"""Starts that come to nothing: one sentence, the exit code, and nothing touched."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.core.exits import Exit

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]


def run(directory: Path, config: str) -> subprocess.CompletedProcess[str]:
    file = directory / "config.yaml"
    places = f"facilitator: {{state_dir: {directory}/state, runtime_dir: {directory}/run}}\n"
    file.write_text(f"{places}staff: {{networks: [10.8.0.0/16]}}\ntunnels: {{}}\n{config}")
    argv = [sys.executable, "-m", "supervisor", "run", "-c", str(file)]
    return subprocess.run(argv, capture_output=True, text=True, cwd=REPOSITORY, timeout=60)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("nope.key", "http.tls cannot be used ([Errno 2] No such file or directory: '{0}/nope.key')"),
        ("junk.pem", "http.tls cannot be used ("),
    ],
)
def test_wrong_files_of_tls_are_a_wrong_configuration(tmp_path: Path, key: str, said: str) -> None:
    (tmp_path / "junk.pem").write_text("junk\n")
    done = run(tmp_path, f"http: {{listen: '127.0.0.1:9464', tls: {{certificate: junk.pem, key: {key}}}}}\n")
    assert (done.returncode, done.stdout) == (Exit.CONFIG, "")
    assert done.stderr.startswith(f"facilitator: {said.format(tmp_path)}")
    assert done.stderr.count("\n") == 1


def test_closed_standard_streams_are_opened_before_anything_takes_their_place() -> None:
    script = (
        "import os; from supervisor.clients import processes as p; p.open_standard_streams(); "
        "print(*os.listdir('/proc/self/fd'))"
    )
    shell = f'{sys.executable} -c "{script}" <&- 2>&-'
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, cwd=REPOSITORY, timeout=60)
    assert sorted(done.stdout.split()) == ["0", "1", "2", "3"], "3 is the directory being listed"
