"""From the path of a setting to the model that describes it."""

from __future__ import annotations

from typing import Any, get_args

from common.configuration.problems import KeyPath
from common.settings import Settings, settings_of


def group_of(annotation: Any) -> type[Settings] | None:
    """The group of settings in a field of this type: itself, optional or in a list; None: there is none."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation
    return next(filter(None, map(group_of, get_args(annotation))), None)


def model_at(model: type[Settings], where: KeyPath) -> type[Settings] | None:
    """The group of settings at this path; None: something without fixed keys."""
    current: type[Settings] | None = model
    for step in where:
        if isinstance(step, int) or current is None:
            continue
        field = settings_of(current).get(step)
        current = group_of(field.annotation) if field is not None else None
    return current
