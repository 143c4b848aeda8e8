"""What earlier releases have written is read, what is written today stands here, and nothing unknown is
taken for known.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from structlog.testing import capture_logs

from supervisor.app.stores.state_store import RECORD, ends_by, recall
from supervisor.core.formats import NotUnderstood, opened
from supervisor.core.session.record import PreviousRun, Spent, revive
from supervisor.core.state import Failure, Idle, Phase, RecoveryStep, RetryState, Session
from tests.fakes import KIND
from tests.golden import earlier
from tests.golden.samples import ACTIVE, BOOT, FACTS, SORTS, STANDBY, STATE, STORED, now
from tunnels.base import Reason

HERE = Path(__file__).parent
FILES = sorted(HERE.glob("*.json"))
CHANGED = """the code of today writes something else than stands here. If the release that writes it is not out yet: python -m tests.golden.
Else raise the format of this sort first (a release reads the formats of all earlier ones), and give each new field a default."""


@pytest.mark.parametrize("name", SORTS)
def test_what_is_written_today_is_what_stands_here(name: str) -> None:
    file = HERE / f"{name}-{SORTS[name].format}.json"
    assert json.loads(file.read_text()) == json.loads(now(name)), CHANGED


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_each_release_has_written_is_read(file: Path, tmp_path: Path) -> None:
    name, _, format = file.stem.rpartition("-")
    sort, found = SORTS[name], SORTS[name].read(tmp_path, file.read_bytes())
    if int(format) == sort.format or not is_dataclass(found):
        assert found == sort.value
        return
    known = dict(leaves(TypeAdapter(type(found)).dump_python(found, mode="json")))
    told = {moved(path): value for path, value in leaves(json.loads(file.read_text()))}
    assert {path: known.get(path) for path in told if path is not None} == {
        path: value for path, value in told.items() if path is not None
    }, "nothing is lost"


def leaves(raw: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """All that a document says, by its path; an empty list is said too."""
    items = raw.items() if isinstance(raw, dict) else enumerate(raw) if isinstance(raw, list) else ()
    if not items:
        yield path, raw
    for key, value in items:
        yield from leaves(value, f"{path}.{key}" if path else str(key))


# Where records of formats 0 and 1 said what this version says elsewhere; None: what follows from the rest.
SESSION = {
    **{name: f"{name}" for name in ("phase", "health", "reason", "since", "deadline", "failure", "asking")},
    **{name: name for name in ("session", "outdated", "reconnect_by")},
    **{"kept": "resumable", "rung": "recovery", "misses": "liveness.misses"},
    **{"silence": "liveness.rounds_without_traffic", "unheard": "liveness.rounds_without_reply"},
    **{"doubted": "liveness.gave_up_on_hearsay"},
    **{name: f"liveness.{name}" for name in ("recent", "degraded", "full", "healthy_since", "last_rtt")},
}
RETRY = ("attempts", "refusals", "suspicions", "login_after", "turn", "remote", "proven")
OF_TUNNEL = ("want", "well_since", "endpoint", "reconnects", "known", "planned")
STATE_1 = re.compile(r"^(.*record\.state)\.(other\.)?(\w+)(.*)$")


def moved(path: str) -> str | None:
    """Where this version says what an earlier one has said at this place."""
    path = path.replace(".seat", ".slot") if path.endswith(".seat") else path
    if path in ("format", "seat"):
        return {"format": None, "seat": "slot"}[path]
    state = STATE_1.match(path)
    if state is None:
        return path
    at, other, field, rest = state.groups()
    if field in ("single", "numbered", "other") or (other and field in (*RETRY, *OF_TUNNEL)):
        return None
    if field in RETRY:
        return f"{at}.retry.{field}{rest}"
    if field in SESSION:
        return f"{at}.{'standby' if other else 'active'}.{SESSION[field]}{rest}"
    return f"{at}.{'standby.' if other else ''}{field}{rest}"


def idle(phase: str) -> dict[str, Any]:
    """The record of format 1, of a tunnel without a session."""
    raw = json.loads((HERE / "tunnel-record-1.json").read_text())
    raw["record"]["state"] |= {"phase": phase, "other": None, "numbered": 9}
    return raw


@pytest.mark.parametrize("active", [ACTIVE, None], ids=["a session", "none"])
@pytest.mark.parametrize("standby", [STANDBY, None], ids=["a standby", "none"])
def test_a_record_of_today_outlives_the_way_through_the_earlier_format(active: Any, standby: Any) -> None:
    new: dict[str, Any] = dict.fromkeys(("answered_at", "missed_since", "signs", "silent", "suspected"))
    active, standby = (
        None
        if each is None
        else replace(
            each,
            code_at=None,
            liveness=replace(each.liveness, **new),
            drain=each.drain and replace(each.drain, not_before=0.0),
        )
        for each in (active, standby)
    )
    retry = replace(STATE.retry, unreached=0)
    drain = replace(STATE.drain, not_before=0.0)
    state = replace(STATE, active=active, standby=standby, retry=retry, endpoint_since=0.0, drain=drain)
    state = replace(state, sound_since=0.0, chosen_since=None, endpoint_returned=False)
    if active is not None:  # the earlier format had no place for these beside it
        of_last = {"failure": None, "resumable": False, "recovery": None, "gave_up_on_hearsay": False}
        state = replace(state, idle=Idle(), last=Session(0), retry=replace(retry, **of_last))
    stored = replace(STORED, record=replace(STORED.record, state=state))
    raw = json.loads(RECORD.written(stored))
    earlier.record(raw)
    assert RECORD.read(json.dumps(raw).encode()) == stored


@pytest.mark.parametrize("phase", ["backoff", "stopped", "failed"])
def test_an_earlier_record_of_a_tunnel_without_a_session_is_read(phase: str) -> None:
    state = RECORD.read(json.dumps(idle(phase)).encode()).record.state
    assert (state.active, state.standby, state.next_number) == (None, None, 10)
    assert state.idle == Idle(Phase(phase), Reason.AUTH, 1.5, 6.5)
    assert (state.last.number, state.last.path_mtu, state.last.slot) == (7, 1400, 0)
    retry = state.retry
    assert retry == RetryState(
        attempts=4,
        refusals=2,
        suspicions=6,
        login_after=9.5,
        turn=10.5,
        failure=Failure(Reason.PEER_CLOSED, "gone", 8.5),
        proven=True,
        resumable=True,
        remote=7,
        recovery=RecoveryStep.LOGIN,
        gave_up_on_hearsay=True,
    )


def test_a_second_session_that_waited_for_its_turn_is_begun_when_that_has_come() -> None:
    raw = json.loads((HERE / "tunnel-record-1.json").read_text())
    raw["record"]["state"]["planned"] = None
    raw["record"]["state"]["other"] |= {"phase": "backoff", "deadline": 77.5}
    state = RECORD.read(json.dumps(raw).encode()).record.state
    assert (state.standby, state.planned) == (None, 77.5)


def test_what_is_unknown_in_an_earlier_record_is_refused() -> None:
    for where in ((), ("other",), ("session",), ("other", "session")):
        raw = json.loads((HERE / "tunnel-record-1.json").read_text())
        place = raw["record"]["state"]
        for key in where:
            place = place[key]
        place["colour"] = "red"
        with pytest.raises(NotUnderstood, match="colour is unknown to this version"):
            RECORD.read(json.dumps(raw).encode())


def test_each_sort_has_a_file_of_each_format() -> None:
    first = {"handover": 1, "orders": 1}  # version 0.1.0 had a format there already, or no such file
    wanted = {
        f"{name}-{format}"
        for name, sort in SORTS.items()
        for format in range(first.get(name, 0), sort.format + 1)
    }
    assert {file.stem for file in FILES} == wanted


# --- what is not known ---


def document() -> Any:
    return json.loads((HERE / f"tunnel-record-{RECORD.format}.json").read_text())


def renamed(before: str, after: str) -> Callable[[Any], None]:
    def rename(raw: Any) -> None:
        state = raw["record"]["state"]
        state[after] = state.pop(before)

    return rename


def deep(raw: Any) -> None:
    raw["record"]["state"]["active"]["session"]["colour"] = "red"


def other(raw: Any) -> None:
    raw["record"]["state"]["standby"]["colour"] = "red"


def less(raw: Any) -> None:
    del raw["record"]["state"]["retry"]["refusals"]


def newer(raw: Any) -> None:
    raw["format"] = RECORD.format + 1


def no_number(raw: Any) -> None:
    raw["format"] = "1"


def another_word(raw: Any) -> None:
    raw["record"]["state"]["active"]["phase"] = "sleeping"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (renamed("want", "wish"), "record.state.wish is unknown to this version"),
        (renamed("retry", "attempts"), "record.state.attempts is unknown to this version"),
        (deep, "record.state.active.session.colour is unknown to this version"),
        (other, "record.state.standby.colour is unknown to this version"),
        (less, "record.state.retry.refusals is missing"),
        (newer, f"its format is {RECORD.format + 1}, and this version knows {RECORD.format}"),
        (no_number, "its format is '1', and this version knows"),
        (another_word, "record.state.active.phase is not what it should be"),
    ],
)
def test_what_is_not_known_is_refused_and_said(
    tmp_path: Path, change: Callable[[Any], None], why: str
) -> None:
    raw = document()
    change(raw)
    text = json.dumps(raw).encode()
    with pytest.raises(NotUnderstood, match=re.escape(why)):
        RECORD.read(text)
    with capture_logs() as logged:
        found = recalled(tmp_path, text)
    assert found.stored == {}
    assert [(line["tunnel"], line["log_level"]) for line in logged] == [("acme-dc", "error")]
    assert why in logged[0]["why"]


def recalled(directory: Path, content: bytes, boot: str = BOOT) -> Any:
    (directory / "tunnels").mkdir()
    (directory / "tunnels" / "acme-dc.json").write_bytes(content)
    return recall(directory, boot)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"7",
        b"{}",
        b'{"format": 99999999999999999999999}',
        b'{"format": -1}',
        b'{"format": null}',
        b"[" * 100_000,
        b'{"record": {"state": {"retry": []}}}',
        b'{"record": {"state": {"refusals": "2", "login_after": []}}}',
        b'{"record": []}',
        b'{"record": {"state": 7}}',
        b"\xff\xfe",
    ],
)
def test_damage_is_no_record_and_no_crash(tmp_path: Path, content: bytes) -> None:
    with capture_logs() as logged:
        found = recalled(tmp_path, content)
    assert (found.stored, found.spent) == ({}, {})
    assert len(logged) == 1


def test_of_another_boot_nothing_is_said(tmp_path: Path) -> None:
    raw = document()
    less(raw)
    with capture_logs() as logged:
        assert recalled(tmp_path, json.dumps(raw).encode(), "another boot").spent == {}
    assert logged == []


def test_refused_logins_count_even_where_the_record_is_not_understood(tmp_path: Path) -> None:
    raw = document()
    deep(raw)
    found = recalled(tmp_path, json.dumps(raw).encode())
    assert found.spent == {"acme-dc": Spent(STATE.retry.refusals, STATE.retry.login_after)}
    begun = revive("acme-dc", PreviousRun(spent=found.spent), KIND, 5.0, held=False, anew=False)
    assert (begun.state.phase, begun.state.reason, begun.state.retry.refusals) == (
        Phase.BACKOFF,
        Reason.AUTH,
        2,
    )
    assert begun.state.deadline == begun.state.retry.login_after == STATE.retry.login_after
    assert begun.events == ()
    late = revive(
        "acme-dc", PreviousRun(spent={"acme-dc": Spent(2, 1e300)}), KIND, 5.0, held=False, anew=False
    )
    assert late.state.deadline == 3605.0, "and nobody waits for ever"


def test_an_order_that_is_not_understood_is_not_followed_and_said(tmp_path: Path) -> None:
    (tmp_path / "orders").mkdir()
    (tmp_path / "orders" / "end.json").write_text(
        json.dumps({"format": 1, "boot": BOOT, "until": 900.0, "whom": "all"})
    )
    with capture_logs() as logged:
        assert ends_by(tmp_path, BOOT) is None
    assert logged[0]["why"] == "whom is unknown to this version"


def test_the_sample_leaves_no_field_at_its_default() -> None:
    """Else a field could be lost without a test that fails."""
    for value in (STATE, STATE.active, STANDBY, STATE.active.liveness, STATE.idle, STATE.retry, FACTS):
        plain = {field.name: field.default for field in fields(value)}
        elsewhere = {"drain"} if value is STATE.active else set()  # of a standby only
        left = {name for name, default in plain.items() if getattr(value, name) == default} - elsewhere
        assert left == set(), type(value).__name__


@pytest.mark.parametrize("number", ["1" + 400 * "0", "-1e999", "1e308", "NaN", "Infinity", str(2**63)])
def test_numbers_that_nothing_could_be_done_with_are_damage(number: str) -> None:
    assert opened(b'{"until": 7.5, "lane": 173001}', 1) == (0, {"until": 7.5, "lane": 173001})
    with pytest.raises(NotUnderstood, match="it is damaged"):
        opened(f'{{"until": [{number}]}}'.encode(), 1)
