"""The words of everything that a user reads: documentation, help, messages, the example, alert rules,
dashboard and units. A word of everyday language in the place of the field's term is a fault.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

import click
import pytest

from hub.cli.main import main as hub_command
from supervisor.cli import main as command

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "CONTRIBUTING.md",
    "docs/*.md",
    "examples/**/*",
    "config.example.yaml",
)
SHIPPED = ("monitoring/*", "systemd/**/*", "nomad/*", "Makefile")
SOURCES = ("supervisor", "tunnels", "hub", "common")
# For those who change the code: there a lane, a rung and a device are what the code calls so.
FOR_DEVELOPERS = frozenset({"docs/architecture.md", "docs/modules.md"})
HELP_COLUMNS = 80

# What must not be read anywhere, and what is said instead.
WORDS = MappingProxyType(
    {
        r"far[- ](side|end)s?(?!-)": "remote gateway, remote end, peer",
        r"humans?": "on-call engineer, operator",
        r"(call(s|ed|ing)?|is called) (a person|somebody|nobody|anybody|for itself)": "to page",
        r"(who|nobody|somebody) (is|are|would be) called(?! \w+,)": "who gets paged",
        r"anew": "again, restart, regenerate",
        r"wait(s|ed|ing)? for (a person|you|somebody)": "needs attention",
        r"works badly|not quite well": "degraded",
        r"one-time codes?": "one-time password (OTP)",
        r"members? of staff": "user",
        r"foreign (firewall|rule|program)s?": "third-party",
        r"ours": "facilitator's",
        r"devices?": "interface",
        r"in clear": "unencrypted, in the clear",
        r"(dead )?legs?": "(failed) path segment",
        r"lanes?": "routing table, fwmark",
        r"rungs?": "recovery step",
        r"under way": "active, in progress",
        r"(flow|flows|connection|connections|session|time|incident|it) (is|are|was) over": "finished, expired",
        r"taken over|takes over (a|the) (changed )?(configuration|code|file)": "applied; compromised",
        r"told (apart|at once)": "distinguished; rejected immediately",
        r"without a word|in so many words": "silently; explicitly",
        r"wrong (file|configuration)|mistakes?": "invalid configuration, errors",
        r"rights|(missing|no|only|a|needs) right(?= (to|that|is|at))": "privileges, permission",
        r"appetite": "resource usage",
        r"wish(es)?": "pending event",
        r"wanted": "desired, expected, required",
        r"shall": "must, should",
        r"anyhow": "anyway",
        r"whoever|whom": "(rewrite)",
        r"hands were shaken": "a handshake has completed",
        r"day by day": "day-to-day",
    }
)
_WORDS = re.compile("|".join(rf"\b(?:{each})\b" for each in WORDS), re.IGNORECASE)

# Where such a word is the name of something, or somebody else's text: part of the place, and the text around.
EXCEPTIONS: tuple[tuple[str, str], ...] = (
    ("", r"\{\{?device\}?\}|--device\b|\bdevice: |up\.device"),
    (
        "",
        r"Device(Allow|Policy)|--kill-whom|initial-scale|device-lost|(tun|missing)-device|\.wants\b|it\.asks\.wanted",
    ),
    (
        "",
        r"facilitator_tunnel_dead_leg\{tunnel,leg\}|(sum )?by \(rung\)|\{\{rung\}\}|rung=\"|it\.leg|session\.device",
    ),
    ("examples/bird", r"protocol device"),  # BIRD's configuration
    ("Makefile", r"compiles all tests anew"),  # a comment for developers
    ("docs/adding-a-kind.md", r"Carrier\.DEVICE|place\.device"),
    ("hub", r"(?i)\bdevice"),  # a person's phone or laptop
    ("docs/hub.md", r"\bdevice\b"),
    ("supervisor/control/templates", r"width=device-width"),
    ("docs/deployment.md", r"device node"),
    ("supervisor/reports/history", r"(?s).*"),  # SQL
    ("supervisor/reports/paging/store.py", r"(?s).*"),  # SQL
    ("supervisor/disk.py", r"a device"),  # a device node
    ("tunnels/kinds", r"(?i)\b(tun|TUN) device|CUSTOM:kernel-ipsec"),  # what clients print
    ("tunnels/recognition.py", r"\{wanted\}"),  # a placeholder
    ("supervisor/core/preflight", r"devices\.allow"),
)


def place_and_text() -> Iterator[tuple[str, str]]:
    """Everything that a user reads, in pieces, each with its place."""
    for path in _files():
        yield from ((f"{path}:{number}", line) for number, line in enumerate(_lines(ROOT / path), 1))
    for path in sorted((ROOT / "docs").glob("*.json")):
        yield from ((f"docs/{path.name}", text) for text in _descriptions(json.loads(path.read_text())))
    for top in SOURCES:
        for path in sorted((ROOT / top).rglob("*.py")):
            yield from literals(path.read_text(), str(path.relative_to(ROOT)))
        for path in sorted((ROOT / top).rglob("*.html")):
            yield from ((str(path.relative_to(ROOT)), line) for line in path.read_text().splitlines())
    for name, each in commands():
        yield f"{name} --help", help_of(name, each)


def _files() -> list[str]:
    found = {path for pattern in (*PAGES, *SHIPPED) for path in ROOT.glob(pattern) if path.is_file()}
    names = {str(path.relative_to(ROOT)) for path in found if path.suffix not in (".png", ".json")}
    return sorted(names - FOR_DEVELOPERS) + ["monitoring/dashboard.json"]


def _lines(path: Path) -> list[str]:
    """Of a page, without what stands in backticks: names in code, which are fixed."""
    lines = path.read_text().splitlines()
    return [re.sub(r"`[^`]*`", "``", line) for line in lines] if path.suffix == ".md" else lines


def _descriptions(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        yield from (
            node[key] for key in ("description", "summary", "title") if isinstance(node.get(key), str)
        )
        for value in node.values():
            yield from _descriptions(value)
    elif isinstance(node, list):
        for value in node:
            yield from _descriptions(value)


def literals(source: str, path: str) -> Iterator[tuple[str, str]]:
    """The texts of several words in a module, except docstrings (those of commands are in their help)."""
    tree = ast.parse(source)
    apart = set(_docstrings(tree)) | {
        id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values
    }
    for node in ast.walk(tree):
        text = ""
        if isinstance(node, ast.JoinedStr):
            text = "".join(str(p.value) if isinstance(p, ast.Constant) else "{}" for p in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in apart:
            text = node.value
        if " " in text.strip():
            yield f"{path}:{node.lineno}", text  # type: ignore[attr-defined]  # both have a place


def _docstrings(tree: ast.AST) -> Iterator[int]:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            yield id(body[0].value)


def commands() -> Iterator[tuple[str, click.Command]]:
    """All commands of both programs."""

    def below(name: str, each: click.Command) -> Iterator[tuple[str, click.Command]]:
        yield name, each
        if isinstance(each, click.Group):
            for part in each.list_commands(click.Context(each)):
                found = each.get_command(click.Context(each), part)
                if found is not None:
                    yield from below(f"{name} {part}", found)

    yield from below("facilitator", command)
    yield from below("facilitator-hub", hub_command)


def help_of(name: str, each: click.Command) -> str:
    """What `--help` prints."""
    return each.get_help(click.Context(each, info_name=name, terminal_width=HELP_COLUMNS))


def found_in(place: str, text: str) -> list[str]:
    """The words that should not be there."""
    for where, allowed in EXCEPTIONS:
        if place.startswith(where):
            text = re.sub(allowed, "", text)
    return [match.group() for match in _WORDS.finditer(text)]


def test_users_read_the_words_of_the_field() -> None:
    wrong = [
        f"{place}: {', '.join(words)}: {text.strip()[:160]!r}"
        for place, text in place_and_text()
        if (words := found_in(place, text))
    ]
    assert wrong == [], "\n" + "\n".join(wrong)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("what the far side asks a person for", ["far side"]),
        ("the tunnel waits for a human", ["human"]),
        ("the client starts anew; nobody is called", ["anew", "nobody is called"]),
        ("far-end-full: the gateway has no room", []),
        ("an interface in the clear", []),
        ("it needs no rights on that device", ["rights", "device"]),
        ("Whoever may not enter is told at once", ["Whoever", "told at once"]),
    ],
)
def test_a_word_that_should_not_be_there_is_found(text: str, words: list[str]) -> None:
    assert found_in("docs/configuration.md:1", text) == words
    planted = f'"""Not for users: far side."""\n\ndef f(x):\n    raise ValueError(f"{{x}}: {text}")\n'
    assert [found_in(place, said) for place, said in literals(planted, "supervisor/x.py")] == [words]


@pytest.mark.parametrize(("name", "each"), list(commands()), ids=str)
def test_help_fits_a_terminal(name: str, each: click.Command) -> None:
    """No summary is cut off, and no line is longer than the terminal is wide."""
    lines = help_of(name, each).splitlines()[1:]  # without the usage
    assert [line for line in lines if len(line) > HELP_COLUMNS] == []
    assert [line for line in lines if line.endswith("...")] == []


def test_every_command_is_in_a_group_of_the_help() -> None:
    assert "\nOther:" not in help_of("facilitator", command)
