"""The clients' control group: found on every kind of host, outlives the daemon's group, leaves nothing."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.clients.cgroup import MAX_PIDS, SLICE, ClientGroup, Hierarchy, group_name, hierarchies
from tests.lab.wait import eventually

UNIFIED = "31 24 0:27 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
HYBRID = [
    "40 30 0:30 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755",
    "41 40 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory",
    "42 40 0:32 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct",
    "43 40 0:33 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd",
    "44 40 0:34 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw",
]
OWN = ["5:name=systemd:/", "4:memory:/nomad/task", "3:cpu,cpuacct:/", "0::/nomad/task"]


def test_a_host_with_cgroup_v2() -> None:
    assert list(hierarchies([UNIFIED], ["0::/nomad.slice/share.slice/x.scope"])) == [
        Hierarchy(Path("/sys/fs/cgroup"), frozenset(), "/nomad.slice/share.slice/x.scope")
    ]


def test_a_hybrid_host() -> None:
    assert list(hierarchies(HYBRID, OWN)) == [
        Hierarchy(Path("/sys/fs/cgroup/unified"), frozenset(), "/nomad/task"),
        Hierarchy(Path("/sys/fs/cgroup/cpu,cpuacct"), frozenset({"cpu", "cpuacct"}), "/"),
        Hierarchy(Path("/sys/fs/cgroup/memory"), frozenset({"memory"}), "/nomad/task"),
        Hierarchy(Path("/sys/fs/cgroup/systemd"), frozenset({"name=systemd"}), "/"),
    ]


def test_clients_move_where_the_daemon_was_put_somewhere() -> None:
    group = ClientGroup("fac 1", hierarchies(HYBRID, OWN))
    assert group.paths == [
        Path("/sys/fs/cgroup/unified", SLICE, "fac-1"),
        Path("/sys/fs/cgroup/memory", SLICE, "fac-1"),
    ]


def as_the_kernel_would(hierarchy: Hierarchy, name: str) -> Path:
    """The group's directory, in no cgroup file system, with the files that the kernel puts there."""
    path = hierarchy.mount / SLICE / name
    path.mkdir(parents=True)
    files = (
        {"memory.high", "memory.max", "pids.max"}
        if hierarchy.unified
        else {"memory.limit_in_bytes", "pids.max"}
    )
    for file in (*files, "cgroup.procs"):
        (path / file).touch()
    for parent in (hierarchy.mount, hierarchy.mount / SLICE):
        (parent / "cgroup.subtree_control").touch()
    return path


def test_a_client_moves_in_every_hierarchy_of_a_hybrid_host(tmp_path: Path) -> None:
    """One of v1 and one of v2; that in which the daemon is in the root is left alone."""
    unified = Hierarchy(tmp_path / "unified", frozenset(), "/nomad/task")
    memory = Hierarchy(tmp_path / "memory", frozenset({"memory"}), "/nomad/task")
    freezer = Hierarchy(tmp_path / "freezer", frozenset({"freezer"}), "/")
    new, old = as_the_kernel_would(unified, "x"), as_the_kernel_would(memory, "x")
    group = ClientGroup("x", [unified, memory, freezer])
    assert group.add(4242)
    assert group.unavailable is None
    assert [(path / "cgroup.procs").read_text() for path in (new, old)] == ["4242", "4242"]
    assert group.members() == {4242}
    assert int((old / "memory.limit_in_bytes").read_text()) == int((new / "memory.max").read_text()) > 1 << 20
    assert {(path / "pids.max").read_text() for path in (new, old)} == {str(MAX_PIDS)}
    assert not freezer.mount.exists()


def test_a_v1_hierarchy_that_refuses_says_which(tmp_path: Path) -> None:
    memory = Hierarchy(tmp_path / "memory", frozenset({"memory"}), "/nomad/task")
    group = ClientGroup("x", [memory])
    assert group.make()
    assert not group.add(4242)
    assert group.unavailable == f"{group.paths[0]}/cgroup.procs: No such file or directory"


