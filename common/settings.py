"""Groups of settings as values: frozen dataclasses, whose fields say what a configuration may say.

Making a value checks nothing: what a configuration says is checked once, with pydantic, by the types and by
what stands beside them (`common.constraints`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar, dataclass_transform, get_args

from common.constraints import ReadBy
from common.plain import default_of, hints


def setting(
    *, default: Any = dataclasses.MISSING, default_factory: Any = dataclasses.MISSING, description: str = ""
) -> Any:
    """A field of a group of settings. Without a default it is required."""
    metadata = {"description": description} if description else {}
    return dataclasses.field(default=default, default_factory=default_factory, metadata=metadata)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(setting,))
@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """A frozen group of settings that refuses unknown keys. Each class that is derived is a dataclass."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = {"extra": "forbid"}

    # True: what a tunnel says replaces the group under `defaults:`; False: it is merged into it
    whole: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        dataclasses.dataclass(frozen=True, kw_only=True)(cls)

    @classmethod
    def long_form(cls, value: Any) -> Any:
        """What the file says in place of the group, as the group. ValueError(sentence)."""
        return value

    def check(self) -> None:
        """Do these settings, each valid, fit together? ValueError(sentence)."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """How pydantic, which asks for it, validates the group wherever it is used (the reference)."""
        from pydantic_core import core_schema

        def checked(value: Settings) -> Settings:
            value.check()
            return value

        schema = handler.resolve_ref_schema(handler(source))
        reference = schema.pop("ref", None)
        after = core_schema.no_info_after_validator_function(checked, schema)
        return core_schema.no_info_before_validator_function(cls.long_form, after, ref=reference)


@dataclasses.dataclass(frozen=True, slots=True)
class SettingField:
    """What is known of one field of a group."""

    annotation: Any  # its type, with the constraints
    description: str
    required: bool
    default: Any  # None of one that is required

    @property
    def notation(self) -> ReadBy | None:
        """How it is written, if that is not as its type is; of one that may be null, the part that is not."""
        parts = (self.annotation, *get_args(self.annotation))
        found = (each for part in parts for each in getattr(part, "__metadata__", ()))
        return next((each for each in found if isinstance(each, ReadBy)), None)


def settings_of(group: type[Settings]) -> Mapping[str, SettingField]:
    """The fields of a group, by name."""
    of: Any = group
    return _settings_of(of)


@cache
def _settings_of(group: Any) -> Mapping[str, SettingField]:
    types = hints(group)
    return {
        each.name: SettingField(
            types[each.name],
            each.metadata.get("description", ""),
            (default := default_of(each)) is dataclasses.MISSING,
            None if default is dataclasses.MISSING else default,
        )
        for each in dataclasses.fields(group)
    }
