"""WireGuard without a network: the customer's file, the launch, what devices answer, and when a peer
counts as silent.
"""

from __future__ import annotations

import json
import os
import socket
from base64 import b64encode
from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.generic.wireguard import wgmsg

from supervisor.config.validation import validated
from tests.tunnels.driver import explained, replay
from tunnels.base import KEY, FileFinding, Launch, Placement, Reason
from tunnels.examination import findings
from tunnels.kinds.wireguard.config import KEEPALIVE_SECONDS, read_profile
from tunnels.kinds.wireguard.cryptokey_routing import owners
from tunnels.kinds.wireguard.device import genl_header, peer_attribute, read_device, read_port
from tunnels.kinds.wireguard.driver import (
    EXPIRED_SECONDS,
    RESOLVE_AGAIN_SECONDS,
    STALE_SECONDS,
    UNANSWERED_SECONDS,
    HandshakeHints,
    Handshakes,
    WireGuardFailure,
    WireGuardTunnel,
)
from tunnels.kinds.wireguard.kind import WIREGUARD
from tunnels.kinds.wireguard.peers import DevicePeer, Endpoint, PeerStatus
from tunnels.kinds.wireguard.userspace import NameLock, read_status

TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts" / "wireguard").glob("*.txt"))
OURS, THEIRS, SHARED = (b64encode(bytes([number]) * 32).decode() for number in (1, 2, 3))
INTERFACE = f"[Interface]\nPrivateKey = {OURS}\nAddress = 10.86.0.2/24\n"
PEER = f"[Peer]\nPublicKey = {THEIRS}\nEndpoint = vpn.example.net:51820\nAllowedIPs = 10.77.0.0/24\n"
PLACE = Placement(Path("/run/facilitator/clients/acme"), "t-acme", 0, "/usr/bin/python3", remote=2)


def launched(text: str, *destinations: str, **options: Any) -> Launch:
    tunnel = validated(
        WIREGUARD.options,
        {
            "name": "acme",
            "kind": "wireguard",
            "config": "acme.conf",
            "destinations": destinations or ("10.77.0.0/24",),
            **options,
        },
    )
    return WIREGUARD.launch(tunnel, PLACE, {"config": text.encode()})


def examined(text: str) -> tuple[FileFinding, ...]:
    tunnel = validated(
        WIREGUARD.options,
        {"name": "acme", "kind": "wireguard", "config": "acme.conf", "destinations": ["10.77.0.0/24"]},
    )
    return findings(WIREGUARD, tunnel, {"config": text.encode()}, complete=True)


def document(launch: Launch) -> Any:
    return json.loads(launch.files["config"])


# --- the customer's file ---


def test_a_usual_file() -> None:
    profile = read_profile(
        (
            "\ufeff# from our provider\r\n[interface]\r\nprivatekey="
            + OURS
            + "\r\nAddress = 10.86.0.2/24, fd00:86::2/64  # ours\r\n"
            "Address = 10.86.1.2\r\nListenPort = 51821\r\nMTU = 1380\r\n\r\n[PEER]\r\nPublicKey = "
            + THEIRS
            + "\r\nPresharedKey = "
            + SHARED
            + "\r\nEndpoint = [2001:db8::1]:51820\r\nAllowedIPs = 10.77.0.0/24,10.90.0.0/16\r\nAllowedIPs "
            "= ::/0\r\n"
            "PersistentKeepalive = 15\r\n"
        ).encode()
    )
    assert profile.private_key == bytes([1]) * 32
    assert profile.addresses == tuple(map(ip_address, ("10.86.0.2", "fd00:86::2", "10.86.1.2")))
    assert (profile.mtu, profile.listen_port, profile.notes) == (1380, 51821, ())
    (peer,) = profile.peers
    assert (peer.public_key, peer.preshared_key, peer.endpoint) == (
        bytes([2]) * 32,
        bytes([3]) * 32,
        ("2001:db8::1", 51820),
    )
    assert peer.allowed == tuple(map(ip_network, ("10.77.0.0/24", "10.90.0.0/16", "::/0")))
    assert peer.keepalive == 15


