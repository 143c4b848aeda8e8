"""The JSON Schema of the configuration file, for editors, from the models.

    python -m supervisor.config.schema > docs/config.schema.json

An editor cannot see that `defaults:` supplies what a tunnel needs: what a kind requires is asked for in the
tunnel itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from common.settings import Settings
from supervisor.config.model import Globals
from supervisor.config.tunnel_entries import Kinds, defaults_model
from tunnels.settings import Allowance, Destination, Secret

Json = dict[str, Any]

_NAME = r"^[a-z][a-z0-9-]{0,30}$"


def schema(kinds: Kinds) -> Json:
    """The schema of a whole file; an error of an editor is an error of `facilitator check`, but not the
    other way round.
    """
    options = {name: kind.options for name, kind in kinds.items()}
    models: list[type[Settings]] = [Globals, defaults_model(kinds), *options.values()]
    references, definitions = TypeAdapter.json_schemas(
        [(model.__name__, "validation", TypeAdapter(model)) for model in models]
    )
    defs: Json = definitions["$defs"]
    for name, model in options.items():
        _as_entry(_resolve(references[model.__name__, "validation"], defs), name)
    _allow_short_forms(defs)
    _choose_one(defs)
    root = defs.pop("Globals")
    root["properties"] |= {
        "defaults": references[models[1].__name__, "validation"],
        "tunnels": {
            "type": "object",
            "description": "The tunnels by name",
            "propertyNames": {"pattern": _NAME},
            "additionalProperties": {
                "oneOf": [references[model.__name__, "validation"] for model in options.values()]
            },
        },
    }
    head = {"$schema": "http://json-schema.org/draft-07/schema#", "title": "facilitator configuration"}
    body: Json = _without_titles(
        root
        | {"description": "The configuration file of facilitator", "required": ["tunnels"], "$defs": defs}
    )
    return head | body


def _resolve(reference: Mapping[str, Any], defs: Json) -> Json:
    found: Json = defs[reference["$ref"].rpartition("/")[2]]
    return found


def _as_entry(definition: Json, kind: str) -> None:
    """The name is the key of the entry, and the kind decides which entry it is."""
    del definition["properties"]["name"]
    definition["properties"]["kind"] = {
        "const": kind,
        "description": definition["properties"]["kind"].get("description", ""),
    }
    definition["required"] = ["kind", *(key for key in definition["required"] if key not in ("name", "kind"))]


def _allow_short_forms(defs: Json) -> None:
    """`10.77.0.0/24` for `{network: 10.77.0.0/24}`, `engineers` for `{segment: engineers}`."""
    for model, key in ((Destination, "network"), (Allowance, "segment")):
        long = defs[model.__name__]
        short = {
            name: value
            for name, value in long["properties"][key].items()
            if name not in ("title", "description", "default")
        }
        defs[model.__name__] = {"description": long.pop("description", ""), "anyOf": [short, long]}


def _choose_one(defs: Json) -> None:
    defs[Secret.__name__] |= {"oneOf": [{"required": ["file"]}, {"required": ["env"]}]}
    for choice in defs[Secret.__name__]["properties"].values():
        choice.pop("anyOf")
        choice.pop("default")
        choice |= {"type": "string", "minLength": 1}


def _without_titles(value: Any) -> Any:
    """Without what repeats the key, and without defaults, which stand in Python's units."""
    if isinstance(value, list):
        return [_without_titles(item) for item in value]
    if not isinstance(value, dict):
        return value
    names = value.get("properties")
    kept = {
        key: _without_titles(item)
        for key, item in value.items()
        if key not in ("title", "default", "properties")
    }
    return kept | (
        {"properties": {key: _without_titles(item) for key, item in names.items()}}
        if isinstance(names, dict)
        else {}
    )


if __name__ == "__main__":
    from tunnels.registry import KINDS

    print(json.dumps(schema(KINDS), indent=2, sort_keys=True))
