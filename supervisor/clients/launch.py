"""From a kind's `Launch` to a running process: inputs read, secrets into anonymous files, a minimal
environment, no shell.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from supervisor import disk
from supervisor.clients.processes import TAG
from supervisor.clients.sandbox import NotConfined, Sandbox, confined
from supervisor.clients.sockets import LONGEST_PATH
from tunnels.base import KEY, AnyKind, Launch, Reason, Tunnel
from tunnels.profiles import ProfileError
from tunnels.settings import SecretError

InputReader = Callable[
    [AnyKind, Tunnel], Mapping[str, bytes]
]  # all inputs of a tunnel; OSError or ValueError with a sentence

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# The hard bound of what a client can write, should the loop be too busy to cut its output in time: what is
# too much is lost (EFBIG)
# instead of filling the disk. The signal that would end the client at this limit is ignored from before its
# first instruction.
LARGEST_FILE = 12 << 20
_PATIENT = ("/usr/bin/env", "--ignore-signal=XFSZ", "--")
_PACKAGES = {
    "ssh": "openssh-client",
    "wg": "wireguard-tools",
    "swanctl": "strongswan-swanctl",
    "pppd": "ppp",
    "setpriv": "util-linux",
    "stdbuf": "coreutils",
}
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class SpawnError(Exception):
    """No client process, for `reason`, in words."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason, self.text = reason, text


@contextlib.contextmanager
def own_fault(sentence: str) -> Iterator[None]:
    """A defect in a kind, or in us, fails its own tunnel only: a SpawnError. The text of the error could
    hold a secret.
    """
    try:
        yield
    except SpawnError:
        raise
    except Exception as error:
        raise SpawnError(Reason.LOCAL, f"{sentence}: {type(error).__name__}") from error


def read_inputs(kind: AnyKind, tunnel: Tunnel, read: InputReader) -> dict[str, bytes]:
    """The contents by the kind's names. SpawnError(CLIENT_CONFIG): a profile is wrong;
    SpawnError(SECRET), SpawnError(MISSING_INPUT).
    """
    try:
        return dict(read(kind, tunnel))
    except ProfileError as error:
        raise SpawnError(Reason.CLIENT_CONFIG, str(error)) from error
    except SecretError as error:
        raise SpawnError(Reason.SECRET, str(error)) from error
    except (OSError, ValueError) as error:
        raise SpawnError(Reason.MISSING_INPUT, str(error)) from error


def require(programs: Iterable[str]) -> None:
    """SpawnError(MISSING_BINARY) that says what to install."""
    for program in programs:
        if shutil.which(program, path=PATH) is None and not os.path.exists(program):
            package = _PACKAGES.get(os.path.basename(program), os.path.basename(program))
            raise SpawnError(
                Reason.MISSING_BINARY,
                f"{program} is not installed (Debian and Ubuntu: apt install {package})",
            )


def prepare_directory(directory: Path, launch: Launch | None = None) -> None:
    """The tunnel's private directory; with a launch, without the socket that an earlier client left.
    SpawnError(LOCAL).
    """
    try:
        disk.make_way(directory, directory=True)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (
            directory.stat().st_uid != os.geteuid()
        ):  # left by a daemon of another user: what a client may as root, it may here only
            os.chown(directory, os.geteuid(), -1)
        directory.chmod(0o700)
        if launch is not None and launch.management is not None:
            disk.make_way(launch.management)
            launch.management.unlink(missing_ok=True)
    except OSError as error:
        raise SpawnError(Reason.LOCAL, f"{directory}: {error.strerror}") from error
    if (
        launch is not None
        and launch.management is not None
        and len(os.fsencode(launch.management)) > LONGEST_PATH
    ):
        raise SpawnError(
            Reason.LOCAL,
            f"{launch.management} is longer than a socket's path may be; choose a shorter runtime_dir",
        )


def _make(paths: Iterable[Path]) -> None:
    """Directories that are not there yet. Where they cannot be made, the client says so better than we
    can.
    """
    for path in paths:
        if not path.exists():
            with contextlib.suppress(OSError):
                path.mkdir(mode=0o700)


def start(
    launch: Launch,
    directory: Path,
    tag: str,
    output: int,
    notify: Path | None = None,
    *,
    sandbox: Sandbox,
    key: str = "",
) -> int:
    """Start the client in a session of its own; its pid. SpawnError: it does not run. The caller watches
    and reaps it.
    """
    _make(launch.writes)
    with contextlib.ExitStack() as opened:
        files = {**launch.files, KEY[1:-1]: f"{key}\n".encode()} if key else launch.files
        numbers = {name: _anonymous(name, data) for name, data in files.items()}
        for fd in numbers.values():
            opened.callback(os.close, fd)
        argv = [_filled(word, numbers) for word in launch.argv]
        _check_runs(argv[0])
        try:
            process = confined(
                sandbox,
                lambda: subprocess.Popen(
                    [*_PATIENT, *argv],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd=directory,
                    env=_environment(launch.environment, directory, tag, notify),
                    pass_fds=tuple(numbers.values()),
                    start_new_session=True,
                ),
            )
        except NotConfined as error:
            raise SpawnError(Reason.LOCAL, error.strerror or "") from error
        except OSError as error:
            raise _explained(argv[0], error) from error
    process.returncode = 0  # Popen's own waiting must not get in the way of ours
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE))
    return process.pid


def _check_runs(program: str) -> None:
    """Say before the start why a program cannot run: afterwards only an exit code would tell."""
    path = shutil.which(program, mode=os.F_OK, path=PATH)
    interpreter = _interpreter(path) if path is not None else None
    if path is None or (interpreter is not None and not os.path.exists(interpreter)):
        raise _explained(program, FileNotFoundError())
    if not os.access(path, os.X_OK) or os.path.isdir(path):
        raise _explained(program, PermissionError())


def _interpreter(path: str) -> str | None:
    """What runs a script: the word behind `#!` (execve(2)); None for other programs, or where it cannot be
    read.
    """
    try:
        with open(path, "rb") as file:
            first = file.readline(256)
    except OSError:
        return None
    words = first[2:].split() if first.startswith(b"#!") else []
    return os.fsdecode(words[0]) if words else None


def _anonymous(name: str, data: bytes) -> int:
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.fchmod(fd, 0o400)
    with open(fd, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(fd, 0, os.SEEK_SET)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    return fd


def _filled(word: str, numbers: Mapping[str, int]) -> str:
    for name, fd in numbers.items():
        word = word.replace("{" + name + "}", str(fd))
    return word


def _environment(own: Mapping[str, str], directory: Path, tag: str, notify: Path | None) -> dict[str, str]:
    environment = {"PATH": PATH, "LANG": "C.UTF-8", "TMPDIR": str(directory), **own, TAG: tag}
    environment.pop("NOTIFY_SOCKET", None)
    return environment if notify is None else {**environment, "NOTIFY_SOCKET": str(notify)}


def _explained(program: str, error: OSError) -> SpawnError:
    if isinstance(error, FileNotFoundError):
        return SpawnError(
            Reason.MISSING_BINARY, f"{program} cannot be run: it or its interpreter is not installed"
        )
    if isinstance(error, PermissionError):
        return SpawnError(Reason.MISSING_RIGHT, f"{program}: the daemon has no right to run it")
    return SpawnError(Reason.LOCAL, f"{program} cannot be run: {error.strerror}")
