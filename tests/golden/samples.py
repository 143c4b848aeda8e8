"""A value of each sort of document, and how the code of today writes and reads it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from supervisor.app.stores import (
    fleet_orders,
    second_sessions,
    state_store,
    stopped_tunnels,
    upgrade_document,
)
from supervisor.app.stores.fleet_orders import FleetOrderFile
from supervisor.app.stores.second_sessions import SecondSessions
from supervisor.app.stores.state_store import End, Stored
from supervisor.app.stores.stopped_tunnels import StoppedTunnels
from supervisor.app.stores.upgrade_document import HandoverDocument
from supervisor.clients import process_journal, totp
from supervisor.clients.process_journal import Journal, JournalEntry
from supervisor.clients.totp import Codes
from supervisor.core.fleet.orders import FleetOrder, OrderKind
from supervisor.core.session.record import TunnelRecord
from supervisor.core.snapshot import Snapshot, Transition
from supervisor.core.state import (
    Asking,
    Drain,
    Failure,
    Health,
    Idle,
    Known,
    Length,
    Liveness,
    Phase,
    ProtocolSigns,
    Reach,
    RecoveryStep,
    RetryState,
    Second,
    Session,
    SessionState,
    SilentTarget,
    TunnelState,
    Want,
)
from tests.settings import configured
from tunnels.base import Question, Reason, Wanted
from tunnels.settings import Tunnel

BOOT = "4f2c6b1e-0000-4000-8000-000000000001"
SEED = b"JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"

# Each field has a value that is not its default: a field that is lost on the way shows.
FACTS = Session(
    7,
    "beef",
    4242,
    "t-acme-dc",
    3333,
    3.5,
    4.5,
    "10.78.0.2",
    "198.51.100.7",
    (ip_network("10.77.0.0/24"), ip_network("fd00::/64")),
    (ip_network("10.77.0.0/25"),),
    1400,
    5.5,
    True,
    True,
    1,
    "fd00::2",
    True,
    1380,
    (ip_address("10.77.0.53"),),
)
ACTIVE = SessionState(
    session=FACTS,
    phase=Phase.UP,
    reason=Reason.AUTH,
    since=1.5,
    deadline=6.5,
    health=Health.UNHEALTHY,
    liveness=Liveness(
        *(1, 2, 3, True, (0.25, None), 7.5, 0.125, "20 % lost", "no more connections", 6.5, 7.0),
        ProtocolSigns(10.0, True, 8.0),
        (SilentTarget("icmp://10.77.0.9", 6.0, 2),),
        7.25,
    ),
    failure=Failure(Reason.PEER_CLOSED, "gone", 8.5),
    asking=Asking(Question(Wanted.CODE, "Code?"), 11.5),
    code_at=12.5,
    resumable=True,
    outdated=True,
    reconnect_by=12.5,
    recovery=RecoveryStep.LOGIN,
)
STANDBY = replace(
    ACTIVE,
    session=replace(FACTS, number=6, id="c0ffee", slot=0),
    phase=Phase.STOPPING,
    drain=Drain(Reason.PLANNED, 16.5, 9, 17.5, 16.0),
)
STATE = TunnelState(
    want=Want.DOWN,
    active=ACTIVE,
    standby=STANDBY,
    idle=Idle(Phase.BACKOFF, Reason.NETWORK, 18.5, 19.5),
    last=replace(FACTS, number=5),
    well_since=2.5,
    sound_since=2.75,
    chosen_since=3.5,
    retry=RetryState(
        attempts=4,
        refusals=2,
        unreached=8,
        suspicions=6,
        login_after=9.5,
        turn=10.5,
        failure=Failure(Reason.DNS, "no such name", 20.5),
        proven=True,
        resumable=True,
        remote=7,
        recovery=RecoveryStep.RESUME,
        gave_up_on_hearsay=True,
    ),
    drain=Drain(Reason.STOPPED, 13.5, 8, 14.5, 13.0),
    endpoint=Reach.ANSWERS,
    endpoint_since=18.0,
    endpoint_returned=True,
    reconnects=5,
    known=Known(Second.REPLACES, (Length(3600.0, True), Length(60.5, False))),
    planned=15.5,
    next_number=10,
)
STORED = Stored(BOOT, TunnelRecord(STATE, 173_001, (("acme-dc", "globex"),)), "fingerprint", "digest")
HANDOVER = HandoverDocument(
    version="0.1.0",
    upgrades=2,
    runtime_dir="/run/facilitator",
    state_dir="/var/lib/facilitator",
    lock=3,
    parent=1,
    listening={"control": (4,), "127.0.0.1:9464": (5, 6)},
    tunnels={"acme-dc": STORED},
    kept={"acme-dc": "a cookie"},
)
ENTRY = JournalEntry(
    "acme-dc",
    7,
    "beef",
    4242,
    987654,
    BOOT,
    "t-acme-dc",
    3333,
    173_001,
    "/run/facilitator/m.sock",
    0,
    "openvpn",
    True,
    output=4096,
)
END = End(BOOT, 900.5)
FOLLOWED = (
    FleetOrder(OrderKind.DRAIN, "vpn2", "alice@vpn1", "a new kernel", 1_790_000_000.5),
    FleetOrder(OrderKind.STOP, "acme-dc", "bob@laptop", "asked for by ACME", 1_790_000_001.0),
)
HELD = frozenset({"acme-dc", "globex"})
LEARNED = {"acme-dc": Second.REPLACES, "globex": Second.ALLOWED}
NOW = 1_000_000_000.0


@dataclass(frozen=True)
class Sort:
    """One sort of document: `written` and `read` use a directory where the code insists on files."""

    format: int
    value: Any
    written: Callable[[Path], bytes]
    read: Callable[[Path, bytes], Any]


def _entry(directory: Path) -> bytes:
    Journal(directory).update(ENTRY)
    return (directory / "journal" / "acme-dc.json").read_bytes()


def _read_entry(directory: Path, content: bytes) -> JournalEntry | None:
    (directory / "journal").mkdir()
    (directory / "journal" / "acme-dc.json").write_bytes(content)
    return Journal(directory).load().get("acme-dc")


def _orders(directory: Path) -> bytes:
    FleetOrderFile(directory).keep(FOLLOWED)
    return (directory / "orders.json").read_bytes()


def _read_orders(directory: Path, content: bytes) -> tuple[FleetOrder, ...]:
    (directory / "orders.json").write_bytes(content)
    return FleetOrderFile(directory).orders


def _held(directory: Path) -> bytes:
    for name in HELD:
        StoppedTunnels(directory).hold(name)
    return (directory / "held.json").read_bytes()


def _read_held(directory: Path, content: bytes) -> frozenset[str]:
    (directory / "held.json").write_bytes(content)
    return StoppedTunnels(directory).names


def _learned(directory: Path) -> bytes:
    recorder = SecondSessions(directory)
    for name, second in LEARNED.items():
        tunnel = configured(Tunnel, name=name, kind="test", destinations=("10.77.0.0/24",))
        told = Transition(name, 1, Phase.STARTING, Phase.UP, Health.UNKNOWN, Reason.CONNECTED, "", 0.0, 0.0)
        recorder.record(told, Snapshot({name: (tunnel, TunnelState(known=Known(second)))}, 0.0))
    return (directory / "second-sessions.json").read_bytes()


def _read_learned(directory: Path, content: bytes) -> dict[str, Second]:
    (directory / "second-sessions.json").write_bytes(content)
    return SecondSessions(directory).known


def _codes(directory: Path) -> bytes:
    Codes(directory / "codes.json", lambda: NOW).book(SEED)
    return (directory / "codes.json").read_bytes()


def _read_codes(directory: Path, content: bytes) -> bool:
    """Whether the code that was given out is known to be used."""
    (directory / "codes.json").write_bytes(content)
    return Codes(directory / "codes.json", lambda: NOW).book(SEED).wait > 0.0


SORTS: dict[str, Sort] = {
    "tunnel-record": Sort(
        state_store.RECORD.format,
        STORED,
        lambda _: state_store.RECORD.written(STORED),
        lambda _, text: state_store.RECORD.read(text),
    ),
    "drain": Sort(
        state_store.END.format,
        END,
        lambda _: state_store.END.written(END),
        lambda _, text: state_store.END.read(text),
    ),
    "handover": Sort(
        upgrade_document.FORMAT,
        HANDOVER,
        lambda _: upgrade_document.DOCUMENT.written(HANDOVER),
        lambda _, text: upgrade_document.DOCUMENT.read(text),
    ),
    "journal": Sort(process_journal.FORMAT, ENTRY, _entry, _read_entry),
    "orders": Sort(fleet_orders.DOCUMENT.format, FOLLOWED, _orders, _read_orders),
    "held": Sort(stopped_tunnels.DOCUMENT.format, HELD, _held, _read_held),
    "second-sessions": Sort(second_sessions.DOCUMENT.format, LEARNED, _learned, _read_learned),
    "codes": Sort(totp.FORMAT, True, _codes, _read_codes),
}


def pretty(content: bytes) -> str:
    """As it stands in the repository."""
    return json.dumps(json.loads(content), indent=1, ensure_ascii=False) + "\n"


def now(name: str) -> str:
    """What the code of today writes."""
    with tempfile.TemporaryDirectory() as directory:
        return pretty(SORTS[name].written(Path(directory)))
