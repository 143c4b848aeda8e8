"""Sentences about failures: what the client itself said about it always stands in them."""

from __future__ import annotations

from tunnels.base import Failed, LineSource, Reason
from tunnels.driver_dialogue import ProgramDialogue
from tunnels.failure_patterns import MAX_QUOTED_CHARS, explanation, line_explanation, quoting, table

ROWS = table(
    (r"refused", Reason.AUTH, "the server refused the login"),
    (r"cannot find (\S+)", Reason.DNS, "no such host: {1}"),
    (r"broken", Reason.LOCAL, "{0}"),
    (r"facilitator: nobody answers", Reason.NETWORK, "the server is silent"),
)


def test_a_fixed_sentence_quotes_the_line_that_decided() -> None:
    said = line_explanation(ROWS, "  \x1b[31merror 7: refused\tby   policy 12\x1b[0m")
    assert said == Failed(Reason.AUTH, 'the server refused the login ("error 7: refused by policy 12")')


def test_a_sentence_that_has_the_words_of_the_line_does_not_repeat_it() -> None:
    assert line_explanation(ROWS, "cannot find vpn.example") == Failed(
        Reason.DNS, "no such host: vpn.example"
    )
    assert line_explanation(ROWS, "pipe is broken") == Failed(Reason.LOCAL, "broken")
    assert quoting("it said: no more room", "no more room") == "it said: no more room"


def test_lines_of_our_own_programs_and_words_that_are_no_line_are_not_quoted() -> None:
    assert line_explanation(ROWS, "facilitator: nobody answers") == Failed(
        Reason.NETWORK, "the server is silent"
    )
    assert explanation(ROWS, "refused") == Failed(Reason.AUTH, "the server refused the login")
    assert quoting("it ended", "") == "it ended"


def test_a_quotation_is_short() -> None:
    said = line_explanation(ROWS, "refused " + "x" * 5000)
    assert said is not None
    assert len(said.text) == len('the server refused the login ("")') + MAX_QUOTED_CHARS


def test_the_first_line_of_an_attempt_that_explains_it_is_the_one_quoted() -> None:
    dialogue = ProgramDialogue({}, ROWS)
    for line in ("hello", "refused: account locked until Monday", "refused again", "bye"):
        assert list(dialogue.receive(LineSource.OUTPUT, line)) == []
    assert list(dialogue.receive(LineSource.END, "")) == [
        Failed(Reason.AUTH, 'the server refused the login ("refused: account locked until Monday")')
    ]
