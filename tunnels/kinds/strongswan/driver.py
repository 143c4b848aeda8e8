"""Drives one charon, strongSwan's daemon, for one tunnel: loads its configuration, initiates it, and ends
with it.

    python -I -m tunnels.kinds.strongswan.driver --device NAME --config FD --talk FD
        [--file NAME=FD]... [--mtu N] [--address A]... [--local FILE:LINE=A]...
        [--gateway TOKEN=NUMBER=NAME]... [--several] [--psk] [--login] [--append-code] CONNECTION/CHILD...

charon has its own strongswan.conf, vici socket and ports, all in this working directory, so that any number
of them run side by side. ESP is done by charon itself (kernel-libipsec): that needs no ESP in the kernel, and
the interface is deleted with the process. kernel-libipsec makes a route for each policy, also with
`install_routes = no`; they go into a table that no rule refers to. charon creates its interface as ipsec0, or
with the next free number, and knows it by that name until the session is up; then the interface is renamed.
From then on charon cannot make a route, and refuses a policy that needs one: so the policies are kept for as
long as charon runs, and a gateway may delete a child and create another one between the same networks.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path

from tunnels.drivers.addresses import in_turn, resolved_or_named
from tunnels.drivers.channel import DaemonChannel, assigned
from tunnels.drivers.cli import end_like, parser
from tunnels.drivers.netlink import add_address, bring_up, forget_rules, rename
from tunnels.kinds.strongswan.associations import (
    established,
    far_side,
    given_addresses,
    lasting_policies,
    living,
)
from tunnels.kinds.strongswan.daemon_configuration import RETRIES, RETRIES_WITH_PROBES, configuration
from tunnels.kinds.strongswan.dead_peer_detection import delay_seconds, received_messages
from tunnels.kinds.strongswan.vici import Message, Vici, ViciError

CHARON = ("setpriv", "--pdeathsig", "KILL", "charon-systemd")  # it does not outlive the driver
MTU_BYTES = 1400  # fits into a UDP-encapsulated ESP packet on any usual path
INITIATE_MS = 30_000  # for one child
RETRIES_OF_SEVERAL = 3  # after 7 s, where others are left to be tried
LOGOUT_MS = 1_000  # for the gateway to confirm the end
FIRST_TABLE = 0x46000000  # plus our pid: a routing table that no rule refers to
REPLACING_SECONDS = 0.2  # in which a new IKE SA takes over the children of the one that it replaces
CHILDLESS_SECONDS = 5.0  # in which a gateway that has deleted a child creates another one
POLICIES = "facilitator-policies"  # a connection that is never initiated


class CharonSession:
    """One charon from its start to its end."""

    def __init__(self, options: argparse.Namespace, talk: DaemonChannel) -> None:
        self._options, self._talk = options, talk
        self._over = asyncio.Event()  # SIGTERM has come, or charon or the gateway has ended the session
        self._stopping = False  # SIGTERM has come
        self._chosen: dict[
            str, str
        ] = {}  # what stands in the configuration for a name -> one of its addresses
        self._several: bool = options.several  # other gateways or addresses are left to be tried
        self._vici: Vici | None = None
        self._sessions: list[Message] = []  # as charon has listed them (list-sa)
        self._changed = (
            asyncio.Event()
        )  # a security association has come, gone or been replaced since the list
        self._begun = False  # there is a session to terminate
        self._mtu: int | None = None  # of the interface, in bytes
        self._text = ""  # of the configuration

    async def run(self) -> int:
        """Stay connected until the gateway, charon or SIGTERM ends it; returns the exit code, or the negative
        number of a signal.
        """
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._stop)
        await self._resolve_gateways()
        alone = RETRIES_WITH_PROBES if self._options.probed else RETRIES
        charon = await _start_charon(RETRIES_OF_SEVERAL if self._several else alone)
        gone = asyncio.create_task(charon.wait())
        session = asyncio.create_task(self._session(charon.pid))
        gone.add_done_callback(lambda _: self._over.set())
        session.add_done_callback(lambda _: self._over.set())
        await self._over.wait()
        if gone.done():
            await _cancelled(session)
            return gone.result() or 1
        begun = self._begun or session.done()  # else charon has not answered a request yet
        _report(await _cancelled(session) or (None if self._stopping else "the session has ended"))
        if begun:
            await self._log_off()
        charon.kill()  # its own shutdown takes two seconds, and it has nothing to do any more
        await gone
        return 0 if self._stopping else 1

    def _stop(self) -> None:
        self._stopping = True
        self._over.set()

    async def _session(self, pid: int) -> None:
        """One session from its beginning until it is over. ViciError, OSError: it did not come about."""
        self._vici = await Vici.connect(Path("charon.vici"), self._hear)
        for event in ("ike-updown", "child-updown", "ike-rekey", "child-rekey", "list-sa"):
            await self._vici.register(event)
        await self._connect(self._vici, pid)
        self._begun = True
        signs = self._talk.tell_signs_of_life(self._received_messages, delay_seconds(self._text))
        telling = asyncio.ensure_future(signs)
        try:
            await self._watch(self._vici)
        finally:
            telling.cancel()

    async def _watch(self, vici: Vici) -> None:
        while await self._lives(vici):
            addresses = [*given_addresses(self._sessions), *self._options.address]
            facts = {**assigned(addresses), **far_side(self._sessions), "mtu": self._mtu}
            self._talk.connected(**facts, on_interface=True)
            await self._changed.wait()

    async def _lives(self, vici: Vici) -> bool:
        """Every child has a security association, or gets one soon. That one goes down says nothing: it goes
        down too when a new one has taken its place.
        """
        self._changed.clear()
        if await self._established(vici):
            return True
        await asyncio.sleep(REPLACING_SECONDS)
        clock = asyncio.get_running_loop()
        end = clock.time() + CHILDLESS_SECONDS
        while not await self._established(vici):
            if not _connections(self._options.children) <= living(self._sessions):
                return False
            try:
                await asyncio.wait_for(self._changed.wait(), end - clock.time())
            except TimeoutError:
                return False
            self._changed.clear()
        return True

    async def _established(self, vici: Vici) -> bool:
        self._sessions.clear()
        await vici.request("list-sas")
        return set(self._options.children) <= established(self._sessions)

    async def _connect(self, vici: Vici, pid: int) -> None:
        """Load the configuration, initiate, and rename the interface. ViciError, OSError."""
        await self._load()
        device = _device(pid)
        self._mtu = bring_up(device, self._options.mtu or MTU_BYTES)
        # charon refuses a policy without an address of ours on an interface. It adds assigned addresses
        # itself; our own ones must be there when it makes its routes.
        for address in self._options.address:
            add_address(device, ip_address(address))
        for name in self._options.children:
            connection, _, child = name.partition("/")
            await vici.request("initiate", {"ike": connection, "child": child, "timeout": str(INITIATE_MS)})
        await vici.request("list-sas")
        if not [*given_addresses(self._sessions), *self._options.address]:
            raise ViciError(
                "the remote gateway assigns no address; the connection needs vips = 0.0.0.0, or a local_ts "
                "with one address"
            )
        await self._keep_policies(vici)
        rename(device, self._options.device)

    async def _keep_policies(self, vici: Vici) -> None:
        """Let the policies of the children outlive them. Where charon refuses, a new child is the end of the
        session.
        """
        children = lasting_policies(self._sessions)
        nobody = {"local_addrs": ["127.0.0.1"], "remote_addrs": ["127.0.0.1"]}  # no IKE message is for it
        with contextlib.suppress(ViciError):
            await vici.request("load-conn", {POLICIES: {**nobody, "children": children}})
            for child in children:
                await vici.request("install", {"ike": POLICIES, "child": child})

    def _hear(self, event: str, message: Message) -> None:
        if event == "list-sa":
            self._sessions.append(message)
        else:
            self._changed.set()

    async def _load(self) -> None:
        """Let swanctl load the configuration, then add the secrets that only the daemon knows."""
        assert self._vici is not None
        for local in self._options.local:
            _require_own(*local.rpartition("=")[::2])
        files = {
            "swanctl.conf": self._with_gateways(),
            **{name: int(fd) for name, _, fd in (f.rpartition("=") for f in self._options.file)},
        }
        folder = _linked(Path("swanctl").absolute(), files)
        swanctl = await asyncio.create_subprocess_exec(
            "swanctl",
            "--load-all",
            "--noprompt",
            "--file",
            str(folder / "swanctl.conf"),
            "--uri",
            f"unix://{Path('charon.vici').absolute()}",
            pass_fds=tuple(files.values()),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, complaints = await swanctl.communicate()
        sys.stderr.write(complaints.decode("utf-8", "replace"))
        if swanctl.returncode != 0:
            raise ViciError(f"swanctl could not load the configuration: {_first_complaint(complaints)}")
        for secret in await self._secrets():
            await self._vici.request("load-shared", secret)
        Path("charon.vici").unlink()  # charon obeys everybody who connects: from now on nobody else can

    async def _resolve_gateways(self) -> None:
        """Choose one of the addresses of each gateway's name: charon would only try the first one."""
        for token, turn, name in (gateway.split("=", 2) for gateway in self._options.gateway):
            addresses = await resolved_or_named(name)
            self._several |= len(addresses) > 1
            self._chosen[token] = in_turn(addresses, int(turn))

    def _with_gateways(self) -> int:
        """A descriptor of the configuration with the chosen addresses in it."""
        text = _content(self._options.config)
        for token, address in self._chosen.items():
            text = text.replace(token.encode(), address.encode())
        self._text = text.decode(errors="replace")
        descriptor = os.memfd_create("swanctl.conf")
        os.write(descriptor, text)
        return descriptor

    async def _secrets(self) -> list[Message]:
        secrets: list[Message] = []
        if self._options.psk:
            secrets.append({"id": "psk", "type": "IKE", "data": await self._talk.ask("psk")})
        if self._options.login:
            username, password = await self._talk.ask("username"), await self._talk.ask("password")
            if self._options.append_code:
                password += await self._talk.ask("code", "One-time password")
            secrets += (
                {"id": kind.lower(), "type": kind, "data": password, "owners": [username]}
                for kind in ("EAP", "XAUTH")
            )
        return secrets

    async def _received_messages(self) -> int | None:
        """IKE messages of the gateway so far; None: this charon does not count them."""
        try:
            return received_messages(await self._vici.request("get-counters")) if self._vici else None
        except ViciError:
            return None

    async def _log_off(self) -> None:
        """Terminate the sessions at the gateway, if it answers."""
        with contextlib.suppress(ViciError, ConnectionError, asyncio.TimeoutError):
            if self._vici is not None:
                for connection in _connections(self._options.children):
                    order = {"ike": connection, "timeout": str(LOGOUT_MS), "force": "yes"}
                    await asyncio.wait_for(self._vici.request("terminate", order), 2 * LOGOUT_MS / 1000)