def test_a_bind_mount_of_one_group_does_not_count() -> None:
    assert not list(hierarchies([UNIFIED.replace(" / /sys", " /docker/x /sys")], ["0::/"]))


def test_a_mount_point_with_a_space() -> None:
    found = list(hierarchies([UNIFIED.replace("/sys/fs/cgroup", "/sys/fs/c\\040group")], ["0::/"]))
    assert found[0].mount == Path("/sys/fs/c group")


@pytest.mark.parametrize("line", ["", "x", "1 2 3", "31 24 0:27 / /sys/fs/cgroup rw - cgroup2"])
def test_lines_that_mean_nothing(line: str) -> None:
    assert not list(hierarchies([line], [line, "0::/"]))


@pytest.mark.parametrize("name", ["../../x", "a/b", "", "...", "x" * 300])
def test_no_name_leaves_the_slice(name: str) -> None:
    made = group_name(name)
    assert "/" not in made
    assert made not in ("", ".", "..")
    assert len(made) <= 64


def test_without_any_hierarchy_it_says_so() -> None:
    group = ClientGroup("x", [])
    assert not group.add(os.getpid())
    assert group.unavailable == "no cgroup hierarchy is mounted"


def test_a_hierarchy_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / SLICE).write_text("a file where the slice would be")
    group = ClientGroup("x", [Hierarchy(tmp_path, frozenset({"memory"}), "/task")])
    assert not group.add(os.getpid())
    assert str(tmp_path) in (group.unavailable or "")


@pytest.fixture
def group() -> Iterator[ClientGroup]:
    made = ClientGroup(f"test-{secrets.token_hex(4)}")
    if not made.make():
        pytest.skip(f"no control groups here: {made.unavailable}")
    yield made
    made.remove()
    assert not any(path.exists() for path in made.paths)


@pytest.mark.root
def test_what_a_client_starts_is_in_the_group_too(group: ClientGroup) -> None:
    client = subprocess.Popen(
        ["/bin/sh", "-c", "read go; sleep 1000 & wait"], stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        assert group.add(client.pid)
        assert client.stdin is not None
        client.stdin.write(b"go\n")
        client.stdin.flush()
        eventually(lambda: len(group.members()) == 2, 10, "the client's child is in the group")
        assert client.pid in group.members()
    finally:
        os.killpg(client.pid, signal.SIGKILL)
        client.wait()
        eventually(lambda: not group.members(), 10, "the group is empty")


@pytest.mark.root
def test_a_client_outlives_the_kill_of_the_task(group: ClientGroup) -> None:
    """As a scheduler does it: everything in the task's group is killed at one stroke."""
    task = group.paths[0].parent.parent / f"task-{secrets.token_hex(4)}"
    task.mkdir()
    client = None
    try:
        if not (task / "cgroup.kill").exists():
            pytest.skip("this kernel has no cgroup.kill (before Linux 5.14)")
        program = "import subprocess; print(subprocess.Popen(['sleep', '1000']).pid, flush=True); input()"
        daemon = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        (task / "cgroup.procs").write_text(str(daemon.pid))
        assert daemon.stdout is not None
        client = int(daemon.stdout.readline())
        assert group.add(client)
        (task / "cgroup.kill").write_text("1")
        assert daemon.wait(10) == -signal.SIGKILL
        assert client in group.members()
    finally:
        if client is not None:
            os.kill(client, signal.SIGKILL)
        eventually(lambda: not group.members(), 10, "the group is empty")
        eventually(lambda: _removed(task), 10, "the task's group is empty")


def _removed(path: Path) -> bool:
    try:
        path.rmdir()
    except OSError:
        return False
    return True


@pytest.mark.root
def test_a_process_that_has_ended_meanwhile(group: ClientGroup) -> None:
    done = subprocess.Popen(["/bin/true"])
    done.wait()
    assert not group.add(done.pid)
    assert group.unavailable is None
