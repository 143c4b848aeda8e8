"""A throwaway machine: real systemd as PID 1 in a systemd-nspawn container with a network of its own.

The root file system is built once by mmdebstrap into the project's cache (`python -m
tests.packaging.container` does it beforehand); each machine sees it through an overlay that lives in memory.
Mounts are in a mount namespace of the machine, and the machine dies with the test process, so that even a
killed run leaves only a network namespace and empty cgroups, which the next run sweeps up.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import select
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tests.lab.wait import PATIENCE, eventually
from tests.netns import PREFIX, Namespace

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "nspawn"
PACKAGES = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "iproute2",
    "nftables",
    "python3",
    "procps",  # the machine
    "openvpn",
    "openssh-client",
    "openconnect",
    "wireguard-go",
    "vpnc",  # the VPN clients
    "charon-systemd",
    "libstrongswan-standard-plugins",
    "libcharon-extra-plugins",
    "libcharon-extauth-plugins",
    "make",
    "python3-venv",  # an installation
)
SERVICES = ("strongswan", "openvpn")  # of these packages: they would take ports and devices
_PROGRAMS = {
    "mmdebstrap": "mmdebstrap",
    "systemd-nspawn": "systemd-container",
    "setpriv": "util-linux",
    "nsenter": "util-linux",
}
_TUN = Path("/dev/net/tun")
_CGROUPS = Path("/sys/fs/cgroup")

# $1 scratch directory, $2 root file system, $3 cgroups, $4 files that are there before the first boot, or
# nothing; then the command.
# /run/systemd is hidden because nspawn leaves files there when it is killed. /dev/net/tun is open to all, as
# udev makes it.
_START = """
set -eu; scratch=$1; root=$2; cgroups=$3; seed=$4; shift 4
for cgroup in $cgroups; do echo $$ > "$cgroup/cgroup.procs"; done
mkdir -p /run/systemd; mount -t tmpfs tmpfs /run/systemd
mount -t tmpfs -o mode=0755 tmpfs "$scratch"; mkdir "$scratch/upper" "$scratch/work" "$scratch/root"
if [ -n "$seed" ]; then cp --recursive --no-dereference --preserve=mode "$seed/." "$scratch/upper"; fi
mknod "$scratch/tun" c 10 200; chmod 0666 "$scratch/tun"
mount -t overlay -o "lowerdir=$root,upperdir=$scratch/upper,workdir=$scratch/work" overlay "$scratch/root"
exec "$@"
"""


def unavailable() -> str | None:
    """Why no machine can be made here; None: it can."""
    missing = sorted({package for program, package in _PROGRAMS.items() if shutil.which(program) is None})
    if missing:
        return f"booting systemd needs these Debian packages: {' '.join(missing)}"
    if not _TUN.exists():
        return "the kernel of this machine has no /dev/net/tun"
    if not os.access(_CGROUPS, os.W_OK) or not _hierarchies():
        return "no cgroup can be made here"
    return None


def root_file_system() -> Path:
    """The machine's root file system: built at the first call (about a minute), kept in the cache. Never
    written to afterwards.
    """
    release = platform.freedesktop_os_release()
    debian = release["ID"] == "debian"
    suite = release["VERSION_CODENAME"] if debian else "bookworm"
    recipe = hashlib.sha256(" ".join((suite, *PACKAGES, *SERVICES)).encode()).hexdigest()[:12]
    root = CACHE / f"{suite}-{recipe}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            for outdated in CACHE.iterdir():
                if outdated.is_dir():
                    shutil.rmtree(outdated)
            _build(CACHE / "unfinished", suite, _host_sources() if debian else ())
            (CACHE / "unfinished").rename(root)
    return root


def _build(target: Path, suite: str, sources: tuple[str, ...]) -> None:
    command = [
        "mmdebstrap",
        "--quiet",
        "--variant=minbase",
        "--format=directory",
        '--aptopt=Acquire::Languages "none"',
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        f"--include={','.join(PACKAGES)}",
        f'--customize-hook=chroot "$1" systemctl disable --quiet {" ".join(SERVICES)}',
        suite,
        str(target),
        *sources,
    ]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode != 0:
        raise AssertionError(f"mmdebstrap: exit {done.returncode}\n{done.stdout}")


def _host_sources() -> tuple[str, ...]:
    """Where this host gets its own packages; nothing: mmdebstrap's default."""
    candidates = (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list"))
    return tuple(str(path) for path in candidates if path.exists() and path.stat().st_size > 0)[:1]


class Machine:
    """One booted machine. Files in it are reached by `path`, programs in it are started by `run`."""

    def __init__(
        self,
        scratch: Path,
        binds: Mapping[Path, str] | None = None,
        network: Namespace | None = None,
        seed: Path | None = None,
    ) -> None:
        """Boot it. `binds`: host paths that it sees read-only, and where. `scratch`: an empty directory
        for its console and overlay. `seed`: a tree of files that are there before it boots.

        `network`: where it lives, else in a network of its own.
        """
        self.network = network or Namespace("vm")
        self._lent = network is not None
        self.name = self.network.name
        self._cgroups = [hierarchy / self.name for hierarchy in _hierarchies()]
        self._console = scratch / "console.log"
        self._process: subprocess.Popen[bytes] | None = None
        try:
            for cgroup in self._cgroups:
                cgroup.mkdir()
            self._leader = self._boot(scratch, binds or {}, seed)
        except BaseException:
            self.remove()
            raise

    def run(self, *command: str, check: bool = True, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command in the machine, as root, to its end."""
        done = subprocess.run(
            ["nsenter", "--target", str(self._leader), "--all", "--", *command],
            capture_output=True,
            text=True,
            timeout=timeout,
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
        )
        if check and done.returncode != 0:
            raise AssertionError(
                f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}{self.journal()}"
            )
        return done

    def path(self, inside: str) -> Path:
        """A file of the machine as seen from here."""
        return Path(f"/proc/{self._leader}/root") / inside.lstrip("/")

    def write(self, inside: str, text: str, mode: int = 0o644) -> None:
        """Make a file in the machine, and its directories."""
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Properties of a unit, as `systemctl show` says them."""
        lines = self.run("systemctl", "show", unit, f"--property={','.join(properties)}").stdout.splitlines()
        return dict(line.split("=", 1) for line in lines)

    def journal(self) -> str:
        """The end of the machine's log, for messages of failed tests."""
        return self.run("journalctl", "--no-pager", "--output=cat", "--lines=60", check=False).stdout

    def power_off(self) -> float:
        """Shut it down as an administrator does, in its own time; seconds until it was off."""
        assert self._process is not None
        began = time.monotonic()
        self.run("systemctl", "poweroff", "--no-block")
        self._process.wait(timeout=PATIENCE)
        return time.monotonic() - began

    def remove(self) -> None:
        """Pull the plug, and take away everything that belonged to it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        try:
            for cgroup in self._cgroups:
                _remove_cgroup(cgroup)
        finally:
            if not self._lent:
                self.network.remove()

    def _boot(self, scratch: Path, binds: Mapping[Path, str], seed: Path | None) -> int:
        overlay = scratch / "overlay"
        overlay.mkdir()
        nspawn = [
            "systemd-nspawn",
            "--quiet",
            "--register=no",
            "--keep-unit",
            f"--directory={overlay}/root",
            f"--machine={self.name}",
            f"--network-namespace-path=/run/netns/{self.name}",
            "--capability=all",
            f"--bind={overlay}/tun:{_TUN}",
            "--notify-ready=yes",
            "--console=read-only",
            *(f"--bind-ro={host}:{inside}" for host, inside in binds.items()),
            "--boot",
        ]
        start = [
            "setpriv",
            "--pdeathsig",
            "KILL",
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            _START,
            "sh",
            str(overlay),
            str(root_file_system()),
            " ".join(map(str, self._cgroups)),
            "" if seed is None else str(seed),
            *nspawn,
        ]
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener,
            self._console.open("wb") as console,
        ):
            listener.bind(f"\0{self.name}")
            # cgroup2 alone inside, whatever the host has; and no seccomp filter, which would forbid the
            # bpf(2) behind DeviceAllow=
            environment = {
                "PATH": os.environ["PATH"],
                "NOTIFY_SOCKET": f"@{self.name}",
                "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
                "SYSTEMD_SECCOMP": "0",
            }
            self._process = subprocess.Popen(
                start, stdin=subprocess.DEVNULL, stdout=console, stderr=console, env=environment
            )
            return self._until_booted(self._process.pid, listener, timeout=120)

    def _until_booted(self, pid: int, listener: socket.socket, timeout: float) -> int:
        """Wait for the machine's own READY=1; returns the host's pid of its PID 1."""
        said: dict[str, str] = {}
        deadline = time.monotonic() + timeout
        ended = os.pidfd_open(pid)
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        poll.register(ended, select.POLLIN)
        try:
            while "READY" not in said:
                able = [fd for fd, _ in poll.poll(max(0.0, deadline - time.monotonic()) * 1000)]
                if listener.fileno() not in able:
                    raise AssertionError(
                        f"the machine did not boot\n{self._console.read_text(errors='replace')[-4000:]}"
                    )
                said |= dict(
                    field.split("=", 1) for field in listener.recv(4096).decode().splitlines() if "=" in field
                )
        finally:
            os.close(ended)
        return int(said["X_NSPAWN_LEADER_PID"])


@contextlib.contextmanager
def machine(
    scratch: Path,
    binds: Mapping[Path, str] | None = None,
    network: Namespace | None = None,
    seed: Path | None = None,
) -> Iterator[Machine]:
    """A booted machine for the length of a block."""
    booted = Machine(scratch, binds, network, seed)
    try:
        yield booted
    finally:
        booted.remove()


def sweep() -> None:
    """End machines of test processes that are gone, and remove their cgroups."""
    for hierarchy in _hierarchies():
        for cgroup in hierarchy.glob(f"{PREFIX}-*"):
            if not Path(f"/proc/{cgroup.name.split('-')[1]}").exists():
                _remove_cgroup(cgroup)


def _hierarchies() -> list[Path]:
    """Where systemd keeps its groups: on a hybrid host in two places."""
    hybrid = [path for path in (_CGROUPS / "unified", _CGROUPS / "systemd") if path.exists()]
    return hybrid or ([_CGROUPS] if (_CGROUPS / "cgroup.procs").exists() else [])


def _remove_cgroup(cgroup: Path) -> None:
    eventually(lambda: _removed(cgroup), 15, f"{cgroup} is empty")


def _removed(cgroup: Path) -> bool:
    """Kill what is in a tree of groups and remove them; False while a dying process still holds one."""
    for group, _, _ in os.walk(cgroup, topdown=False):
        with contextlib.suppress(OSError):  # groups vanish under our feet while their processes die
            _kill(Path(group, "cgroup.procs").read_text().split())
            Path(group).rmdir()
    return not cgroup.exists()


def _kill(pids: Iterable[str]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


def main() -> None:
    """Build the root file system, or say why there is none."""
    print(unavailable() or f"The root file system for the containers is in {root_file_system()}")


if __name__ == "__main__":
    main()
