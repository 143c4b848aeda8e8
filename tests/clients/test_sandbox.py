"""The boundary of a client: what it leaves open, and that the kernel holds it. Nothing here needs a
privilege.
"""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.clients import seccomp, syscalls
from supervisor.clients.one_shot_thread import apart
from supervisor.clients.sandbox import Sandbox, boundary, confined, enter, handled_by
from tunnels.base import Launch

needs_landlock = pytest.mark.skipif(syscalls.landlock_abi() == 0, reason="this kernel has no Landlock")
PTRACE_TRACEME = 0


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A client's directory, a private one within a shared one, and files in all of them."""
    for name in ("clients/acme", "clients/globex", "shared/private/sub", "shared/open", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_text(name)
    return tmp_path


def shell(sandbox: Sandbox, script: str, *words: object) -> str:
    """What a shell in the sandbox prints."""
    argv = ["/bin/sh", "-c", script, "sh", *map(str, words)]
    process = confined(
        sandbox, lambda: subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    )
    return process.communicate()[0].strip()


def readable(host: Path, launch: Launch) -> set[str]:
    sandbox = boundary(launch, host / "clients/acme", (host / "shared/private", host / "clients/acme/.."))
    found = shell(sandbox, 'for f in "$@"; do cat $f 2>/dev/null && echo; done', *sorted(host.rglob("file")))
    return set(found.splitlines())


@needs_landlock
def test_a_client_has_its_own_directory_and_what_it_names(host: Path) -> None:
    assert readable(host, Launch(("sh",))) == {"clients/acme"}
    assert readable(host, Launch(("sh",), reads=(host / "elsewhere",))) == {"clients/acme", "elsewhere"}
    assert readable(host, Launch(("sh",), reads=(host / "elsewhere/file",))) == {"clients/acme", "elsewhere"}


@needs_landlock
def test_what_is_private_stays_closed_in_what_is_open(host: Path) -> None:
    assert readable(host, Launch(("sh",), reads=(host / "shared",))) == {"clients/acme", "shared/open"}
    assert readable(host, Launch(("sh",), reads=(host / "shared/private",))) == {"clients/acme"}
    assert readable(host, Launch(("sh",), reads=(host / "shared/private/sub",))) == {
        "clients/acme",
        "shared/private/sub",
    }
    (host / "link").symlink_to(host / "shared")
    assert readable(host, Launch(("sh",), reads=(host / "link",))) == {"clients/acme", "shared/open"}


@needs_landlock
def test_a_program_runs_wherever_it_lies_with_what_lies_beside_it(host: Path) -> None:
    program = host / "elsewhere/client"
    program.write_text('#!/bin/sh\ncat "${0%/*}/file"\n')
    program.chmod(0o755)
    launch = Launch((str(program),))
    assert shell(boundary(launch, host / "clients/acme"), f"exec {program}") == "elsewhere"
    closed = boundary(launch, host / "clients/acme", (host / "elsewhere",))
    assert "Permission denied" in shell(closed, f"exec {program}"), "it runs, and reads nothing beside it"


@needs_landlock
def test_what_a_client_may_change(host: Path) -> None:
    sandbox = boundary(Launch(("sh",), writes=(host / "elsewhere",)), host / "clients/acme")
    tries = [host / name / "new" for name in ("clients/acme", "clients/globex", "shared/open", "elsewhere")]
    said = shell(
        sandbox, 'for f in "$@"; do (: >$f) 2>/dev/null && mv $f $f~ && rm $f~ && echo $f; done', *tries
    )
    assert said.splitlines() == [str(tries[0]), str(tries[3])]
    copied = shell(sandbox, 'cd "$1" && cp /bin/true . && ./true', host / "clients/acme")
    assert "Permission denied" in copied, "what it has written is not run"


@needs_landlock
def test_the_process_and_its_other_threads_stay_as_they_were(host: Path) -> None:
    before = Path("/proc/thread-self/status").read_text().partition("NoNewPrivs")[2]
    shell(boundary(Launch(("sh",)), host / "clients/acme"), "true")
    assert (host / "clients/globex/file").read_text() == "clients/globex"
    assert apart((host / "clients/globex/file").read_text) == "clients/globex"
    after = Path("/proc/thread-self/status").read_text().partition("NoNewPrivs")[2]
    assert before.splitlines()[:3] == after.splitlines()[:3]


@needs_landlock
def test_what_is_stopped_at_the_boundary(host: Path) -> None:
    """Signals and looks at processes outside; inside of it everything goes."""
    if syscalls.landlock_abi() < 6:
        pytest.skip("this kernel's Landlock does not know of signals")
    with subprocess.Popen(["sleep", "1000"]) as other:
        inside = "sleep 1000 & kill -0 $! && cat /proc/$!/environ >/dev/null && kill $! && echo in"
        script = f'kill -0 "$1"; cat /proc/"$1"/environ >/dev/null; {inside}'
        said = shell(boundary(Launch(("sh",)), host / "clients/acme"), script, other.pid)
        other.kill()
    assert said.lower().count("not permitted") == 1
    assert said.count("Permission denied") == 1
    assert said.endswith("in")


@pytest.mark.slow
@pytest.mark.parametrize("abi", range(1, syscalls.landlock_abi() + 1))
def test_older_versions_of_landlock_are_used_as_far_as_they_go(abi: int, host: Path) -> None:
    """Each of them closes files; a kernel would refuse what its version does not know."""
    code = f"""
import os, sys
from pathlib import Path
from supervisor.clients import sandbox, syscalls
from tunnels.base import Launch
syscalls.no_new_privileges()
sandbox.close_files(sandbox.boundary(Launch(("sh",)), Path({str(host / "clients/acme")!r})).files, {abi})
print(open({str(host / "clients/acme/file")!r}).read())
open({str(host / "elsewhere/file")!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "clients/acme\n"
    assert "PermissionError" in done.stderr
    assert handled_by(abi) & handled_by(1) == handled_by(1)


# --- system calls
# ----------------------------------------------------------------------------------------------------------


def refused(number: int, *arguments: int) -> int:
    """The error of a system call behind the filter; 0: none."""
    libc = ctypes.CDLL(None, use_errno=True)

    def call() -> int:
        syscalls.no_new_privileges()
        syscalls.filter_system_calls(seccomp.program())
        return 0 if libc.syscall(number, *arguments) >= 0 else ctypes.get_errno()

    return apart(call)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="these are the numbers of x86_64")
@pytest.mark.parametrize(
    ("number", "arguments", "error"),
    [
        (101, (PTRACE_TRACEME, 0, 0, 0), errno.ENOSYS),  # ptrace
        (310, (1, 0, 0, 0, 0, 0), errno.ENOSYS),  # process_vm_readv
        (438, (0, 0, 0), errno.ENOSYS),  # pidfd_getfd
        (425, (1, 0), errno.ENOSYS),  # io_uring_setup
        (302, (os.getppid(), 7, 0, 0), errno.EPERM),  # prlimit64 of another process,
        (302, (0, 7, 0, 0), 0),  # and its own
        (141, (0, os.getppid(), 19), errno.EPERM),  # setpriority of another process,
        (141, (2, 0, 19), errno.EPERM),  # of all of its user's,
        (141, (0, 0, 0), 0),  # and its own
        (144, (os.getppid(), 0, 0), errno.EPERM),  # sched_setscheduler
        (157, (4, 0, 0, 0, 0), errno.EPERM),  # prctl(PR_SET_DUMPABLE, 0)
        (157, (4, 1, 0, 0, 0), 0),  # and 1
        (157, (3, 0, 0, 0, 0), 0),  # PR_GET_DUMPABLE
        (0x4000_0000 + 39, (), errno.ENOSYS),  # getpid of x32
        (39, (), 0),  # getpid
    ],
)
def test_system_calls(number: int, arguments: tuple[int, ...], error: int) -> None:
    assert refused(number, *arguments) == error


def test_a_machine_that_nobody_knows_is_left_alone() -> None:
    assert len(seccomp.program("riscv64")) == 16, "looks at the architecture, and lets everything pass"
    assert len(seccomp.program("x86_64")) % 8 == len(seccomp.program("aarch64")) % 8 == 0


def test_root_starts_what_is_not_root(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    status = shell(boundary(Launch(("sh",)), tmp_path), "cat /proc/self/status")
    found = dict(line.split(":\t") for line in status.splitlines() if ":\t" in line)
    assert {int(found[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")} == {1 << 12}, "CAP_NET_ADMIN"
    assert (found["NoNewPrivs"], int(found["CapInh"], 16)) == ("1", 0)


def test_it_is_for_one_thread(tmp_path: Path) -> None:
    if syscalls.landlock_abi() == 0:
        pytest.skip("this kernel has no Landlock")

    def inside() -> str:
        enter(boundary(Launch(("sh",)), tmp_path))
        with pytest.raises(PermissionError):
            Path(__file__).with_name("elsewhere").write_text("x")
        return "confined"

    assert apart(inside) == "confined"
    (tmp_path.parent / "elsewhere").write_text("x")