@pytest.mark.parametrize("line", ["", "PersistentKeepalive = off\n", "PersistentKeepalive = 0\n"])
def test_without_a_keepalive_there_is_one(line: str) -> None:
    assert read_profile(f"{INTERFACE}{PEER}{line}".encode()).peers[0].keepalive == KEEPALIVE_SECONDS


def test_what_would_change_this_host_is_left_out_and_said() -> None:
    owned = (
        "DNS = 10.0.0.53\nTable = off\nFwMark = 51820\nSaveConfig = true\n"
        "PreUp = a\nPostUp = b; PostUp\nPreDown = c\nPostDown = secret-word\n"
    )
    notes = examined(f"{INTERFACE}{owned}{PEER}")
    assert [note.text.split()[0] for note in notes] == [
        "DNS",
        "Table",
        "FwMark",
        "SaveConfig",
        "PreUp",
        "PostUp",
        "PreDown",
        "PostDown",
    ]
    assert str(notes[0]) == "acme.conf:4: DNS is left out: names are resolved as this host does it"
    assert not any(note.fatal or "secret-word" in note.text for note in notes)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "line 1: the file is empty; ask for it again"),
        (
            f"[Interface]\nAddress=10.0.0.1\nPrivateKey = <your private key>\n{PEER}",
            "line 3: PrivateKey is not filled in; put in a key (44 characters of base64)",
        ),
        (
            f"{INTERFACE}{PEER}PresharedKey =\n",
            "line 8: PresharedKey is not filled in; put in a key (44 characters of base64)",
        ),
        ("# nothing", "line 1: no [Interface]"),
        (PEER, "line 4: no [Interface]"),
        (INTERFACE, "no [Peer] has an Endpoint: there is nobody to connect to"),
        (INTERFACE + PEER + INTERFACE, "line 8: a second [Interface]"),
        (INTERFACE + PEER + PEER, "line 8: a [Peer] again"),
        (
            INTERFACE + f"[Peer]\nPublicKey={THEIRS}\n",
            "no [Peer] has an Endpoint: there is nobody to connect to",
        ),
        (INTERFACE + "[Peer]\nEndpoint=a:1\n", "line 4: [Peer] has no PublicKey"),
        (f"[Interface]\nPrivateKey={OURS}\n{PEER}", "line 1: [Interface] has no Address"),
        (f"[Interface]\nAddress=10.0.0.1\n{PEER}", "line 1: [Interface] has no PrivateKey"),
        ("PrivateKey = secret-word\n", "line 1: PrivateKey stands before the first section"),
        ("[Server]\n", "line 1: only [Interface] and [Peer] are known"),
        ("[Interface]\nsecret-word\n", "line 2: not of the form Name = value"),
        (
            "[Interface]\nJc = 4\n",
            "line 2: Jc is AmneziaWG's, which WireGuard cannot speak; ask for a plain WireGuard configuration",
        ),
        ("[Interface]\nFoo = 4\n", "line 2: Foo is no setting of [Interface]"),
        ("[Interface]\nEndpoint = a:1\n", "line 2: Endpoint is no setting of [Interface]"),
        (f"[Interface]\nPrivateKey={OURS}\nPrivateKey={OURS}\n", "line 3: PrivateKey again"),
        (
            "[Interface]\nAddress=10.0.0.1\nPrivateKey = secret-word\n",
            "line 3: PrivateKey is not a key (44 characters of base64)",
        ),
        (
            f"[Interface]\nAddress=10.0.0.1\nPrivateKey = {OURS[:-4]}\n",
            "line 3: PrivateKey is not a key (44 characters of base64)",
        ),
        ("[Interface]\nAddress = 10.0.0.1/33\n", "line 2: Address is not an address, such as 10.86.0.2/32"),
        (f"{INTERFACE}MTU = 100\n{PEER}", "line 4: MTU is not a number from 576 to 65535"),
        (f"{INTERFACE}{PEER.replace(':51820', '')}", "line 6: Endpoint is not HOST:PORT"),
        (f"{INTERFACE}{PEER.replace('51820', '70000')}", "line 6: Endpoint is not HOST:PORT"),
        (
            f"{INTERFACE}{PEER}PersistentKeepalive = yes\n",
            "line 8: PersistentKeepalive is not off or a number of seconds",
        ),
    ],
)
def test_what_is_wrong_with_a_file(text: str, wanted: str) -> None:
    with pytest.raises(ValueError) as caught:
        read_profile(text.encode())
    assert str(caught.value) == wanted


