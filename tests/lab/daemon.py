"""`facilitator run` in the lab, and what can be asked of it and of the kernel around it."""

from __future__ import annotations

import contextlib
import copy
import http.client
import itertools
import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import yaml

from tests.lab.config import Config
from tests.lab.etc import own_etc
from tests.lab.wait import PATIENCE, eventually
from tests.netns import Namespace

REPOSITORY = Path(__file__).parents[2]
FACILITATOR = (sys.executable, "-m", "supervisor")
HTTP_PORT = 9464
OUR_DEVICES = {"lo", "vpc", "uplink"}
_numbers = itertools.count(1)


class LabDaemon:
    """One configuration with its own state and runtime directories. `with lab.daemon(config) as daemon`
    starts and ends it.
    """

    def __init__(
        self, namespace: Namespace, directory: Path, config: Config, user: int | None = None
    ) -> None:
        self.namespace, self.user = namespace, user
        self.directory = directory / f"daemon-{next(_numbers)}"
        self.directory.mkdir()
        if user is not None:
            os.chown(self.directory, user, user)
        self.config_file = self.directory / "config.yaml"
        self.log = self.directory / "log"
        self.runtime_dir = self.directory / "run"
        self._process: subprocess.Popen[str] | None = None
        self.configure(config)

    def __enter__(self) -> LabDaemon:
        try:
            self.start()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def configure(self, config: Config) -> None:
        """Write the configuration file; a running daemon learns of it by `cli("reload")`. An ordinary end
        leaves nothing in the lab, unless the configuration says otherwise.
        """
        own = {
            **config["facilitator"],
            "state_dir": str(self.directory / "state"),
            "runtime_dir": str(self.runtime_dir),
        }
        self.config_file.write_text(
            yaml.safe_dump({"on_exit": "remove", **config, "facilitator": own}, sort_keys=False)
        )

    # --- its life ---

    @property
    def pid(self) -> int:
        """The daemon's process id."""
        assert self._process is not None, "the daemon does not run"
        return self._process.pid

    def start(self, within: float = 15.0, ready: int | None = 200) -> None:
        """Start it and wait until it answers that it is ready; `ready` 503: that it is not, because it
        drains; None: do not wait.
        """
        argv = [*FACILITATOR, "run", "-c", str(self.config_file)]
        if self.user is not None:
            argv = self._unprivileged(self.user, argv)
        self.launch(argv)
        if ready is not None:
            self.wait_ready(within, ready)

    def launch(self, argv: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """Start this program as the daemon, with these variables besides; it logs into `log`."""
        with self.log.open("a") as log:
            self._process = self.namespace.popen(
                *argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=REPOSITORY,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )

    def wait_ready(self, within: float = 15.0, code: int = 200) -> None:
        """Wait until it answers that it is ready, or with another code."""
        eventually(lambda: self._ready(code), within, f"GET /readyz is answered with {code}")

    def successor(self) -> Self:
        """Another daemon with the same files and directories; not started."""
        other = copy.copy(self)
        other.forget()
        return other

    def forget(self) -> None:
        """Leave the process to whoever else knows it."""
        self._process = None

    def stop(self, within: float = PATIENCE) -> int:
        """SIGTERM, and once more where it waits for flows that some test has left open; its exit code."""
        self.signal(signal.SIGTERM)
        eventually(lambda: not self.running or self.get("/readyz")[0] != 200, within, "it has begun to end")
        self.signal(signal.SIGTERM)
        return self.ended(within)

    @property
    def running(self) -> bool:
        """The process has not ended."""
        return self._process is not None and self._process.poll() is None

    def signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        assert self._process is not None
        self._process.send_signal(number)

    def ended(self, within: float = PATIENCE) -> int:
        """Wait for the end of the process; its exit code."""
        assert self._process is not None
        code = self._process.wait(timeout=within)
        self._process = None
        return code

    def kill9(self) -> None:
        """SIGKILL to the daemon alone; its clients go on."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def end(self) -> None:
        """Stop it, by force if need be, and remove what is left of it."""
        if self._process is not None:
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.kill9()
        self.cleanup()
        for pid in self.client_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def cleanup(self) -> int:
        """`facilitator cleanup`; its exit code."""
        return self.cli("cleanup").returncode

    def _unprivileged(self, user: int, argv: list[str]) -> list[str]:
        """The command line that runs `argv` as this user with CAP_NET_ADMIN and nothing else.

        What the user needs is mounted for this process alone: the repository where the user can read it, a
        /dev/net/tun that everybody may open (as udev makes it), and an account (ssh refuses to run for a user
        without one).
        """
        repository, tun = (self.directory / name for name in ("repository", "tun"))
        repository.mkdir(exist_ok=True)
        accounts = ("root:x:0:0::/root:/bin/sh", f"vpn:x:{user}:{user}::/nonexistent:/usr/sbin/nologin")
        if not tun.exists():
            os.mknod(tun, stat.S_IFCHR | 0o666, os.makedev(10, 200))
            tun.chmod(0o666)
        binds = (f"mount --bind {REPOSITORY} {repository}", f"mount --bind {tun} /dev/net/tun")
        mounts = " && ".join([*binds, own_etc(self.directory, accounts), f"cd {repository}"])
        sets = ("inh-caps", "ambient-caps", "bounding-set")
        setpriv = [
            "setpriv",
            f"--reuid={user}",
            f"--regid={user}",
            "--clear-groups",
            "--no-new-privs",
            *(f"--{each}=-all,+net_admin" for each in sets),
        ]
        argv[0] = argv[0].replace(str(REPOSITORY), str(repository))
        return ["unshare", "--mount", "sh", "-c", f'{mounts} && exec "$@"', "sh", *setpriv, *argv]

    def _ready(self, code: int = 200) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (
            f"the daemon ended with {self._process.returncode}:\n{self.log.read_text()[-4000:]}"
        )
        return self.get("/readyz")[0] == code

    # --- what it says ---

    def get(self, path: str) -> tuple[int, str]:
        """HTTP GET on the daemon's loopback; status 0 when nobody listens (any more)."""
        try:
            connection = http.client.HTTPConnection("127.0.0.1", HTTP_PORT, timeout=PATIENCE)
            with self.namespace.entered(), contextlib.closing(connection):
                connection.request("GET", path)
                reply = connection.getresponse()
                return reply.status, reply.read().decode()
        except (OSError, http.client.HTTPException):
            return 0, ""

    def cli(
        self, *arguments: str, timeout: float = PATIENCE, typed: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """`facilitator ARGUMENTS -c FILE` beside the daemon, with something `typed` on its stdin."""
        argv = self.namespace.argv(*FACILITATOR, *arguments, "-c", str(self.config_file))
        return subprocess.run(
            argv, capture_output=True, text=True, cwd=REPOSITORY, input=typed, timeout=timeout
        )

    def status(self) -> dict[str, Any]:
        """What `facilitator status --json` prints, got over HTTP because that is quicker."""
        code, body = self.get("/api/v1/status")
        assert code == 200, f"status: HTTP {code} {body}"
        found: dict[str, Any] = json.loads(body)
        return found

    def tunnel(self, name: str) -> dict[str, Any]:
        """The status of one tunnel."""
        found: dict[str, Any] = next(tunnel for tunnel in self.status()["tunnels"] if tunnel["name"] == name)
        return found

    def wait_for(self, name: str, within: float = 20.0, **expected: object) -> dict[str, Any]:
        """Wait until the tunnel's status has these fields, as in `wait_for("acme-dc", phase="up",
        health="healthy")`.
        """

        def matches() -> dict[str, Any] | None:
            tunnel = self.tunnel(name)
            return tunnel if all(tunnel[key] == value for key, value in expected.items()) else None

        try:
            return eventually(matches, within, f"{name} is {expected}")
        except AssertionError as late:
            raise AssertionError(
                f"{late}; it is {self.tunnel(name)}\n{self.log.read_text()[-3000:]}"
            ) from None

    def wait_silent(self, name: str, within: float = 20.0) -> None:
        """Wait until it is noticed that nothing passes through the tunnel; its session may go on."""
        eventually(
            lambda: (tunnel := self.tunnel(name))["phase"] != "up" or tunnel["health"] == "unhealthy",
            within,
            f"the silence of {name} is noticed",
        )

    def sessions(self) -> dict[str, tuple[Any, ...]]:
        """Of each tunnel: phase, and what tells its session from every other one."""
        found = {
            tunnel["name"]: (tunnel["phase"], tunnel["session"] or {}) for tunnel in self.status()["tunnels"]
        }
        return {
            name: (phase, *(session.get(key) for key in ("id", "pid", "device", "port")))
            for name, (phase, session) in found.items()
        }

    def replaced(self, name: str) -> Callable[[], bool]:
        """Asks from now on whether the tunnel has another session than at this moment."""
        before = self.tunnel(name)["session"]["id"]
        return lambda: (self.tunnel(name)["session"] or {}).get("id") not in (before, "", None)

    def wait_well(self, within: float = 20.0) -> None:
        """Wait until every tunnel is up and healthy."""
        for tunnel in self.status()["tunnels"]:
            self.wait_for(tunnel["name"], within, phase="up", health="healthy")

    def metrics(self) -> str:
        """The Prometheus text."""
        code, body = self.get("/metrics")
        assert code == 200, f"metrics: HTTP {code} {body}"
        return body

    def metric(self, name: str, **labels: str) -> float:
        """The sum of all series of a metric that carry these labels."""
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        lines = re.findall(rf"^{name}(?:{{(.*)}})? (\S+)", self.metrics(), re.MULTILINE)
        return sum(float(value) for series, value in lines if all(label in series for label in wanted))

    # --- what is really there ---

    def client_pids(self, *names: str) -> list[int]:
        """VPN clients in the facilitator's namespace: openvpn, sshuttle's ssh, and sshuttle itself; or
        only those named.
        """
        found = subprocess.run(
            ["ip", "netns", "pids", self.namespace.name], capture_output=True, text=True
        ).stdout.split()
        return [
            int(pid) for pid in found if _client_name(int(pid)) in (names or ("openvpn", "ssh", "sshuttle"))
        ]

    def leftovers(self) -> dict[str, list[str]]:
        """Processes, routes, rules, tables and devices of ours that still exist, by kind; empty when all
        is gone.
        """
        run = self.namespace.run
        routes = run("ip", "-o", "route", "show", "table", "all", "proto", "173").stdout.splitlines()
        routes6 = run("ip", "-6", "-o", "route", "show", "table", "all", "proto", "173").stdout.splitlines()
        rules = [
            line
            for line in run("ip", "rule", "show").stdout.splitlines()
            if not re.match(r"(0|32766|32767):", line)
        ]
        links = json.loads(run("ip", "-j", "link", "show").stdout)
        found = {
            "processes": [f"{pid} {_client_name(pid)}" for pid in self.client_pids()],
            "routes": routes + routes6,
            "rules": rules,
            "tables": run("nft", "list", "tables").stdout.splitlines(),
            "devices": [link["ifname"] for link in links if link["ifname"] not in OUR_DEVICES],
        }
        return {kind: things for kind, things in found.items() if things}


class LabPagerDuty:
    """The PagerDuty double in the facilitator's namespace: `with lab.pagerduty() as pagerduty`."""

    def __init__(self, namespace: Namespace, directory: Path) -> None:
        self._namespace, self._port_file = namespace, directory / f"pagerduty-{next(_numbers)}.port"

    def __enter__(self) -> LabPagerDuty:
        argv = (
            sys.executable,
            "-m",
            "tests.pagerduty_double",
            "--port",
            "0",
            "--port-file",
            str(self._port_file),
        )
        with self._port_file.with_suffix(".log").open("w") as log:
            self._process = self._namespace.popen(
                *argv, stdout=log, stderr=log, cwd=REPOSITORY, start_new_session=True
            )
        self._port = int(eventually(self._written_port, 10, "the PagerDuty double listens"))
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def url(self) -> str:
        """For `alerts.pagerduty.url`."""
        return f"http://127.0.0.1:{self._port}"

    def state(self) -> Any:
        """Everything that the double has seen."""
        with self._namespace.entered():
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
            connection.request("GET", "/state")
            found = json.loads(connection.getresponse().read())
            connection.close()
            return found

    def open(self) -> list[str]:
        """The dedup keys of the incidents that are open now."""
        found: list[str] = self.state()["open"]
        return found

    def _written_port(self) -> str:
        return self._port_file.read_text().strip() if self._port_file.exists() else ""


def _client_name(pid: int) -> str | None:
    """openvpn, ssh, sshuttle, or None for anything else; a zombie is nobody."""
    try:
        argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    program = Path(os.fsdecode(argv[0])).name
    if program in ("openvpn", "ssh"):
        return program
    return "sshuttle" if any(b"sshuttle" in argument for argument in argv[1:3]) else None
