"""A client that was taken over: tries everything that its uid and its capabilities might let it do to
others, and says what came of it.

    python3 intruder.py RUNTIME_DIR DAEMON VICTIM SIGNAL FILE...

One line for each attempt: `NAME: reached ...` or `NAME: refused ...`.
"""

import ctypes
import os
import resource
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path

libc = ctypes.CDLL(None, use_errno=True)
PTRACE_SEIZE = 0x4206


def attempt(name: str, work: Callable[[], object]) -> None:
    try:
        found = work()
    except Exception as error:
        found = None
        print(f"{name}: refused {error!r}", flush=True)
    if found is not None:
        print(f"{name}: reached {str(found)[:80]!r}", flush=True)


def checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(4096)


def memory(pid: int) -> bytes:
    line = next(
        each
        for each in Path(f"/proc/{pid}/maps").read_text().splitlines()
        if "[heap]" in each or "[stack]" in each
    )
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as file:
        file.seek(int(line.split("-")[0], 16))
        return file.read(64)


def vm_read(pid: int) -> int:
    buffer = ctypes.create_string_buffer(64)
    ours = struct.pack("2Q", ctypes.addressof(buffer), 64)
    theirs = struct.pack("2Q", 0x400000, 64)
    return checked(libc.process_vm_readv(pid, ours, 1, theirs, 1, 0))


def seize(pid: int) -> int:
    return checked(libc.ptrace(PTRACE_SEIZE, pid, 0, 0))


def anonymous_files(pid: int) -> list[bytes]:
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        if "memfd" in os.readlink(f"/proc/{pid}/fd/{name}"):
            found.append(content(f"/proc/{pid}/fd/{name}"))
    return found


def get_descriptor(pid: int) -> int:
    return checked(libc.syscall(438, os.pidfd_open(pid), 0, 0))


def limit(pid: int) -> str:
    resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
    return "its limits were set"


def kill(pid: int, number: int) -> str:
    os.kill(pid, number)
    return "the signal was sent"


def renice(pid: int) -> str:
    os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, pid))
    return "its priority was set"


def request(path: Path, line: str) -> str | None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        try:
            key = f"X-Facilitator-Key: {path.with_name('control.key').read_text()}\r\n"
        except OSError:
            key = ""
        connection.sendall(
            f"{line} HTTP/1.1\r\nHost: x\r\n{key}Content-Length: 0\r\nConnection: close\r\n\r\n".encode()
        )
        answer = connection.recv(65536).decode()
    if " 403 " in answer.splitlines()[0]:
        raise PermissionError(answer.splitlines()[-1])
    return answer.splitlines()[0]


def in_disguise() -> object:
    """As a process that has left parents, session and environment behind."""
    read, write = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.close(read)
            while os.getppid() == int(os.environ["INTRUDER"]):
                pass
            os.set_inheritable(write, True)
            os.execve(sys.executable, [sys.executable, __file__, "--disguised", str(write), sys.argv[1]], {})
        os._exit(0)
    os.close(write)
    with open(read) as answers:
        told = answers.read()
    if told.startswith("refused"):
        raise PermissionError(told)
    return told


def disguised(write: int, runtime: Path) -> None:
    try:
        told = f"reached {request(runtime / 'control.sock', 'GET /api/v1/status')}"
    except OSError as error:
        told = f"refused {error}"
    with open(write, "w") as answer:
        answer.write(
            f"{told}, session {os.getsid(0) == os.getpid() or os.getppid()}, environment {dict(os.environ)}"
        )


def notify(path: Path) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaker:
        speaker.sendto(b"READY=1", str(path))
    return "sent"


def plant(path: Path) -> str:
    path.symlink_to("/etc/passwd")
    return "a link was made"


def main() -> None:
    runtime, daemon, victim, number = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    os.environ["INTRUDER"] = str(os.getpid())
    control = runtime / "control.sock"
    attempt("control: read", lambda: request(control, "GET /api/v1/status"))
    attempt("control: in disguise", in_disguise)
    for path in sys.argv[5:]:
        attempt(f"file: {path}", lambda path=path: content(path))
    attempt("directory: list", lambda: os.listdir(runtime / "clients" / "victim"))
    attempt("directory: plant", lambda: plant(runtime / "clients" / "victim" / "planted"))
    for name, pid in (("daemon", daemon), ("victim", victim)):
        attempt(f"{name}: memory", lambda pid=pid: memory(pid))
        attempt(f"{name}: process_vm_readv", lambda pid=pid: vm_read(pid))
        attempt(f"{name}: ptrace", lambda pid=pid: seize(pid))
        attempt(f"{name}: environment", lambda pid=pid: content(f"/proc/{pid}/environ"))
        attempt(f"{name}: anonymous files", lambda pid=pid: anonymous_files(pid))
        attempt(f"{name}: descriptor", lambda pid=pid: get_descriptor(pid))
        attempt(f"{name}: limits", lambda pid=pid: limit(pid))
        attempt(f"{name}: priority", lambda pid=pid: renice(pid))
        attempt(f"{name}: kill", lambda pid=pid: kill(pid, number))
    attempt("hide", lambda: checked(libc.prctl(4, 0, 0, 0, 0)))
    notify(runtime / "clients" / "victim" / "notify.sock")
    attempt("control: change", lambda: request(control, "POST /api/v1/tunnels/victim/stop"))
    print("all was tried", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "--disguised":
        disguised(int(sys.argv[2]), Path(sys.argv[3]))
        sys.exit()
    main()
    import time

    time.sleep(1000)
