"""Runs one WireGuard tunnel: creates the interface, resolves the peers' names, waits for the first handshake,
and watches the later ones.

    python -I -m tunnels.kinds.wireguard.driver --device NAME --config FD --talk FD [--remote N] [--probed]

The descriptor is an anonymous file with what tunnels/kinds/wireguard/kind.py made of the customer's .conf.
Neither wg(8) nor wg-quick(8) is used. WireGuard has no session and reports no failures: a completed handshake
is the only proof that the peer accepts our key.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import json
import os
import re
import signal
import sys
from collections.abc import Collection, Coroutine, Iterator, Mapping, Sequence
from typing import Any

from tunnels.drivers.addresses import in_turn, resolved
from tunnels.drivers.channel import DaemonChannel, assigned
from tunnels.drivers.cli import end_like
from tunnels.drivers.netlink import bring_up
from tunnels.kinds.wireguard.device import opened
from tunnels.kinds.wireguard.peers import DevicePeer, EndedError, PeerStatus, WireGuardDevice
from tunnels.kinds.wireguard.userspace import SOCKETS

FIRST_HANDSHAKE_SECONDS = 12.0  # WireGuard itself tries every 5
OF_SEVERAL_SECONDS = 7.0  # the same where the name has other addresses, which are left to be tried
STATUS_SECONDS = 5.0  # between two checks of a tunnel that is up
# without a handshake, then the name is resolved again: a healthy pair renews after 120
STALE_SECONDS = 135.0
RESOLVE_AGAIN_SECONDS = 30.0  # between two resolutions then
EXPIRED_SECONDS = 180.0  # after a handshake: WireGuard uses its keys no longer (REJECT_AFTER_TIME)
UNANSWERED_SECONDS = 20.0  # of sending without a handshake after that
KEEPALIVE_SECONDS = 10.0  # after a packet to which it has no answer, a peer sends one (KEEPALIVE_TIMEOUT)

_NOISE = re.compile(
    r"Routine: |ing keepalive packet|UAPI: |UAPI listener|^[┌│└]|UDP bind has been updated|Interface up "
    r"requested"
)
_ANSWERED = "Received invalid response message"
_UNSENT = re.compile(r"Failed to send handshake initiation: (.*)")


class WireGuardFailure(Exception):
    """The tunnel cannot go on: a word of `tunnels.base.Reason`, and a sentence."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason, self.text = reason, text


class HandshakeHints:
    """What wireguard-go's output shows about a missing handshake. The kernel says nothing."""

    def __init__(self) -> None:
        self._answers, self._unsent = 0, [""]

    def said(self, line: str) -> None:
        """Take one line; lines that matter to operators are printed."""
        self._answers += _ANSWERED in line
        if match := _UNSENT.search(line):
            self._unsent.append(match[1])
        if not _NOISE.search(line):
            print(line, flush=True)

    @property
    def hopeless(self) -> bool:
        """It happened twice, so waiting longer will not help. Once may be a late answer, or a short outage of
        the uplink.
        """
        return self._answers > 1 or len(self._unsent) > 2

    def explained(self, where: str, seconds: float = FIRST_HANDSHAKE_SECONDS) -> WireGuardFailure:
        """Why there was no handshake in this time, as far as anybody can know."""
        if self._answers:
            return WireGuardFailure(
                "handshake",
                f"{where} answers, but its handshake does not fit: the preshared key is most likely "
                f"another one",
            )
        if self._unsent[-1]:
            return WireGuardFailure("network", f"nothing could be sent to {where}: {self._unsent[-1]}")
        text = (
            f"no handshake with {where} within {seconds:g} s: it cannot be reached, or a key is "
            f"wrong (both look the same)"
        )
        return WireGuardFailure("network", text)