@given(
    st.lists(
        st.one_of(
            st.sampled_from(
                [
                    *INTERFACE.splitlines(),
                    *PEER.splitlines(),
                    "MTU = 1",
                    "[Peer]",
                    "AllowedIPs = 10.0.0.0/8,, ::/0",
                    "PostUp = x",
                ]
            ),
            st.text(max_size=30),
        ),
        max_size=14,
    ),
    st.binary(max_size=6),
)
def test_no_file_upsets_it(lines: list[str], junk: bytes) -> None:
    profile, said = None, ""
    try:
        profile = read_profile("\n".join(lines).encode("utf-8", "surrogatepass") + junk)
    except ValueError as error:
        said = str(error)
    assert OURS not in said
    assert profile is None or (profile.addresses and any(peer.endpoint for peer in profile.peers))


# --- the launch ---


def test_the_program_gets_everything_in_an_anonymous_file() -> None:
    launch = launched(INTERFACE + PEER)
    assert launch.argv == (
        "/usr/bin/python3",
        "-I",
        "-m",
        "tunnels.kinds.wireguard.driver",
        "--device",
        "t-acme",
        "--config",
        "{config}",
        "--talk",
        KEY,
        "--remote",
        "2",
    )
    assert launch.management == PLACE.directory / "management.sock"
    assert document(launch) == {
        "private_key": "01" * 32,
        "listen_port": 0,
        "addresses": ["10.86.0.2"],
        "mtu": 1420,
        "peers": [
            {
                "public_key": "02" * 32,
                "preshared_key": None,
                "endpoint": ["vpn.example.net", 51820],
                "allowed": ["10.77.0.0/24"],
                "keepalive": KEEPALIVE_SECONDS,
                "owner": True,
            }
        ],
    }


def test_whose_mtu_counts() -> None:
    assert document(launched(f"{INTERFACE}MTU = 1300\n{PEER}"))["mtu"] == 1300
    assert document(launched(f"{INTERFACE}MTU = 1300\n{PEER}", mtu=1280))["mtu"] == 1280


@pytest.mark.parametrize(
    ("allowed", "destination"),
    [
        ("10.77.0.0/24", "10.77.0.0/24"),
        ("10.77.0.0/25, 10.77.0.128/25", "10.77.0.0/24"),
        ("0.0.0.0/0", "10.77.0.0/24"),
    ],
)
def test_destinations_within_allowed_ips(allowed: str, destination: str) -> None:
    assert launched(INTERFACE + PEER.replace("10.77.0.0/24", allowed), destination)


@pytest.mark.parametrize(
    ("allowed", "destination", "wanted"),
    [
        (
            "10.77.0.0/24",
            "10.77.0.0/16",
            "10.77.0.0/16 is not within AllowedIPs: WireGuard would throw its packets away",
        ),
        (
            "10.77.0.0/25",
            "10.77.0.0/24",
            "10.77.0.0/24 is not within AllowedIPs: WireGuard would throw its packets away",
        ),
        ("", "10.77.0.0/24", "10.77.0.0/24 is not within AllowedIPs: WireGuard would throw its packets away"),
        (
            "0.0.0.0/0",
            "fd00:77::/64",
            "fd00:77::/64 is not within AllowedIPs: WireGuard would throw its packets away",
        ),
        ("::/0", "fd00:77::/64", "fd00:77::/64 cannot be reached: the file has no Address of IPv6"),
    ],
)
def test_destinations_that_could_not_be_reached(allowed: str, destination: str, wanted: str) -> None:
    with pytest.raises(ValueError) as caught:
        launched(INTERFACE + PEER.replace("10.77.0.0/24", allowed), destination)
    assert str(caught.value).partition(": ")[2] == wanted


