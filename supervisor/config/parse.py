"""The text of the configuration file -> `Config`, or all of its errors at once. Pure: nothing is read
but the text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from common.configuration.problems import Report
from common.configuration.sources import split
from common.configuration.yaml_document import Group, load
from common.settings import Settings, setting, settings_of
from supervisor.config.fleet_rules import check_fleet
from supervisor.config.inclusion import add_included
from supervisor.config.messages import report_invalid
from supervisor.config.model import Config, Globals
from supervisor.config.name_rules import check_names
from supervisor.config.rules import Checked, check
from supervisor.config.tunnel_entries import Kinds, TunnelEntry, all_options, read_tunnels
from supervisor.config.validation import validated

SettingsT = TypeVar("SettingsT", bound=Settings)


def parse(text: str, name: str, kinds: Kinds) -> Config:
    """The configuration in `text`. ConfigErrors holds every error by position; `name` is the file's path
    as errors show it.

    Relative names of plain files become paths beside `name`; secrets keep their names (see `candidates`).
    """
    report = Report(name)
    main, included = split(text)
    root = load(main, report)
    if root is None:
        report.finish()
        raise AssertionError("a file that cannot be read is reported")
    add_included(root, main, included, Path(name).parent, report)
    sections = dict(_sections(root, kinds, report))
    merged, entries = read_tunnels(root, kinds, report)
    globals_ = validated(Globals, sections)
    check(Checked(root, merged, globals_.staff, entries, report))
    tunnels = [entry.tunnel for entry in entries if entry.tunnel is not None]
    check_fleet(merged, globals_.fleet, globals_.facilitator, tunnels, report)
    check_names(merged, globals_.names, tunnels, report)
    return _config(globals_, entries, Path(name).parent, report)


class _File(Globals):
    """The top-level keys of a file, known for hints about unknown ones."""

    tunnels: Mapping[str, Any] = setting(default_factory=dict)
    defaults: Mapping[str, Any] = setting(default_factory=dict)


def _sections(root: Group, kinds: Kinds, report: Report) -> Iterator[tuple[str, Any]]:
    """The valid top-level groups; each is validated on its own, so that an error does not hide others."""
    hints = _misplaced(kinds)
    for key, node in root.entries.items():
        if key in ("tunnels", "defaults"):
            continue
        try:
            yield key, getattr(validated(Globals, {key: node.plain()}), key)
        except ValidationError as error:
            report_invalid(error, _File, root, (), report, hints)


def _misplaced(kinds: Kinds) -> dict[str, str]:
    """Hints for keys that belong one level deeper."""
    known = {field for options in all_options(kinds) for field in settings_of(options)} - {"name"}
    return {key: "a setting of a tunnel; it belongs to a tunnel or under defaults:" for key in known}


def _config(globals_: Globals, entries: tuple[TunnelEntry, ...], directory: Path, report: Report) -> Config:
    warnings = report.finish()
    tunnels = {entry.name: beside(entry.tunnel, directory) for entry in entries if entry.tunnel is not None}
    return Config(
        **{name: _beside(getattr(globals_, name), directory) for name in settings_of(Globals)},
        tunnels=tunnels,
        warnings=warnings,
    )


def beside(settings: SettingsT, directory: Path) -> SettingsT:
    """The same settings with relative paths of files taken from this directory."""
    changed = {
        name: new
        for name in settings_of(type(settings))
        if (new := _beside(old := getattr(settings, name), directory)) is not old
    }
    return replace(settings, **changed) if changed else settings


def _beside(value: Any, directory: Path) -> Any:
    if isinstance(value, Path):
        return value if value.is_absolute() else directory / value
    return beside(value, directory) if isinstance(value, Settings) else value