# --- charon
# ----------------------------------------------------------------------------------------------------------


async def _start_charon(retries: int) -> asyncio.subprocess.Process:
    """Start charon and wait until it is ready or has ended."""
    table = FIRST_TABLE + os.getpid()
    Path("strongswan.conf").write_text(configuration(Path("charon.vici").absolute(), table, retries))
    for name in ("charon.ready", "charon.vici"):
        Path(name).unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as ready:
        ready.bind("charon.ready")
        own = {
            "STRONGSWAN_CONF": str(Path("strongswan.conf").absolute()),
            "NOTIFY_SOCKET": str(Path("charon.ready").absolute()),
        }
        charon = await asyncio.create_subprocess_exec(
            *CHARON,
            stdin=asyncio.subprocess.DEVNULL,
            env={**os.environ, **own},
            process_group=0,  # so that a SIGTERM to our group leaves it alive until it has logged out
        )
        told, gone = asyncio.create_task(_ready(ready)), asyncio.create_task(charon.wait())
        await asyncio.wait((told, gone), return_when=asyncio.FIRST_COMPLETED)
        await _cancelled(told)
        await _cancelled(gone)
    forget_rules(table)
    return charon


async def _ready(listener: socket.socket) -> None:
    """Wait until charon notifies that it is ready (sd_notify(3))."""
    while b"READY=1" not in await asyncio.get_running_loop().sock_recv(listener, 4096):
        pass


