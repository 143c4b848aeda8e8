"""The `tunnels:` part: each entry gets the defaults merged in and becomes the settings of its kind."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from common.configuration.explanations import closest, did_you_mean
from common.configuration.locations import find, find_key
from common.configuration.problems import Report
from common.configuration.yaml_document import Group, Node, Scalar
from common.settings import Settings, setting, settings_of
from supervisor.config.locations import group_of
from supervisor.config.messages import report_invalid
from supervisor.config.validation import validated
from tunnels.base import AnyKind
from tunnels.settings import Tunnel

Kinds = Mapping[str, AnyKind]

_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}", re.ASCII)
_STAND_IN = "x"  # for a name or kind that is wrong, so that the other settings can be checked as well


@dataclass(frozen=True, slots=True)
class TunnelEntry:
    """One tunnel of the file. `tunnel` is None if it is invalid."""

    name: str
    node: Group
    kind: AnyKind | None
    tunnel: Tunnel | None


@dataclass(frozen=True, slots=True)
class _Chosen:
    """The kind of a tunnel; if it is misspelt, the one that was probably meant, to check the other settings
    as well.
    """

    kind: AnyKind | None
    right: bool


def read_tunnels(root: Group, kinds: Kinds, report: Report) -> tuple[Group, tuple[TunnelEntry, ...]]:
    """The file with the defaults merged into the tunnels, and the tunnels; errors go into the report."""
    defaults, tunnels = _group(root, "defaults", report), _group(root, "tunnels", report)
    if defaults is not None:
        _check_defaults(defaults, root, kinds, report)
    if tunnels is None:
        if "tunnels" not in root.entries:
            report.error(root.position, (), "tunnels is missing: the tunnels to run, by name")
        return root, ()
    merged, chosen = _merge_all(root, tunnels, defaults or Group(root.position), kinds, report)
    entries = tuple(_entry(name, merged, choice, kinds, report) for name, choice in chosen.items())
    return merged, entries


def _group(root: Group, key: str, report: Report) -> Group | None:
    node = root.entries.get(key)
    if node is None or isinstance(node, Group):
        return node
    place = find(root, (key,))
    empty = isinstance(node, Scalar) and node.reading.value is None
    report.error(
        place.position,
        (key,),
        "has no value; write {} for none" if empty else "a group of settings is expected here",
    )
    return None


# --- defaults
# ----------------------------------------------------------------------------------------------------------


def all_options(kinds: Kinds) -> tuple[type[Tunnel], ...]:
    """The settings of every kind, the common ones first."""
    return (Tunnel, *(kind.options for kind in kinds.values()))


def defaults_model(kinds: Kinds) -> type[Settings]:
    """All settings that may stand under `defaults:`: those of every kind, none of them required."""
    fields = {
        name: each for options in all_options(kinds)[::-1] for name, each in settings_of(options).items()
    }
    del fields["name"]
    body: dict[str, Any] = {
        name: setting(default=None, description=each.description) for name, each in fields.items()
    }
    body["kind"] = None
    types = {name: each.annotation for name, each in fields.items()} | {"kind": str}
    doc = "Any tunnel setting; a tunnel overrides."
    return type(
        "Defaults", (Settings,), body | {"__doc__": doc, "__module__": __name__, "__annotations__": types}
    )


def _check_defaults(defaults: Group, root: Group, kinds: Kinds, report: Report) -> None:
    model = defaults_model(kinds)
    try:
        validated(model, defaults.plain())
    except ValidationError as error:
        report_invalid(error, model, root, ("defaults",), report, partial=True)


def merge(model: type[Settings], defaults: Group, own: Group) -> Group:
    """The tunnel's settings, completed by the defaults group by group, as far as the model knows them."""
    result = Group(own.position)
    for key, node in defaults.entries.items():
        if key in settings_of(model) and key not in own.entries:
            result.put(key, node, defaults.keys[key])
    for key, node in own.entries.items():
        result.put(key, _merge_entry(model, key, defaults.entries.get(key), node), own.keys[key])
    return result


def _merge_entry(model: type[Settings], key: str, default: Node | None, own: Node) -> Node:
    field = settings_of(model).get(key)
    group = group_of(field.annotation) if field is not None else None
    if group is None or group.whole or not isinstance(default, Group) or not isinstance(own, Group):
        return own
    return merge(group, default, own)


