"""From a kind's `Launch` to a running process: inputs are read, secrets go into anonymous files, the
environment is minimal, no shell.
"""

from __future__ import annotations

import contextlib
import errno
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
from supervisor.clients.sockets import MAX_PATH_BYTES
from tunnels.base import KEY, AnyKind, FileFinding, Launch, Reason, Tunnel
from tunnels.profiles import EmptySecret, ProfileError
from tunnels.settings import SecretError

# all inputs of a tunnel by name; OSError or ValueError with a sentence
InputReader = Callable[[AnyKind, Tunnel], Mapping[str, bytes]]

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# RLIMIT_FSIZE of a client, in case the event loop is too busy to truncate its output in time: more is lost
# (EFBIG) instead of filling the disk. SIGXFSZ, which would end the client, is ignored from the start.
MAX_FILE_BYTES = 12 << 20
_IGNORE_SIGXFSZ = ("/usr/bin/env", "--ignore-signal=XFSZ", "--")
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
    """The client could not be started: reason and sentence."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason, self.text = reason, text


@contextlib.contextmanager
def own_fault(sentence: str) -> Iterator[None]:
    """Turn an unexpected exception into a SpawnError that fails only this tunnel. The exception's text is
    left out because it could hold a secret.
    """
    try:
        yield
    except SpawnError:
        raise
    except Exception as error:
        raise SpawnError(Reason.LOCAL, f"{sentence}: {type(error).__name__}") from error


def read_inputs(kind: AnyKind, tunnel: Tunnel, read: InputReader) -> dict[str, bytes]:
    """The inputs of a tunnel by name. SpawnError: see `unusable`; SpawnError(MISSING_INPUT)."""
    try:
        return dict(read(kind, tunnel))
    except (ProfileError, SecretError) as error:
        raise unusable(error) from error
    except (OSError, ValueError) as error:
        raise SpawnError(Reason.MISSING_INPUT, str(error)) from error


def unusable(error: ValueError) -> SpawnError:
    """What is wrong with inputs: a secret is missing or empty (SECRET), or a profile (CLIENT_CONFIG)."""
    secret = isinstance(error, SecretError | EmptySecret)
    return SpawnError(Reason.SECRET if secret else Reason.CLIENT_CONFIG, str(error))


def examined(kind: AnyKind, tunnel: Tunnel, inputs: Mapping[str, bytes]) -> tuple[FileFinding, ...]:
    """What is to be noted about the inputs. SpawnError(CLIENT_CONFIG or SECRET): a file cannot be used."""
    try:
        found = tuple(kind.examine(tunnel, inputs))
    except ValueError as error:
        raise unusable(error) from error
    fatal = next((each for each in found if each.fatal), None)
    if fatal is not None:
        raise SpawnError(Reason.CLIENT_CONFIG, str(fatal))
    return found


def require(programs: Iterable[str]) -> None:
    """SpawnError(MISSING_BINARY) if one of these programs is not installed; it says what to install."""
    for program in programs:
        if shutil.which(program, path=PATH) is None and not os.path.exists(program):
            package = _PACKAGES.get(os.path.basename(program), os.path.basename(program))
            raise SpawnError(
                Reason.MISSING_BINARY,
                f"{program} is not installed (Debian and Ubuntu: apt install {package})",
            )


def prepare_directory(directory: Path, launch: Launch | None = None) -> None:
    """Create the private directory; with a launch, also delete the management socket that an earlier client
    left. SpawnError(LOCAL).
    """
    try:
        disk.make_way(directory, directory=True)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if directory.stat().st_uid != os.geteuid():  # left by a daemon of another user
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
        and len(os.fsencode(launch.management)) > MAX_PATH_BYTES
    ):
        raise SpawnError(
            Reason.LOCAL,
            f"{launch.management} is longer than a socket's path may be; choose a shorter runtime_dir",
        )


def _make(paths: Iterable[Path]) -> None:
    """Create missing directories. If that fails, the client gives the better message."""
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
    """Start the client in a process session of its own; returns its pid. SpawnError. The caller watches and
    reaps it.
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
                    [*_IGNORE_SIGXFSZ, *_limited(sandbox), *argv],
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
            if sandbox.group is not None and error.errno == errno.EPERM:
                raise SpawnError(
                    Reason.MISSING_RIGHT,
                    "an exclusive tunnel needs the capability SETGID, so that the kernel tells its packets from "
                    "others: add it to AmbientCapabilities and CapabilityBoundingSet of the unit, or run as root",
                ) from error
            raise SpawnError(Reason.LOCAL, error.strerror or "") from error
        except OSError as error:
            raise _explained(argv[0], error) from error
    process.returncode = 0  # keep Popen from waiting for the process
    # one in a group of its own may be limited by nobody without CAP_SYS_RESOURCE, but has done it itself
    with contextlib.suppress(ProcessLookupError, PermissionError):
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (MAX_FILE_BYTES, MAX_FILE_BYTES))
    return process.pid


def _limited(sandbox: Sandbox) -> tuple[str, ...]:
    """What comes before the command line of a client in a group of its own."""
    limit = shutil.which("prlimit", path=PATH) if sandbox.group is not None else None  # of util-linux
    return () if limit is None else (limit, f"--fsize={MAX_FILE_BYTES}")


def _check_runs(program: str) -> None:
    """SpawnError that says before the start why a program cannot run: afterwards there would be only an exit
    code.
    """
    path = shutil.which(program, mode=os.F_OK, path=PATH)
    interpreter = _interpreter(path) if path is not None else None
    if path is None or (interpreter is not None and not os.path.exists(interpreter)):
        raise _explained(program, FileNotFoundError())
    if not os.access(path, os.X_OK) or os.path.isdir(path):
        raise _explained(program, PermissionError())


def _interpreter(path: str) -> str | None:
    """The interpreter of a script, the word after `#!` (execve(2)); None for other programs, or if it cannot
    be read.
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
        return SpawnError(Reason.MISSING_RIGHT, f"{program}: the daemon may not run it")
    return SpawnError(Reason.LOCAL, f"{program} cannot be run: {error.strerror}")
