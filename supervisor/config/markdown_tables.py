"""All settings as Markdown tables, for docs/configuration.md, from the models.

python -m supervisor.config.markdown_tables
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import Any, NamedTuple

from common.configuration.notation import parse_size
from common.quantities import parse_share
from common.settings import SettingField, Settings, settings_of
from supervisor.config.fleet import FleetMember
from supervisor.config.locations import group_of
from supervisor.config.model import Globals
from supervisor.config.tunnel_entries import Kinds
from tunnels.settings import Allowance, Destination, Secret, Tunnel

REQUIRED = "required"  # in place of a default
_LEAVES = (Secret, Destination, Allowance, FleetMember)  # shown as one setting
_UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "m"), (1.0, "s"))


class Section(NamedTuple):
    """Settings that stand together."""

    title: str
    rows: list[tuple[str, str, str]]  # each a setting's path, its default or "required", and its meaning


def tables(kinds: Kinds) -> str:
    """One table for the top level, one for every tunnel, one for each kind's own options."""
    return "\n".join(
        f"### {section.title}\n\n| setting | default | meaning |\n|---|---|---|\n"
        + "".join(f"| `{path}` | {_cell(default)} | {meaning} |\n" for path, default, meaning in section.rows)
        for section in sections(kinds)
    )


def sections(kinds: Kinds) -> Iterator[Section]:
    """The settings of the top level, of every tunnel, and of each kind."""
    parts: list[tuple[str, type[Settings], Set[str]]] = [
        ("Top level", Globals, frozenset()),
        ("Every tunnel (`tunnels.NAME.…`, or under `defaults:`)", Tunnel, frozenset({"name"})),
        *((f"Kind `{name}`", kinds[name].options, frozenset(settings_of(Tunnel))) for name in sorted(kinds)),
    ]
    return (Section(title, list(_rows(model, "", leave))) for title, model, leave in parts)


def _rows(
    model: type[Settings], prefix: str, leave: Set[str] = frozenset()
) -> Iterator[tuple[str, str, str]]:
    for name, field in settings_of(model).items():
        if name in leave:
            continue
        group, path = group_of(field.annotation), f"{prefix}{name}"
        if group is not None and not issubclass(group, _LEAVES):
            yield from _rows(group, f"{path}.")
        else:
            yield path, _default(field), field.description


def _cell(default: str) -> str:
    return f"`{default}`" if default not in ("", REQUIRED) else default


def _default(field: SettingField) -> str:
    if field.required:
        return REQUIRED
    value: Any = field.default
    if value is None or value in ((), {}, ""):
        return ""
    return _word(value, field)


def _word(value: Any, field: SettingField) -> str:
    """The value as it would stand in the file."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and field.notation is not None and field.notation.parse is parse_share:
        return f"{value:.0%}"
    if isinstance(value, float):
        size, unit = next(
            (item for item in _UNITS if value >= item[0] and value % item[0] == 0), (0.001, "ms")
        )
        return f"{value / size:g}{unit}"
    if field.notation is not None and field.notation.parse is parse_size:
        return f"{value // 10**6}MB"
    return str(value)


if __name__ == "__main__":
    from tunnels.registry import KINDS

    print(tables(KINDS))