class Handshakes:
    """The age of each peer's last handshake, by a monotonic clock."""

    def __init__(self) -> None:
        self._last: dict[bytes, tuple[int, float]] = {}  # handshake, and when it was first seen
        self._waiting: dict[
            bytes, tuple[int, float | None]
        ] = {}  # bytes sent when it expired, and when more were sent

    def note(self, peers: Sequence[PeerStatus], now: float) -> None:
        """Take the status of the peers at this moment (monotonic seconds)."""
        for seen in peers:
            if self._last.get(seen.key, (0, 0.0))[0] != seen.handshake or seen.key not in self._last:
                self._last[seen.key] = (seen.handshake, now)
            if self.age(seen.key, now) <= EXPIRED_SECONDS:
                self._waiting[seen.key] = (seen.sent, None)
                continue
            before, since = self._waiting.get(seen.key, (seen.sent, None))
            self._waiting[seen.key] = (before, now if since is None and seen.sent > before else since)

    def age(self, key: bytes, now: float) -> float:
        """Seconds since the peer's last handshake, or since its first status."""
        return now - self._last[key][1] if key in self._last else 0.0

    def silent(self, keys: Collection[bytes], now: float) -> bool:
        """Each of these peers has let its session expire, and answers no new handshake though we send."""
        since = [moment for key, (_, moment) in self._waiting.items() if key in keys]
        return bool(since) and all(
            moment is not None and now - moment > UNANSWERED_SECONDS for moment in since
        )


