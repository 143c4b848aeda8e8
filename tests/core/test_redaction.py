"""Secrets in text: found however they are encoded, and nothing else is touched."""

from __future__ import annotations

import base64
import binascii
import html
import json
import re
import time
from collections.abc import Callable
from urllib.parse import quote, quote_plus, unquote, unquote_plus

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from common.redaction import MIN_SECRET_CHARS, Redactor

MASK = "***"
Encode = Callable[[str], str]


def every(form: str) -> Encode:
    return lambda text: "".join(form.format(ord(letter)) for letter in text)


def lower_hex(text: str) -> str:
    return re.sub(r"%[0-9A-F]{2}", lambda match: match[0].lower(), quote(text, safe=""))


ENCODINGS: dict[str, Encode] = {
    "as it is": str,
    "URL": lambda text: quote(text, safe=""),
    "URL, path": quote,
    "URL, every byte": lambda text: "".join(f"%{byte:02X}" for byte in text.encode()),
    "URL, lower case": lower_hex,
    "form": quote_plus,
    "JSON": lambda text: json.dumps(text)[1:-1],
    "JSON, readable": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    "JSON, slashes too": lambda text: json.dumps(text)[1:-1].replace("/", "\\/"),
    "JSON, every letter": lambda text: "".join(
        f"\\u{unit:04x}" for unit in memoryview(text.encode("utf-16-le")).cast("H")
    ),
    "JSON, upper case": lambda text: "".join(
        f"\\u{unit:04X}" for unit in memoryview(text.encode("utf-16-le")).cast("H")
    ),
    "C": lambda text: "".join(f"\\x{byte:02x}" for byte in text.encode()),
    "HTML": html.escape,
    "HTML, decimal": every("&#{};"),
    "HTML, hexadecimal": every("&#x{:x};"),
    "HTML, upper case": every("&#X{:X};"),
    "hexadecimal": lambda text: text.encode().hex(),
    "hexadecimal, upper case": lambda text: text.encode().hex().upper(),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64, one before": lambda text: base64.b64encode(b"u" + text.encode()).decode(),
    "base64, two before": lambda text: base64.b64encode(b"u:" + text.encode()).decode(),
    "HTTP Basic": lambda text: base64.b64encode(b"svc-facilitator:" + text.encode()).decode(),
    "base64, in the middle": lambda text: base64.b64encode(b"user:" + text.encode() + b"\n, more").decode(),
    "base64, for URLs": lambda text: base64.urlsafe_b64encode(b"u:" + text.encode()).decode().rstrip("="),
    "base64 in a URL": lambda text: quote(base64.b64encode(text.encode()).decode(), safe=""),
}
LETTERS = st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"])
SECRETS = st.text(LETTERS, min_size=MIN_SECRET_CHARS, max_size=24)
AROUND = st.text(st.sampled_from("ab:/ =&%+\\\"'<>;,."), max_size=12)


def redactor(*secrets: str) -> Redactor:
    made = Redactor(MASK)
    made.add(secrets)
    return made


def readings(text: str) -> list[str]:
    """What somebody may read out of a text."""
    found = [text, unquote(text), unquote_plus(text), html.unescape(text)]
    for escape in re.findall(r"(?:[^\\]|\\.)*", text):
        try:
            found.append(json.loads(f'"{escape}"'))
        except ValueError:
            continue
    for run in re.findall(r"[A-Za-z0-9+/_-]{4,}", text):
        standard = run.replace("-", "+").replace("_", "/")
        for start in range(4):
            part = standard[start:]
            found.append(base64.b64decode(part[: len(part) // 4 * 4]).decode(errors="replace"))
            try:
                found.append(bytes.fromhex(run[start:][: len(run[start:]) // 2 * 2]).decode(errors="replace"))
            except (ValueError, binascii.Error):
                continue
    return found


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(secret=SECRETS, before=AROUND, after=AROUND)
@example(secret='pa ss"w\\ord/+&<', before="", after="")
@example(secret="straße-ÄÖ-\U0001f511", before="Basic ", after="==")
@example(secret="test", before="", after="test")
def test_no_encoding_hides_a_secret(encoding: str, secret: str, before: str, after: str) -> None:
    made = redactor(secret)
    masked = made.text(f"{before} {ENCODINGS[encoding](secret)} {after}")
    assert MASK in masked
    assert not made.finds(masked)
    assert not [each for each in readings(masked) if secret in each]


@given(SECRETS, st.data())
def test_no_mixture_of_encodings_hides_it(secret: str, data: st.DataObject) -> None:
    assume(
        not set(secret) & set("\\%&")
    )  # whoever escapes other letters escapes the signs of escapes too, or nobody can undo it
    one_by_one = [name for name in ENCODINGS if name.startswith(("URL", "JSON", "HTML", "as"))]
    text = "".join(ENCODINGS[data.draw(st.sampled_from(one_by_one))](letter) for letter in secret)
    assert redactor(secret).text(f"<{text}>") == f"<{MASK}>"


@pytest.mark.parametrize("secret", ["Hunter2-Secret", "straße", "ΟΔΟΣ"])
def test_in_any_case(secret: str) -> None:
    for text in (secret.lower(), secret.swapcase().replace("SS", "ß"), secret.title()):
        assert redactor(secret).text(f"password {text}!") == f"password {MASK}!"


@given(st.text(max_size=60), st.lists(SECRETS, max_size=3))
def test_what_holds_none_stays_as_it_is(text: str, secrets: list[str]) -> None:
    made = redactor(*secrets)
    if not made.finds(text):
        assert made.text(text) == text
    assert redactor().text(text) == text


def test_the_lines_of_a_key_but_not_its_frame() -> None:
    made = redactor("-----BEGIN KEY-----\nabcdefgh\nijklmnop\n-----END KEY-----\n")
    assert made.text("-----BEGIN KEY----- abcdefgh IJKLMNOP") == f"-----BEGIN KEY----- {MASK} {MASK}"


def test_many_secrets_and_few_are_found_alike() -> None:
    secrets = [f"secret-number-{number}-of-many" for number in range(500)]
    made = redactor(*secrets)
    for encode in ENCODINGS.values():
        assert MASK in made.text(f"x {encode(secrets[321])} y")


LINE = (
    "2026-01-01 12:00:00 TCP/UDP: Preserving recently used remote address: [AF_INET]203.0.113.2:1194 "
    "100%25 done \\u0041"
)


@pytest.mark.parametrize("count", [1, 20, 1000])
def test_it_is_quick_for_each_line(count: int) -> None:
    made = redactor(*(f"secret-{number}-{number * 7919 % 65537}" for number in range(count)))
    hostile = [
        "%41" * 1365,
        "\\u0041" * 682,
        "&#65;" * 819,
        "secr" * 1024,
        "a" * 4096,
        "&" * 4096,
        "%" * 4096,
        "\\" * 4096,
    ]
    for line, limit in ((LINE, 0.001), *((each, 0.05) for each in hostile)):
        best = min(_seconds(made, line) for _ in range(5))
        assert best < limit, (line[:20], best)


def _seconds(made: Redactor, line: str) -> float:
    since = time.perf_counter()
    made.text(line)
    return time.perf_counter() - since
