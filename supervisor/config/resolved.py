"""The settings that result from a file, with `defaults:` and the program's own defaults filled in: as text by
path, as a tree, and as the difference of two. Secrets are references, as in the file.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from common.configuration.notation import Listen
from common.settings import SettingField, Settings, settings_of
from supervisor.config.model import Config
from tunnels.settings import Destination, Secret

_INDENT = "  "
_PLAIN = re.compile(r"[A-Za-z/_][\w ./@:+-]*", re.ASCII)
_WORDS = (
    "y",
    "yes",
    "n",
    "no",
    "true",
    "false",
    "on",
    "off",
    "null",
)  # which YAML 1.1 takes for something else
Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ResolvedSetting:
    """One value. `default`: it is the program's own."""

    text: str
    default: bool


def resolved(config: Config) -> dict[Path, ResolvedSetting]:
    """All settings by their path, such as ("tunnels", "acme-dc", "probe", "interval")."""
    return dict(_group(config, ()))


def tree(settings: Mapping[Path, ResolvedSetting]) -> Iterator[str]:
    """Indented lines, as YAML; a comment marks defaults."""
    opened: Path = ()
    for path, setting in settings.items():
        for depth in range(len(path) - 1):
            if opened[: depth + 1] != path[: depth + 1]:
                yield f"{_INDENT * depth}{path[depth]}:"
        opened = path[:-1]
        mark = "  # default" if setting.default else ""
        yield f"{_INDENT * len(opened)}{path[-1]}: {setting.text}{mark}"


def chosen(config: Config) -> dict[str, str]:
    """What differs from the program's defaults, by dotted path."""
    return {".".join(path): each.text for path, each in resolved(config).items() if not each.default}


def changes(old: Config, new: Config) -> Iterator[str]:
    """What differs, a line for each setting: `PATH: before -> after`."""
    before, after = resolved(old), resolved(new)
    for path in dict.fromkeys((*before, *after)):
        was, now = before.get(path), after.get(path)
        if was is None or now is None or was.text != now.text:
            texts = ("absent" if each is None else each.text for each in (was, now))
            yield f"{'.'.join(path)}: {' -> '.join(texts)}"


def _group(settings: Settings, path: Path) -> Iterator[tuple[Path, ResolvedSetting]]:
    for name, field in settings_of(type(settings)).items():
        value = getattr(settings, name)
        if (name == "name" and path[:1] == ("tunnels",)) or (not path and name == "warnings"):
            continue  # the key of the tunnel; no setting
        if isinstance(value, Settings) and not isinstance(value, Secret | Destination):
            yield from _group(value, (*path, name))
        elif (
            isinstance(value, Mapping)
            and all(isinstance(each, Settings) for each in value.values())
            and value
        ):
            for key, each in value.items():
                yield from _group(each, (*path, name, key))
        else:
            default = name != "kind" and not field.required and value == field.default
            yield (*path, name), ResolvedSetting(_text(value, field), default)


def _text(value: Any, field: SettingField | None = None) -> str:
    """The value in YAML's flow style, as the file would have it."""
    if isinstance(value, str) and not isinstance(value, enum.Enum):
        return value if _is_plain(value) else json.dumps(value, ensure_ascii=False)
    if isinstance(value, Destination) and value.presented_as is None:
        return str(value.network)
    if isinstance(value, Settings):
        given = {name: getattr(value, name) for name in settings_of(type(value))}
        return _text({name: each for name, each in given.items() if each is not None})
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_text(each)}" for key, each in value.items()) + "}"
    if isinstance(value, tuple) and not isinstance(value, Listen):
        return "[" + ", ".join(map(_text, value)) + "]"
    return _scalar(value, field)


def _scalar(value: Any, field: SettingField | None) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Listen):
        return json.dumps(str(value))
    notation = None if field is None else field.notation
    return str(value) if notation is None else notation.write(value)


def _is_plain(text: str) -> bool:
    """Does YAML read it as this text, without quotes, also inside of brackets?"""
    return (
        _PLAIN.fullmatch(text) is not None
        and text.lower() not in _WORDS
        and ": " not in text
        and not text.endswith((":", " "))
    )