class WireGuardTunnel:
    """The tunnel on its interface."""

    def __init__(
        self,
        config: Mapping[str, Any],
        name: str,
        remote: int,
        device: WireGuardDevice,
        hints: HandshakeHints,
        probed: bool = False,
    ) -> None:
        """`remote`: which of the addresses of a name comes first. `probed`: the daemon judges whether the
        tunnel is dead, so a silence of any length ends nothing.
        """
        self._config, self._name, self._remote, self._probed = config, name, remote, probed
        self._device, self._hints = device, hints
        # the peers that get packets to our destinations: the others prove nothing
        self._owners = frozenset(bytes.fromhex(p["public_key"]) for p in config["peers"] if p["owner"])
        self._handshakes = Handshakes()
        self._resolved_at = 0.0
        self._mtu: int | None = None  # of the interface, in bytes

    async def received(self) -> int | None:
        """Bytes of authenticated packets of the peers that matter; None: the interface is gone."""
        with contextlib.suppress(OSError, EndedError):
            return sum(peer.received for peer in await self._device.look() if peer.key in self._owners)
        return None

    async def run(self, talk: DaemonChannel, renew: asyncio.Event) -> None:
        """Connect, and watch until the tunnel cannot go on (WireGuardFailure). `renew`: connect again on the
        same interface.
        """
        while True:
            renew.clear()
            peer = await self._connect()
            talk.connected(**assigned(self._config["addresses"]), peer=peer, mtu=self._mtu)
            while not renew.is_set():
                await self.look_after(asyncio.get_running_loop().time())
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(renew.wait(), STATUS_SECONDS)

    # --- the beginning
    # ------------------------------------------------------------------------------------------------------

    async def _connect(self) -> str:
        """Returns the address of the peer, after the first handshake with it."""
        found = [await _resolved(peer["endpoint"]) for peer in self._config["peers"]]
        peers = [
            self._peer(peer, addresses) for peer, addresses in zip(self._config["peers"], found, strict=True)
        ]
        # a peer without an Endpoint connects to us
        named = [peer["endpoint"] for peer in self._config["peers"] if peer["owner"]]
        if all(named) and not any(peer.endpoint for peer in peers if peer.key in self._owners):
            raise WireGuardFailure("dns", f"{' '.join(host for host, _ in named)} cannot be resolved")
        self._handshakes = Handshakes()
        await self._configure(peers)
        several = any(
            len(addresses) > 1
            for peer, addresses in zip(peers, found, strict=True)
            if peer.key in self._owners
        )
        seconds = OF_SEVERAL_SECONDS if several else FIRST_HANDSHAKE_SECONDS
        return (await self._first_handshake(peers, seconds)).endpoint

    def _peer(self, peer: Mapping[str, Any], addresses: Sequence[str]) -> DevicePeer:
        preshared = None if peer["preshared_key"] is None else bytes.fromhex(peer["preshared_key"])
        endpoint = (in_turn(addresses, self._remote), int(peer["endpoint"][1])) if addresses else None
        return DevicePeer(
            bytes.fromhex(peer["public_key"]), preshared, endpoint, tuple(peer["allowed"]), peer["keepalive"]
        )

    async def _configure(self, peers: Sequence[DevicePeer]) -> None:
        port = self._config["listen_port"]
        try:
            await self._device.configure(bytes.fromhex(self._config["private_key"]), port, peers)
            self._mtu = bring_up(self._name, self._config["mtu"])
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise self._port_taken() from error
            raise

    def _port_taken(self) -> WireGuardFailure:
        port = self._config["listen_port"]
        return WireGuardFailure("local", f"UDP port {port} of the file's ListenPort is taken on this host")

    async def _check_port(self) -> None:
        """wireguard-go binds when it sees that its interface is up, which may be after we have set it up.
        Then nobody gets the error, and it goes on with another port.
        """
        wanted = self._config["listen_port"]
        if wanted and await self._device.port() != wanted:
            raise self._port_taken()

    async def _first_handshake(self, peers: Sequence[DevicePeer], seconds: float) -> PeerStatus:
        """The first owner of a destination with a handshake. WireGuard notifies nobody of one, so its status
        is polled.
        """
        pause = 0.005
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._hints.hopeless:
                    seen = await self._device.look()
                    await self._check_port()
                    if shaken := next((s for s in seen if s.handshake and s.key in self._owners), None):
                        return shaken
                    await asyncio.sleep(pause)
                    pause = min(0.2, pause * 1.5)
        raise self._hints.explained(" or ".join(self._places(peers)), seconds)

    def _places(self, peers: Sequence[DevicePeer]) -> Iterator[str]:
        """Where the owners of our destinations are."""
        for configured, peer in zip(self._config["peers"], peers, strict=True):
            if not configured["owner"]:
                continue
            if configured["endpoint"] is None:
                yield "the [Peer] without an Endpoint"
                continue
            name, port = configured["endpoint"]
            address = "" if peer.endpoint is None or peer.endpoint[0] == name else f" ({peer.endpoint[0]})"
            yield f"{name}{address} port {port}"

    # --- what follows
    # ------------------------------------------------------------------------------------------------------

    async def look_after(self, now: float) -> None:
        """Check a tunnel that is up, at this moment (monotonic seconds). WireGuardFailure."""
        peers = await self._device.look()
        self._handshakes.note(peers, now)
        if not self._probed and self._handshakes.silent(self._owners, now):
            raise WireGuardFailure(
                "peer-timeout",
                f"the peer has completed no handshake for {EXPIRED_SECONDS + UNANSWERED_SECONDS:g} s, though we send",
            )
        await self._follow_names(peers, now)

    async def _follow_names(self, peers: Sequence[PeerStatus], now: float) -> None:
        """Resolve a name again if handshakes have stopped: it may point to another address by now."""
        if now - self._resolved_at < RESOLVE_AGAIN_SECONDS:
            return
        where = {bytes.fromhex(peer["public_key"]): peer["endpoint"] for peer in self._config["peers"]}
        for seen in peers:
            if self._handshakes.age(seen.key, now) < STALE_SECONDS or not where.get(seen.key):
                continue
            self._resolved_at = now
            found = await _resolved(where[seen.key])
            if found and seen.endpoint not in found:
                print(f"facilitator: {where[seen.key][0]} is at {found[0]} now", flush=True)
                await self._device.move(seen.key, (found[0], where[seen.key][1]))


async def _resolved(endpoint: Sequence[Any] | None) -> list[str]:
    """All addresses of an endpoint, in the order that this host prefers; empty if it cannot be resolved."""
    if endpoint is None:
        return []
    try:
        return await resolved(endpoint[0])
    except OSError as error:
        print(f"facilitator: {endpoint[0]} cannot be resolved: {error or 'no answer'}", flush=True)
        return []


