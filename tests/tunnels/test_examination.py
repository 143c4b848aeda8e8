"""Examination of files: what a start would refuse, and what a kind says besides, without a start."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tests.tunnels.test_kinds import EXAMPLES, tunnel_of
from tunnels.base import AnyKind, FileFinding, Inputs, Secret, Tunnel
from tunnels.examination import findings
from tunnels.profiles import ProfileError
from tunnels.registry import KINDS

CONFIG = Path("/etc/facilitator/acme.ovpn")


def examined(kind: AnyKind, inputs: Inputs, complete: bool = True) -> list[str]:
    return [str(each) for each in findings(kind, tunnel_of(kind), inputs, complete)]


def examining(*found: FileFinding, error: ValueError | None = None) -> AnyKind:
    """OpenVPN that finds this besides."""

    def examine(tunnel: Tunnel, inputs: Inputs) -> Iterator[FileFinding]:
        yield from found
        if error is not None:
            raise error

    return replace(KINDS["openvpn"], examine=examine)


GOOD = EXAMPLES["openvpn"][1]


def test_nothing_is_said_of_good_files_of_any_kind() -> None:
    assert {name: examined(kind, EXAMPLES[name][1]) for name, kind in KINDS.items()} == {
        name: [] for name in KINDS
    }


def test_what_a_start_refuses_is_found_with_file_and_line() -> None:
    assert examined(KINDS["openvpn"], GOOD | {"config": b"client\nremote a 1\nfrobnicate\n"}) == [
        f"{CONFIG}:3: 'frobnicate' is not an option that a client profile can have"
    ]


def test_missing_inputs_are_no_finding() -> None:
    assert examined(KINDS["openconnect"], {}, complete=False) == []


def test_notes_are_kept_and_of_each_file_the_first_fatal_finding() -> None:
    note = FileFinding("lport is left out", CONFIG, 4, fatal=False)
    first, second = FileFinding("first", CONFIG, 2), FileFinding("second", CONFIG, 3)
    other = FileFinding("not a key", Secret(file="acme-key"))
    assert examined(examining(first, note, second, other), GOOD) == [
        f"{CONFIG}:2: first",
        f"{CONFIG}:4: lport is left out",
        "acme-key:1: not a key",
    ]


def test_what_examine_raises_is_a_finding_and_what_it_found_before_stays() -> None:
    note = FileFinding("lport is left out", CONFIG, 4, fatal=False)
    kind = examining(note, error=ProfileError("bad", 7, CONFIG))
    assert examined(kind, GOOD) == [f"{CONFIG}:4: lport is left out", f"{CONFIG}:7: bad"]
