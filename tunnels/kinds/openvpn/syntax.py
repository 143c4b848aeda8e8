"""The text of a .ovpn: lines -> directives -> lines, by OpenVPN's own rules of quoting and blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PureWindowsPath

from tunnels.kinds.openvpn.options import ASKPASS, EMBEDDED, INLINE
from tunnels.profiles import ProfileError
from tunnels.recognition import windows_path

CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f]")
_TAG = re.compile(r"<([a-z0-9-]+)>")
_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+,=*-]+")
_MAX_LINE_BYTES = 255  # that OpenVPN reads at once


@dataclass(frozen=True, slots=True)
class Directive:
    """One option of a profile."""

    line: int  # number, from 1
    words: tuple[str, ...]  # the first is the name of the option
    block: tuple[str, ...] | None = None  # lines between <name> and </name>
    inner: tuple[Directive, ...] = ()  # options in a <connection> block

    @property
    def name(self) -> str:
        """Name of the option."""
        return self.words[0]

    @property
    def file(self) -> str | None:
        """The file that it names; None: it names none."""
        named = self.block is None and self.name in EMBEDDED | {ASKPASS} and len(self.words) > 1
        return self.words[1] if named and self.words[1] not in INLINE else None


def directives_of(lines: Sequence[str], first: int) -> Iterator[Directive]:
    """The options in these lines, of which the first has this number. ProfileError."""
    numbered = iter(enumerate(lines, first))
    for number, line in numbered:
        words = split_words(line, number)
        if not words:
            continue
        inline = _TAG.fullmatch(words[0]) if len(words) == 1 else None
        if inline is None:
            yield Directive(number, (words[0].removeprefix("--") or words[0], *words[1:]))
        else:
            yield Directive(number, (inline[1],), tuple(_block(numbered, inline[1], number)))


def _block(numbered: Iterator[tuple[int, str]], tag: str, start: int) -> Iterator[str]:
    """The lines up to the closing tag, which ends a block even if more follows on its line."""
    closing = f"</{tag}>"
    for number, line in numbered:
        if line.lstrip().startswith(closing):
            return
        # OpenVPN cuts long lines into pieces and would see a closing tag at the start of a piece
        if closing in line or CONTROL.search(line):
            raise ProfileError(f"unexpected characters in the block <{tag}>", number)
        yield line
    raise ProfileError(f"the block <{tag}> is never closed", start)


def split_words(line: str, number: int = 1) -> tuple[str, ...]:
    """The words of one line by OpenVPN's quoting rules. ProfileError: a quotation is not closed, ..."""
    words: list[str] = []
    rest = line.lstrip()
    while rest and rest[0] not in "#;":
        try:
            word, rest = _word(rest, number)
        except ProfileError as error:
            raise _of_windows(words, rest, number) or error from None
        words.append(word)
        rest = rest.lstrip()
    if any(map(CONTROL.search, words)):
        raise ProfileError("control characters", number)
    return tuple(words)


def _of_windows(words: Sequence[str], rest: str, number: int) -> ProfileError | None:
    """The better sentence, if the word is a path of Windows with single backslashes."""
    path = rest.strip().strip("\"'")
    if not words or not windows_path(path):
        return None
    name = PureWindowsPath(path).name
    return ProfileError(
        f"{words[0]} names a path of Windows; copy the file beside the profile, and write: {words[0]} {name}",
        number,
    )


def _word(text: str, number: int) -> tuple[str, str]:
    """The first word of a text that starts with one, and what follows it."""
    if text[0] == "'":
        word, quote, rest = text[1:].partition("'")
        if not quote:
            raise ProfileError("a quotation is never closed", number)
        return word, rest
    quoted = text[0] == '"'
    letters: list[str] = []
    position = int(quoted)
    while position < len(text):
        letter = text[position]
        if letter == '"' if quoted else letter.isspace():
            return "".join(letters), text[position + 1 :]
        if letter == "\\":
            position += 1
            letter = _escaped(text[position : position + 1], number)
        letters.append(letter)
        position += 1
    if quoted:
        raise ProfileError("a quotation is never closed", number)
    return "".join(letters), ""


def _escaped(letter: str, number: int) -> str:
    if letter in ("\\", '"') or letter.isspace():
        return letter
    raise ProfileError("a backslash that escapes nothing; write it twice", number)


def render(directive: Directive) -> str:
    """The option as text, with a newline at the end."""
    if directive.block is None:
        return _line(directive) + "\n"
    inside = "".join(f"{line}\n" for line in directive.block) + "".join(map(render, directive.inner))
    return f"<{directive.name}>\n{inside}</{directive.name}>\n"


def _line(directive: Directive) -> str:
    return " ".join(quote(word) for word in directive.words)


def check_length(directive: Directive) -> None:
    """ProfileError: OpenVPN would cut the line."""
    if directive.block is None and len(_line(directive).encode()) >= _MAX_LINE_BYTES:
        raise ProfileError(f"longer than the {_MAX_LINE_BYTES} bytes that OpenVPN reads", directive.line)


def quote(word: str) -> str:
    """The word as OpenVPN reads it back, in a configuration file as well as on its management socket."""
    if _PLAIN.fullmatch(word):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
