"""What earlier releases have written is read, what is written today stands here, and nothing unknown is
taken for known.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from structlog.testing import capture_logs

from supervisor.app.stores.state_store import RECORD, ends_by, recall
from supervisor.core.formats import NotUnderstood, opened
from supervisor.core.session.context import KindLimits
from supervisor.core.session.record import PreviousRun, Spent, revive
from supervisor.core.state import Phase
from tests.golden.samples import BOOT, SORTS, STATE, STORED, now
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
    else:  # fields that were added since then have their defaults
        known = TypeAdapter(type(found)).dump_python(found, mode="json")
        assert list(missing_in(known, {"format": None, **json.loads(file.read_text())})) == [".format"]


def missing_in(known: Any, told: Any, path: str = "") -> Iterator[str]:
    """Where a file says something that is not what was understood."""
    if isinstance(told, dict) and isinstance(known, dict):
        for key, value in told.items():
            yield from missing_in(known.get(key, "nothing"), value, f"{path}.{key}")
    elif told != known:
        yield path


def test_each_sort_has_a_file_of_each_format() -> None:
    first = {"handover": 1}  # version 0.1.0 had a format there already
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
    raw["record"]["state"]["session"]["colour"] = "red"


def other(raw: Any) -> None:
    raw["record"]["state"]["other"]["colour"] = "red"


def less(raw: Any) -> None:
    del raw["record"]["state"]["refusals"]


def newer(raw: Any) -> None:
    raw["format"] = RECORD.format + 1


def no_number(raw: Any) -> None:
    raw["format"] = "1"


def another_word(raw: Any) -> None:
    raw["record"]["state"]["phase"] = "sleeping"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (renamed("phase", "stage"), "record.state.stage is unknown to this version"),
        (renamed("refusals", "refused"), "record.state.refused is unknown to this version"),
        (deep, "record.state.session.colour is unknown to this version"),
        (other, "record.state.other.colour is unknown to this version"),
        (less, "record.state.refusals is missing"),
        (newer, f"its format is {RECORD.format + 1}, and this version knows {RECORD.format}"),
        (no_number, "its format is '1', and this version knows"),
        (another_word, "record.state.phase is not what it should be"),
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
    assert found.spent == {"acme-dc": Spent(STATE.refusals, STATE.login_after)}
    begun = revive("acme-dc", PreviousRun(spent=found.spent), KindLimits(), 5.0, held=False, anew=False)
    assert (begun.state.phase, begun.state.reason, begun.state.refusals) == (Phase.BACKOFF, Reason.AUTH, 2)
    assert begun.state.deadline == begun.state.login_after == STATE.login_after
    assert begun.events == ()
    late = revive(
        "acme-dc", PreviousRun(spent={"acme-dc": Spent(2, 1e300)}), KindLimits(), 5.0, held=False, anew=False
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
    written = json.loads(RECORD.written(STORED))["record"]["state"]
    plain = json.loads(RECORD.written(type(STORED)(BOOT, type(STORED.record)(type(STATE)(), 0), "", "")))[
        "record"
    ]["state"]
    assert [path for path in same(written, plain)] == []


def same(one: Any, other: Any, path: str = "") -> Iterator[str]:
    """Where two documents are equal; a session's slot is 0 for the first one."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key, value in one.items():
            yield from same(value, other[key], f"{path}.{key}")
    elif one == other and path != ".session.slot":
        yield path


@pytest.mark.parametrize("number", ["1" + 400 * "0", "-1e999", "1e308", "NaN", "Infinity", str(2**63)])
def test_numbers_that_nothing_could_be_done_with_are_damage(number: str) -> None:
    assert opened(b'{"until": 7.5, "lane": 173001}', 1) == (0, {"until": 7.5, "lane": 173001})
    with pytest.raises(NotUnderstood, match="it is damaged"):
        opened(f'{{"until": [{number}]}}'.encode(), 1)
