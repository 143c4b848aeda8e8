"""docs/adding-a-kind.md, tried: its files are put beside the other kinds, and a session of the new kind
really runs.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab import Lab, LabDaemon
from tests.lab.config import Config
from tests.lab.daemon import FACILITATOR, REPOSITORY
from tests.lab.wait import eventually

DOCUMENT = REPOSITORY / "docs" / "adding-a-kind.md"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Acme's client, as the document describes it. Here it creates no interface: nothing touches this host's
# network.
CLIENT = """\
#!/bin/sh
while [ $# -gt 1 ]; do
  case $1 in --interface) interface=$2;; --password-file) password=$(cat $2);; esac
  shift 2
done
[ "$password" = hunter2 ] || { echo "acmevpn: login refused"; exit 1; }
trap 'exit 0' TERM
echo "acmevpn: session established with 192.0.2.1, address 10.9.0.7"
sleep 1000 & wait
"""
# The same with an interface, for a network namespace.
INTERFACE = CLIENT.replace(
    "trap 'exit 0' TERM",
    "ip tuntap add dev $interface mode tun && ip addr add 10.9.0.7/32 dev $interface && ip link set $interface up || exit 1\n"
    "trap 'ip link delete $interface; exit 0' TERM",
)
# A session of the kind with the daemon's own runner of clients, and what it posts.
SESSION = """
import asyncio, json, sys
from pathlib import Path
from supervisor.clients.runner import Runner
from supervisor.clients.spawner import ClientSources
from supervisor.config.validation import validated
from supervisor.core.events import ClientSaid, Exited, Spawned
from tunnels.registry import KINDS

async def main(directory, program, password):
    kind = KINDS["acmevpn"]
    tunnel = validated(kind.options, {
        "name": "acme", "destinations": ["10.77.0.0/24"], "server": "vpn.acme.example", "program": program,
        "login": {"username": "svc", "password": {"file": "acme-password"}},
    })
    inbox = asyncio.Queue()
    sources = ClientSources(KINDS, lambda kind, tunnel: {item.name: password for item in kind.inputs(tunnel)})
    runner = Runner(Path(directory), sources, inbox.put_nowait)
    runner.start()
    runner.spawn(tunnel, 1)
    while True:
        event = await asyncio.wait_for(inbox.get(), 60)
        said = event.what if isinstance(event, ClientSaid) else None
        print(json.dumps([type(event).__name__, type(said).__name__, repr(said)]), flush=True)
        if type(said).__name__ == "Connected":
            runner.terminate("acme", 1)
        if isinstance(event, Exited):
            break
    await runner.close()

asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3].encode()))
"""


def blocks(language: str) -> list[str]:
    """The code blocks of the document in this language."""
    return [text for found, text in _BLOCK.findall(DOCUMENT.read_text()) if found == language]


def configuration() -> str:
    [text] = blocks("yaml")
    return text


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the kinds with the document's files in it, and a client in its bin/."""
    root = tmp_path_factory.mktemp("tree")
    for package in ("common", "supervisor", "tunnels"):
        shutil.copytree(REPOSITORY / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    for text in blocks("python"):
        first, _, rest = text.partition("\n")
        path = root / first.removeprefix("# ")
        assert path.suffix == ".py", "a block begins with the path of its file"
        assert not path.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(rest)
    for text in blocks("diff"):
        subprocess.run(["git", "apply", "--unidiff-zero", "-"], input=text, text=True, cwd=root, check=True)
    return root


@pytest.fixture
def client(tmp_path: Path) -> Path:
    """The program that the kind runs."""
    path = tmp_path / "acmevpn"
    path.write_text(CLIENT)
    path.chmod(0o755)
    return path


def run(tree: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """A program that finds the copy before this checkout."""
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    return subprocess.run([sys.executable, *argv], capture_output=True, text=True, cwd=tree, env=environment)


@pytest.mark.slow
def test_the_documents_own_test_passes(tree: Path) -> None:
    done = run(tree, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tree), "tests/tunnels")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout


@pytest.mark.slow
def test_check_accepts_a_configuration_of_the_kind(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "acme-password").write_text("hunter2")
    path = tmp_path / "config.yaml"
    path.write_text(configuration())
    done = run(tree, "-m", "supervisor", "check", "-c", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    path.write_text(configuration().replace("server:", "sever:"))
    done = run(tree, "-m", "supervisor", "check", "-c", str(path))
    assert done.returncode != 0
    assert "sever" in done.stdout + done.stderr


def test_without_it_check_does_not_know_the_kind(tmp_path: Path) -> None:
    """The test of the test: what makes the difference is the document."""
    path = tmp_path / "config.yaml"
    path.write_text(configuration())
    done = subprocess.run([*FACILITATOR, "check", "-c", str(path)], capture_output=True, text=True)
    assert done.returncode != 0
    assert "acmevpn" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("password", "events"),
    [("hunter2", ["Spawned", "Connected", "Exited"]), ("wrong", ["Spawned", "Failed", "Exited"])],
)
def test_a_session_runs(tree: Path, tmp_path: Path, client: Path, password: str, events: list[str]) -> None:
    """Started, understood and ended by the daemon's own runner of clients."""
    done = run(tree, "-c", SESSION, str(tmp_path / "run"), str(client), password)
    assert done.returncode == 0, done.stdout + done.stderr
    posted = [json.loads(line) for line in done.stdout.splitlines()]
    assert [said if said != "NoneType" else event for event, said, _ in posted] == events
    meaning = (
        "address='10.9.0.7', peer='192.0.2.1'" if password == "hunter2" else "the gateway refused the account"
    )
    assert meaning in posted[1][2]


def test_its_files_are_in_style(tree: Path) -> None:
    files = [str(path) for path in tree.rglob("*acmevpn*/*.py")] + [
        str(path) for path in tree.glob("tests/**/*.py")
    ]
    assert len(files) == 3
    config = ("--config", str(REPOSITORY / ".ruff.toml"), "--no-cache")
    for command in (("check",), ("format", "--check")):
        done = run(tree, "-m", "ruff", *command, *config, *files)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_its_types_are_checked(tree: Path) -> None:
    shutil.copy(REPOSITORY / "setup.cfg", tree)
    done = run(tree, "-m", "mypy", "-p", "tunnels.kinds.acmevpn", "--cache-dir", str(tree / ".mypy_cache"))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_new_kind_is_held_to_the_contracts_by_itself(tree: Path) -> None:
    """Nobody names it in setup.cfg. What is pure stays so, also in a module that only kind.py imports."""
    shutil.copy(REPOSITORY / "setup.cfg", tree)
    lint = (
        "-c",
        "import sys; from importlinter.cli import lint_imports_command as lint; sys.path.insert(0, '.'); lint()",
    )
    kept = run(tree, *lint, "--no-cache")
    assert kept.returncode == 0, kept.stdout
    kind = tree / "tunnels" / "kinds" / "acmevpn" / "kind.py"
    plain = kind.read_text()
    try:
        kind.write_text(plain.replace("import re\n", "import re\nimport tunnels.kinds.acmevpn.profile\n"))
        kind.with_name("profile.py").write_text('"""Reads the clock."""\n\nimport time\n')
        broken = run(tree, *lint, "--no-cache")
        assert broken.returncode != 0
        assert "tunnels.kinds.acmevpn.profile -> time" in broken.stdout
    finally:
        kind.write_text(plain)
        kind.with_name("profile.py").unlink()


class AcmeDaemon(LabDaemon):
    """The daemon that knows the kind."""

    tree: Path
    plain = ""

    def start(self, within: float = 15.0, ready: int | None = 200) -> None:
        """Start it and wait until it is ready."""
        with self.log.open("w") as log:
            self._process = self.namespace.popen(
                *(*FACILITATOR, "run", "-c", str(self.config_file)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.tree,
                env={**os.environ, "PYTHONPATH": str(self.tree)},
                start_new_session=True,
            )
        eventually(lambda: self._ready(ready or 200), within, "it is ready")

    def cleanup(self) -> int:
        """This checkout does not know the kind: what is left is removed with the configuration of
        the others.
        """
        self.config_file.write_text(self.plain)
        return super().cleanup()


@pytest.mark.root
def test_the_daemon_runs_a_tunnel_of_the_kind(
    lab: Lab, config: Config, tree: Path, tmp_path: Path, client: Path
) -> None:
    """Its interface carries the destination, beside the tunnels of other kinds."""
    client.write_text(INTERFACE)
    (tmp_path / "acme-password").write_text("hunter2")
    daemon = AcmeDaemon(lab.network["facilitator"], lab.directory, config)
    daemon.tree, daemon.plain = tree, daemon.config_file.read_text()
    acme = {
        "kind": "acmevpn",
        "server": "192.0.2.1",
        "program": str(client),
        "destinations": ["10.99.1.0/24"],
        "login": {"username": "svc", "password": {"file": str(tmp_path / "acme-password")}},
    }
    daemon.configure({**config, "tunnels": {**config["tunnels"], "acme-ssl": acme}})
    with daemon:
        daemon.wait_for("acme-ssl", phase="up", carries=["10.99.1.0/24"])
        daemon.wait_for("acme-dc", phase="up")
        routes = daemon.namespace.run("ip", "route", "show", "table", "all", "proto", "173").stdout
        assert "default dev t-acme-ssl" in routes
    assert "t-acme-ssl" not in daemon.namespace.run("ip", "link").stdout
