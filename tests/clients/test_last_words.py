"""The last own line of a client is the text of an end that nobody understands better."""

from __future__ import annotations

import pytest

from supervisor.clients.last_words import MAX_CHARS, LastWords
from supervisor.core.humanize import exit_text


def said(*lines: str) -> str | None:
    words = LastWords()
    for line in lines:
        words.hear([line])
    return words.text


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ((), None),
        (("quick mode response rejected: (ISAKMP_N_INVALID_ID)",), "quick mode response rejected: (ISAKMP_N_INVALID_ID)"),
        (("Options error: bad --x", "Use --help for more information."), "Options error: bad --x"),
        (("cannot open tun", "", "Exiting due to fatal error"), "cannot open tun"),
        (("no such file: ca.pem", "2026-01-01 SIGTERM[soft,exit] received, process exiting"), "no such file: ca.pem"),
        (("peer refused us", "facilitator: the session has ended"), "peer refused us"),
        (("facilitator: the session has ended",), "the session has ended"),
        (("\x1b[31mred\x1b[0m  and\twide",), "red and wide"),
        (("x" * 2000,), "x" * MAX_CHARS),
        (("usage: vpn [options]", "try 'vpn --help'"), None),
    ],
)  # fmt: skip
def test_the_last_line_that_says_something(lines: tuple[str, ...], text: str | None) -> None:
    assert said(*lines) == text


def test_it_is_the_text_of_the_end() -> None:
    assert (
        exit_text(1, None, "hash comparison failed")
        == "client exited with code 1; its last line: hash comparison failed"
    )
    assert exit_text(1, None) == "client exited with code 1"
    assert exit_text(None, 9, "working") == "client ended by signal 9"