def _connections(children: Sequence[str]) -> set[str]:
    """The connections of these CONNECTION/CHILD."""
    return {name.partition("/")[0] for name in children}


def _content(descriptor: int) -> bytes:
    with open(descriptor, "rb", closefd=False) as file:
        return file.read()


def _require_own(where: str, address: str) -> None:
    """ViciError: no packet can be sent from this address, which the configuration wants."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            raise ViciError(
                f"{where}: local_addrs {address} is no address of this host (an Elastic IP is not one: it is "
                f"translated on the way); remove local_addrs, and set id = {address} in local {{ }} if the remote gateway "
                f"knows us by it"
            ) from None


def _first_complaint(output: bytes) -> str:
    """The line of swanctl's that names the file or option; what follows from it comes after."""
    lines = [line.strip() for line in output.decode("utf-8", "replace").splitlines() if line.strip()]
    return next(iter(lines), "it does not say why")


def _linked(folder: Path, files: Mapping[str, int]) -> Path:
    """A directory where swanctl finds these anonymous files under their names, and nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, fd in files.items():
        link = folder / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(f"/proc/self/fd/{fd}")
    return folder


def _device(pid: int) -> str:
    """The tun interface of the process."""
    for file in Path(f"/proc/{pid}/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):
            for line in file.read_text().splitlines():
                if line.startswith("iff:"):
                    return line.split()[1]
    raise OSError("charon has created no interface")


async def _cancelled(
    task: asyncio.Task[object] | asyncio.Task[None] | asyncio.Task[int],
) -> BaseException | None:
    """Cancel a task; returns the exception with which it had ended."""
    task.cancel()
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    return outcome if isinstance(outcome, Exception) else None


def _report(error: BaseException | str | None) -> None:
    if error is not None:
        print(f"facilitator: {error}", flush=True)


async def _main(options: argparse.Namespace) -> int:
    talk = DaemonChannel(options.talk)
    await talk.listen()
    return await CharonSession(options, talk).run()


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    words = parser()
    words.add_argument("--file", action="append", default=[])
    words.add_argument("--address", action="append", default=[])
    words.add_argument(
        "--local", action="append", default=[], help="an address to send from, and where it stands"
    )
    words.add_argument("--gateway", action="append", default=[], help="what stands for a name in the text")
    words.add_argument("--probed", action="store_true", help="the daemon judges whether the session is dead")
    words.add_argument("--several", action="store_true", help="there are other gateways: give up sooner")
    for flag in ("--psk", "--login"):
        words.add_argument(flag, action="store_true")
    words.add_argument("children", nargs="+")
    return words.parse_args(arguments)


if __name__ == "__main__":
    end_like(asyncio.run(_main(_options(sys.argv[1:]))))