def allowed_peer(number: int, *allowed: str) -> str:
    key = b64encode(bytes([number]) * 32).decode()
    return f"[Peer]\nPublicKey = {key}\nEndpoint = 192.0.2.{number}:1\nAllowedIPs = {', '.join(allowed)}\n"


@pytest.mark.parametrize(
    ("peers", "destination", "owning"),
    [
        ({4: ["10.77.0.0/24"], 5: ["10.99.0.0/24"]}, "10.77.0.0/24", {4}),
        ({4: ["10.77.0.0/24"], 5: ["10.77.0.0/24"]}, "10.77.0.0/24", {5}),
        ({4: ["0.0.0.0/0"], 5: ["10.77.0.0/24"]}, "10.77.0.0/24", {5}),
        ({4: ["0.0.0.0/0"], 5: ["10.77.0.0/24"]}, "10.77.0.0/16", {4, 5}),
        ({4: ["10.77.0.0/24"], 5: ["10.77.0.0/25"], 6: ["10.77.0.128/25"]}, "10.77.0.0/24", {5, 6}),
        ({4: ["10.77.0.0/24"], 5: ["10.77.0.0/25"], 6: ["10.77.0.128/25"]}, "10.77.0.7/32", {5}),
        ({4: ["::/0"], 5: ["0.0.0.0/0"]}, "10.77.0.0/24", {5}),
    ],
)
def test_the_peers_that_own_a_destination(
    peers: dict[int, list[str]], destination: str, owning: set[int]
) -> None:
    text = INTERFACE + "".join(allowed_peer(number, *allowed) for number, allowed in peers.items())
    told = document(launched(text, destination))["peers"]
    assert {int(peer["public_key"][:2], 16) for peer in told if peer["owner"]} == owning


@given(
    st.lists(st.tuples(st.integers(0, 255), st.integers(24, 32), st.integers(4, 8)), min_size=1, max_size=8),
    st.integers(24, 32),
)
def test_owners_are_who_the_addresses_belong_to(routes: list[tuple[int, int, int]], length: int) -> None:
    """Against a look-up of every single address."""
    nets = [(ip_network(f"10.77.0.{last}/{prefix}", strict=False), key) for last, prefix, key in routes]
    destination = ip_network(f"10.77.0.0/{length}")
    table = {net: key for key in range(4, 9) for net, owner in nets if owner == key}
    wanted = set()
    for address in destination:
        holding = [net for net in table if address in net]
        if holding:
            wanted.add(table[max(holding, key=lambda net: net.prefixlen)])
    text = INTERFACE + "".join(
        allowed_peer(key, *(str(net) for net, owner in nets if owner == key)) for key in range(4, 9)
    )
    found = owners(read_profile(text.encode()).peers, [destination])
    assert {key[0] for key in found} == wanted


def test_a_network_of_two_peers_is_said() -> None:
    text = INTERFACE + allowed_peer(4, "10.77.0.0/24", "10.78.0.0/24") + allowed_peer(5, "10.77.0.7/24")
    assert list(map(str, examined(text))) == [
        "acme.conf:7: AllowedIPs 10.77.0.0/24 has no effect: line 11 gives it to another [Peer], and WireGuard "
        "uses the last one; remove one of the two"
    ]
    assert examined(INTERFACE + allowed_peer(4, "10.77.0.0/24", "10.77.0.0/24")) == ()