# --- the program
# ----------------------------------------------------------------------------------------------------------


async def main(arguments: Sequence[str]) -> int:
    """Run until the interface fails or SIGTERM comes; returns the exit code, or the negative number of a
    signal.
    """
    options = _options(arguments)
    config = _configuration(options.config)
    stopped, renew, hints = asyncio.Event(), asyncio.Event(), HandshakeHints()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    talk = DaemonChannel(options.talk, renew.set)
    await talk.listen()
    try:
        device = await opened(options.device, hints.said)
    except OSError as error:
        _refused(talk, error)
        await stopped.wait()
        return 1
    tunnel = WireGuardTunnel(config, options.device, options.remote, device, hints, options.probed)
    return await _attended(_run(tunnel, talk, renew), device, stopped)


def _configuration(descriptor: int) -> dict[str, Any]:
    with open(descriptor, "rb") as file:
        config: dict[str, Any] = json.load(file)
    return config


async def _attended(work: Coroutine[Any, Any, None], device: WireGuardDevice, stopped: asyncio.Event) -> int:
    running, ended = asyncio.ensure_future(work), asyncio.ensure_future(device.ended())
    stopping = asyncio.ensure_future(stopped.wait())
    try:
        await asyncio.wait({running, ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
        return ended.result() if ended.done() else 0
    finally:
        running.cancel()
        await device.close()


async def _run(tunnel: WireGuardTunnel, talk: DaemonChannel, renew: asyncio.Event) -> None:
    """After a failure keep the interface as it is: the daemon decides, as soon as there is one."""
    telling = asyncio.ensure_future(talk.tell_signs_of_life(tunnel.received, KEEPALIVE_SECONDS))
    try:
        await tunnel.run(talk, renew)
    except WireGuardFailure as failure:
        talk.failed(failure.reason, failure.text)
    except OSError as error:
        _refused(talk, error)
    except EndedError:
        pass  # its exit code explains it
    finally:
        telling.cancel()
    await asyncio.Event().wait()


def _refused(talk: DaemonChannel, error: OSError) -> None:
    """Report an OSError of this host as a reason and a sentence."""
    match error.errno:
        case errno.ENOENT:
            install = "Debian and Ubuntu: apt install wireguard-go"
            talk.failed(
                "missing-binary",
                f"this kernel has no WireGuard, and wireguard-go is not installed ({install})",
            )
        case errno.EPERM | errno.EACCES:
            talk.failed("missing-right", f"the daemon may not create a WireGuard interface: {error.strerror}")
        case errno.EROFS:
            talk.failed(
                "missing-right", f"wireguard-go needs a directory {SOCKETS} that the daemon may write"
            )
        case errno.EADDRINUSE:
            talk.failed(
                "local",
                "another WireGuard on this host has an interface of the same name; set device: to another name",
            )
        case errno.EEXIST:
            talk.failed("local", "this host has an interface of the same name; set device: to another name")
        case _:
            talk.failed("local", f"WireGuard: {error.strerror or 'no answer'}")


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", required=True, help="name of the interface to create")
    parser.add_argument("--config", type=int, required=True, help="descriptor of the configuration")
    parser.add_argument("--talk", type=int, required=True, help="descriptor of the key that the daemon shows")
    parser.add_argument("--remote", type=int, default=0, help="which of the addresses of a name comes first")
    parser.add_argument("--probed", action="store_true", help="the daemon judges whether the tunnel is dead")
    return parser.parse_args(arguments)


async def _whole(arguments: Sequence[str]) -> None:
    code = await main(arguments)
    if code < 0:
        end_like(code)
    sys.stdout.flush()
    os._exit(code)  # do not wait for a name that is still being resolved


if __name__ == "__main__":
    asyncio.run(_whole(sys.argv[1:]))
