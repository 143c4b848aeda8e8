"""Lines: whatever a client writes, what comes out is safe, complete, and independent of how it arrived."""

from __future__ import annotations

import base64
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from supervisor.clients.lines import MASK, MAX_LINE_CHARS, TRUNCATED, LineLimiter, LineSplitter, Masker, clean

CAP = 40


def split(chunks: list[bytes], cap: int = CAP) -> list[str]:
    splitter = LineSplitter(cap)
    return [line for chunk in chunks for line in splitter.feed(chunk)] + splitter.flush()


@st.composite
def cut_streams(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    piece = st.one_of(
        st.binary(max_size=60),
        st.sampled_from([b"\n", b"\x1b[31m", b"\xff", "ü".encode(), b"x" * 50, b"\r\n"]),
    )
    stream = b"".join(draw(st.lists(piece, max_size=20)))
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    return stream, [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)])]


@given(cut_streams())
def test_the_cuts_of_the_stream_do_not_matter(case: tuple[bytes, list[bytes]]) -> None:
    stream, chunks = case
    assert split(chunks) == split([stream])


@given(cut_streams())
def test_lines_are_printable_and_short(case: tuple[bytes, list[bytes]]) -> None:
    for line in split(case[1]):
        assert len(line) <= 4 * CAP + len(TRUNCATED)
        assert not [c for c in line if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") and c != "\t"]


# letters and marks that nobody sees: fillers, joiners, and which variant of a letter is meant
UNSEEN = "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0" + "".join(
    map(chr, [*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)])
)


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters=UNSEEN), max_size=CAP // 4)
    )
)
def test_plain_text_is_not_changed(lines: list[str]) -> None:
    assert split(["".join(line + "\n" for line in lines).encode()]) == lines


@given(
    st.binary(max_size=100),
    st.lists(st.binary(min_size=1, max_size=20).filter(lambda b: b"\n" not in b), min_size=1),
)
def test_after_a_gap_only_whole_lines_come(before: bytes, after: list[bytes]) -> None:
    splitter = LineSplitter(CAP)
    splitter.feed(before)
    splitter.skip()
    assert splitter.feed(b"end of a cut line\n" + b"\n".join(after) + b"\n") == [
        clean(line) for line in after
    ]


def test_a_long_line_is_cut_and_marked() -> None:
    assert split([b"a" * CAP + b"\n" + b"b" * (CAP + 1) + b"\nc\n"]) == [
        "a" * CAP,
        "b" * CAP + TRUNCATED,
        "c",
    ]


def test_undecodable_bytes_are_written_out() -> None:
    assert clean(b"caf\xc3\xa9 \xff\xfe") == "café \\xff\\xfe"


def test_escape_sequences_and_direction_marks_vanish() -> None:
    assert clean(b"\x1b[1;31mred\x1b[0m \x1b]0;title\x07x \x00\x08y" + "\u202ez".encode()) == "red x yz"


SECRETS = (
    b"hunter2hunter2\n",
    b"JBSWY3DPEHPK3PXP",
    b"-----BEGIN KEY-----\nabcdefgh\nijklmnop\n-----END KEY-----\n",
    b"abc",
    b"p@ss word",
)


@given(
    st.lists(
        st.sampled_from(
            [
                "hunter2hunter2",
                "JBSWY3DPEHPK3PXP",
                "abcdefgh",
                "ijklmnop",
                "p@ss word",
                "p%40ss%20word",
                "-",
                " ",
            ]
        )
    )
)
def test_no_secret_survives(parts: list[str]) -> None:
    masked = Masker(SECRETS).text("".join(parts))
    assert not [
        s
        for s in ("hunter2hunter2", "JBSWY3DPEHPK3PXP", "abcdefgh", "ijklmnop", "p@ss word", "p%40ss%20word")
        if s in masked
    ]


def test_base64_is_masked_and_short_secrets_are_not() -> None:
    masker = Masker(SECRETS)
    assert masker.text(f"SCRV1:{base64.b64encode(b'hunter2hunter2').decode()}: abc") == f"SCRV1:{MASK}: abc"


def test_a_secret_that_a_cut_divides_is_not_shown_in_part() -> None:
    for at in range(MAX_LINE_CHARS - 20, MAX_LINE_CHARS + 5):
        assert "hun" not in Masker(SECRETS).text("x" * at + "hunter2hunter2" + "y" * 100)
    for at in range(0, 20):
        splitter = LineSplitter(30)
        (line,) = splitter.feed(b"x" * (30 - at) + b"hunter2hunter2" + b"y" * 100 + b"\n")
        assert "hun" not in Masker(SECRETS).text(line)


def test_limiter_lets_a_burst_pass_and_counts_the_rest() -> None:
    limiter = LineLimiter(rate=20, burst=100)
    assert len(limiter.offer([f"line {n}" for n in range(1000)], 0.0)) == 100
    assert limiter.flush() == ["900 lines suppressed"]
    assert not limiter.pending
    assert len(limiter.offer([f"later {n}" for n in range(1000)], 1.0)) == 20


def test_equal_lines_become_one_sentence() -> None:
    limiter = LineLimiter()
    assert limiter.offer(["replay"] * 51 + ["other"], 0.0) == ["replay", "repeated 50 times", "other"]
    assert limiter.offer(["other"] * 3, 0.0) == []
    assert limiter.flush() == ["repeated 3 times"]