def test_a_mapping_counts_with_the_network_at_the_far_side() -> None:
    tunnel = validated(
        WIREGUARD.options,
        {
            "name": "acme",
            "kind": "wireguard",
            "config": "acme.conf",
            "destinations": [{"network": "10.77.0.0/24", "presented_as": "100.64.0.0/24"}],
        },
    )
    assert WIREGUARD.launch(tunnel, PLACE, {"config": (INTERFACE + PEER).encode()})


# --- what wireguard-go says ---


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_replay(path: Path) -> None:
    tunnel = validated(
        WIREGUARD.options,
        {"name": "acme", "kind": "wireguard", "config": "c", "destinations": ["10.77.0.0/24"]},
    )
    given, wanted = replay(WIREGUARD.dialogue(tunnel, {}), path.read_text().splitlines())
    assert wanted
    assert given == wanted


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (
            "ERROR: (t-acme) 2026/11/22 11:00:00 Failed to create TUN device: operation not permitted",
            Reason.MISSING_RIGHT,
        ),
        (
            'ERROR: (t-acme) 2026/11/22 11:00:00 Failed to create TUN device: CreateTUN("t-acme") failed; '
            "/dev/net/tun does not exist",
            Reason.MISSING_RIGHT,
        ),
        ("ERROR: (t-acme) 2026/11/22 11:00:00 Failed to create TUN device: invalid argument", Reason.LOCAL),
        ("ERROR: (t-acme) 2026/11/22 11:00:00 UAPI listen error: unix socket in use", Reason.LOCAL),
        (
            "ERROR: (t-acme) 2026/11/22 11:00:00 UAPI listen error: mkdir /var/run/wireguard: permission "
            "denied",
            Reason.MISSING_RIGHT,
        ),
        ("ERROR: (t-acme) 2026/11/22 11:00:00 UAPI listen error: too many open files", Reason.LOCAL),
    ],
)
def test_why_it_cannot_begin(line: str, reason: Reason) -> None:
    tunnel = validated(
        WIREGUARD.options,
        {"name": "acme", "kind": "wireguard", "config": "c", "destinations": ["10.77.0.0/24"]},
    )
    (failed,) = explained(WIREGUARD.dialogue(tunnel, {}), line)
    assert failed.reason is reason


def test_why_there_is_no_handshake(capsys: pytest.CaptureFixture[str]) -> None:
    hints = HandshakeHints()
    hints.said("DEBUG: (t-acme) 2026/11/22 11:00:00 Routine: TUN reader - started")
    assert hints.explained("x").reason == "network"
    assert "both look the same" in hints.explained("x").text
    hints.said(
        "ERROR: (t-acme) 2026/11/22 11:00:00 peer(IiIi…iIiI) - Failed to send handshake initiation: "
        "network is unreachable"
    )
    assert hints.explained("x").text == "nothing could be sent to x: network is unreachable"
    hints.said("DEBUG: (t-acme) 2026/11/22 11:00:00 Received invalid response message from 203.0.113.2:51820")
    assert not hints.hopeless
    hints.said("DEBUG: (t-acme) 2026/11/22 11:00:05 Received invalid response message from 203.0.113.2:51820")
    assert hints.hopeless
    assert hints.explained("x").reason == "handshake"
    assert "Routine" not in capsys.readouterr().out


# --- when the peer is silent ---

PEER_KEY = bytes(32)


def seen(handshake: int, sent: int, endpoint: str = "192.0.2.9") -> PeerStatus:
    return PeerStatus(PEER_KEY, endpoint, handshake, sent)


def test_a_far_side_that_we_send_to_in_vain_is_silent_after_its_session_expired() -> None:
    handshakes = Handshakes()
    for second in range(0, 400, 5):
        handshakes.note([seen(1, 100 + second)], second)
        assert handshakes.silent([PEER_KEY], second) == (second > EXPIRED_SECONDS + 5 + UNANSWERED_SECONDS)