def _merge_all(
    root: Group, tunnels: Group, defaults: Group, kinds: Kinds, report: Report
) -> tuple[Group, dict[str, _Chosen]]:
    result, merged = Group(root.position, dict(root.entries), dict(root.keys)), Group(tunnels.position)
    chosen: dict[str, _Chosen] = {}
    for name, own in tunnels.entries.items():
        if not isinstance(own, Group):
            report.error(
                find(root, ("tunnels", name)).position,
                ("tunnels", name),
                "a group of settings is expected here, with at least kind",
            )
            continue
        chosen[name] = _choose(name, own, defaults, root, kinds, report)
        kind = chosen[name].kind
        merged.put(
            name, merge(kind.options if kind is not None else Tunnel, defaults, own), tunnels.keys[name]
        )
    result.put("tunnels", merged, root.keys["tunnels"])
    return result, chosen


# --- one tunnel
# ----------------------------------------------------------------------------------------------------------


def _choose(name: str, own: Group, defaults: Group, root: Group, kinds: Kinds, report: Report) -> _Chosen:
    node = own.entries.get("kind", defaults.entries.get("kind"))
    known = ", ".join(sorted(kinds))
    if node is None:
        report.error(
            find(root, ("tunnels", name)).position, ("tunnels", name), f"kind is missing: one of {known}"
        )
        return _Chosen(None, right=False)
    word = node.text if isinstance(node, Scalar) else ""
    if word in kinds:
        return _Chosen(kinds[word], right=True)
    place = find(root, ("tunnels", name, "kind") if "kind" in own.entries else ("defaults", "kind"))
    text = f"unknown kind {word!r}{did_you_mean(word, kinds)}; this version runs {known}"
    report.error(place.position, place.where, text)
    return _Chosen(kinds.get(closest(word, kinds) or ""), right=False)


def _entry(name: str, root: Group, chosen: _Chosen, kinds: Kinds, report: Report) -> TunnelEntry:
    node = find(root, ("tunnels", name)).node
    assert isinstance(node, Group)
    named = _check_name(name, root, report)
    if "name" in node.entries:
        place = find_key(root, ("tunnels", name, "name"))
        report.error(
            place.position, place.where, "unknown key (the name of a tunnel is its key under tunnels:)"
        )
    kind = chosen.kind
    data = node.plain() | {
        "name": name if named else _STAND_IN,
        "kind": kind.name if kind is not None else _STAND_IN,
    }
    if kind is None:  # its own options are not known: check the common ones
        data = {key: value for key, value in data.items() if key in settings_of(Tunnel)}
    tunnel = _validated(name, kind.options if kind is not None else Tunnel, data, root, kinds, report)
    return TunnelEntry(name, node, kind, tunnel if named and chosen.right else None)


def _check_name(name: str, root: Group, report: Report) -> bool:
    if _NAME.fullmatch(name):
        return True
    place = find_key(root, ("tunnels", name))
    meant = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:31]
    hint = f" (perhaps {meant})" if _NAME.fullmatch(meant) else ""
    text = (
        f"{name!r} is not a tunnel name; at most 31 lower-case letters, digits and '-', a letter first{hint}"
    )
    report.error(place.position, place.where, text)
    return False


def _validated(
    name: str, options: type[Tunnel], data: Mapping[str, object], root: Group, kinds: Kinds, report: Report
) -> Tunnel | None:
    try:
        return validated(options, data)
    except ValidationError as error:
        report_invalid(
            error, options, root, ("tunnels", name), report, _options_of_others(options, kinds.values())
        )
    except Exception as error:  # a fault of the kind, not of the file
        place = find_key(root, ("tunnels", name))
        text = (
            f"kind {data['kind']} cannot judge this: an internal error ({type(error).__name__}); "
            f"please report it"
        )
        report.error(place.position, place.where, text)
    return None


def _options_of_others(options: type[Tunnel], kinds: Iterable[AnyKind]) -> dict[str, str]:
    return {
        key: f"an option of kind {kind.name}"
        for kind in kinds
        for key in settings_of(kind.options)
        if key not in settings_of(options)
    }