def test_a_far_side_to_which_nothing_was_sent_is_not_silent() -> None:
    handshakes = Handshakes()
    for second in range(0, 1000, 5):
        handshakes.note([seen(1, 100)], second)
    assert not handshakes.silent([PEER_KEY], 1000)


def test_a_new_handshake_ends_the_silence() -> None:
    handshakes = Handshakes()
    for second in range(0, 200, 5):
        handshakes.note([seen(1, 100 + second)], second)
    handshakes.note([seen(2, 900)], 200)
    assert not handshakes.silent([PEER_KEY], 200)
    assert handshakes.age(PEER_KEY, 210) == 10


def test_one_living_peer_of_two_is_enough_if_it_owns_a_destination() -> None:
    handshakes = Handshakes()
    for second in range(0, 400, 5):
        handshakes.note([seen(1, 100 + second), PeerStatus(b"other", "", second, 100 + second)], second)
        assert not handshakes.silent([PEER_KEY, b"other"], second)
    assert handshakes.silent([PEER_KEY], 400)


class Still:
    """A device on which nothing happens any more."""

    def __init__(self, endpoint: str) -> None:
        self.moved: list[tuple[bytes, Endpoint]] = []
        self._endpoint = endpoint

    async def configure(self, private_key: bytes, port: int, peers: Sequence[DevicePeer]) -> None:
        raise AssertionError

    async def move(self, key: bytes, endpoint: Endpoint) -> None:
        self.moved.append((key, endpoint))

    async def look(self) -> list[PeerStatus]:
        return [seen(1, 100, self._endpoint)]

    async def port(self) -> int:
        return 0

    async def ended(self) -> int:
        return 0

    async def close(self) -> None:
        return None


@pytest.mark.parametrize(
    ("at", "moved"), [("192.0.2.9", [(PEER_KEY, ("127.0.0.1", 51820))]), ("127.0.0.1", [])]
)
async def test_a_name_is_resolved_again_when_handshakes_stop(at: str, moved: object) -> None:
    device = Still(at)
    config = {"peers": [{"public_key": PEER_KEY.hex(), "endpoint": ["127.0.0.1", 51820], "owner": True}]}
    tunnel = WireGuardTunnel(config, "t-acme", 0, device, HandshakeHints())
    start = 1000.0
    for age in (0.0, STALE_SECONDS - 1):
        await tunnel.look_after(start + age)
        assert not device.moved
    for age in (STALE_SECONDS, STALE_SECONDS + RESOLVE_AGAIN_SECONDS / 2):
        await tunnel.look_after(start + age)
        assert device.moved == moved


class Sending(Still):
    """It sends all the time, and nobody answers."""

    sent = 0

    async def look(self) -> list[PeerStatus]:
        self.sent += 1
        return [seen(1, self.sent, "127.0.0.1")]


def sending(probed: bool) -> WireGuardTunnel:
    config = {"peers": [{"public_key": PEER_KEY.hex(), "endpoint": ["127.0.0.1", 51820], "owner": True}]}
    return WireGuardTunnel(config, "t-acme", 0, Sending("x"), HandshakeHints(), probed)


async def test_silence_is_a_failure() -> None:
    tunnel = sending(probed=False)
    for second in range(0, int(EXPIRED_SECONDS + UNANSWERED_SECONDS) + 5, 5):
        await tunnel.look_after(second)
    with pytest.raises(WireGuardFailure, match="has completed no handshake for 200 s") as caught:
        await tunnel.look_after(EXPIRED_SECONDS + UNANSWERED_SECONDS + 10)
    assert caught.value.reason == "peer-timeout"


async def test_a_silence_of_any_length_ends_nothing_where_probes_judge() -> None:
    tunnel = sending(probed=True)
    for second in range(0, 3600, 5):
        await tunnel.look_after(second)


# --- what devices answer, and what the kernel is told (pyroute2 knows the format independently) ---


def test_an_answer_of_wireguard_go() -> None:
    pairs = [
        ("private_key", "10" * 32),
        ("listen_port", "48113"),
        ("public_key", "02" * 32),
        ("preshared_key", "00" * 32),
        ("protocol_version", "1"),
        ("endpoint", "[2001:db8::1]:999"),
        ("last_handshake_time_sec", "7"),
        ("last_handshake_time_nsec", "5"),
        ("tx_bytes", "148"),
        ("rx_bytes", "92"),
        ("allowed_ip", "10.0.0.0/8"),
        ("public_key", "03" * 32),
        ("errno", "0"),
    ]
    assert read_status(pairs) == [
        PeerStatus(bytes([2]) * 32, "2001:db8::1", 7_000_000_005, 148, 92),
        PeerStatus(bytes([3]) * 32),
    ]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["public_key", "endpoint", "tx_bytes", "last_handshake_time_sec", "x"]),
            st.text(max_size=8),
        )
    )
)
def test_no_answer_upsets_it(pairs: list[tuple[str, str]]) -> None:
    assert isinstance(read_status(pairs), list)


def message(body: bytes) -> Any:
    """What pyroute2 makes of a message for the kernel."""
    data = genl_header(1) + body
    decoded = wgmsg((16 + len(data)).to_bytes(4, "little") + bytes(12) + data)
    decoded.decode()
    return decoded


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
def test_the_kernel_is_told_a_peer(address: str) -> None:
    told = DevicePeer(bytes([2]) * 32, bytes([3]) * 32, (address, 51820), ("10.77.0.0/24", "fd00::/8"), 25)
    body = peer_attribute(told, told.allowed)
    (peer,) = message(body).get_attr("WGDEVICE_A_PEERS")
    assert peer.get_attr("WGPEER_A_PUBLIC_KEY") == THEIRS.encode()
    assert peer.get_attr("WGPEER_A_PRESHARED_KEY") == SHARED.encode()
    endpoint = peer.get_attr("WGPEER_A_ENDPOINT")
    assert (endpoint["addr"], endpoint["port"]) == (address, 51820)
    assert peer.get_attr("WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL") == 25
    assert [each["addr"] for each in peer.get_attr("WGPEER_A_ALLOWEDIPS")] == ["10.77.0.0/24", "fd00::/8"]


def test_the_kernel_tells_its_peers() -> None:
    told = wgmsg()
    told["attrs"] = [
        ["WGDEVICE_A_LISTEN_PORT", 51999],
        [
            "WGDEVICE_A_PEERS",
            [
                {
                    "attrs": [
                        ["WGPEER_A_PUBLIC_KEY", {"value": THEIRS}],
                        ["WGPEER_A_ENDPOINT", {"addr": "2001:db8::1", "port": 999}],
                        ["WGPEER_A_LAST_HANDSHAKE_TIME", {"tv_sec": 7, "tv_nsec": 5}],
                        ["WGPEER_A_RX_BYTES", 92],
                        ["WGPEER_A_TX_BYTES", 148],
                    ]
                },
                {"attrs": [["WGPEER_A_PUBLIC_KEY", {"value": THEIRS}]]},
            ],
        ],
    ]
    told.encode()
    assert read_port(bytes(told.data[20:])) == 51999
    assert read_port(b"") == 0
    assert list(read_device(bytes(told.data[20:]))) == [
        PeerStatus(bytes([2]) * 32, "2001:db8::1", 7_000_000_005, 148, 92)
    ]


def test_a_name_is_taken_once_and_what_nobody_holds_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "t-acme.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(OSError, match="in use"):
            NameLock(path)
    for _ in range(2):  # a socket that nobody serves, and a file that its holder has left
        claim = NameLock(path)
        with pytest.raises(OSError, match="in use"):
            NameLock(path)
        os.close(claim.fd)
    NameLock(path).release()
    assert not path.exists()
