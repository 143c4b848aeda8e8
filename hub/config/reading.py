"""The text of a configuration file -> settings, or all of its errors at once. Pure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from common.configuration.explanations import did_you_mean, explain
from common.configuration.locations import find, find_key
from common.configuration.problems import ConfigErrors, KeyPath, Report
from common.configuration.yaml_document import Group, load

SECTIONS = ("sidecar", "sessions", "admin", "profile")

SettingsT = TypeVar("SettingsT", bound="HubSettings")


class HubSettings(BaseModel):
    """A frozen group of settings that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SecretPlace(HubSettings):
    """Where a secret lies: a file (looked up in the credential directories) or an environment variable."""

    file: Annotated[str, Field(min_length=1)] | None = Field(None, description="name or path of a file")
    env: Annotated[str, Field(min_length=1)] | None = Field(None, description="name of a variable")

    @model_validator(mode="before")
    @classmethod
    def _refuse_literal(cls, value: Any) -> Any:
        """Refuse what may be the secret itself. The text never repeats it."""
        if isinstance(value, SecretPlace):
            return value
        if not isinstance(value, dict) or len(value) != 1 or not set(value) <= {"file", "env"}:
            raise ValueError("a secret is never written here; say {file: NAME} or {env: NAME}")
        return value


def section(text: str, name: str, key: str, model: type[SettingsT]) -> SettingsT | None:
    """The settings under this key of the file; None: it has none. ConfigErrors holds every error in them.

    `name`: the file's path; relative paths in the settings are taken from beside it.
    """
    report = Report(name)
    root = load(text, report)
    if root is None:
        report.finish()
        raise AssertionError("a file that cannot be read is reported")
    for other in root.entries.keys() - set(SECTIONS):
        place = find_key(root, (other,))
        report.error(place.position, place.where, f"unknown key{did_you_mean(other, SECTIONS)}")
    settings = validated(model, root, (key,), report) if key in root.entries else None
    report.finish()
    return beside(settings, Path(name).parent) if settings is not None else None


def validated(model: type[SettingsT], root: Group, where: KeyPath, report: Report) -> SettingsT | None:
    """The settings at this place of the file; None: they are wrong, and the report says how."""
    try:
        return model.model_validate(find(root, where).node.plain())
    except ValidationError as error:
        for details in error.errors(include_url=False, include_input=False):
            _report(details, model, root, (*where, *details["loc"]), len(where), report)
    return None


def _report(
    details: ErrorDetails, model: type[BaseModel], root: Group, where: KeyPath, depth: int, report: Report
) -> None:
    if details["type"] == "extra_forbidden":
        place = find_key(root, where)
        group = _model_at(model, where[depth:-1])
        known = sorted(group.model_fields) if group is not None else []
        meant = did_you_mean(str(where[-1]), known) or f"; known here: {', '.join(known)}"
        report.error(place.position, place.where, f"unknown key{meant}")
    elif details["type"] == "missing":
        place = find(root, where[:-1])
        report.error(place.position, place.where, f"{where[-1]} is missing")
    else:
        place = find(root, where)
        report.error(place.position, place.where, explain(details, place.node))


def _model_at(model: type[BaseModel], where: KeyPath) -> type[BaseModel] | None:
    current: type[BaseModel] | None = model
    for step in where:
        field = current.model_fields.get(str(step)) if current is not None else None
        if field is not None:
            current = _group_of(field.annotation)
    return current


def _group_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_group_of, get_args(annotation))), None)


def beside(settings: SettingsT, directory: Path) -> SettingsT:
    """The same settings with relative paths of files taken from this directory."""
    return settings.model_copy(
        update={name: _beside(getattr(settings, name), directory) for name in type(settings).model_fields}
    )


def _beside(value: Any, directory: Path) -> Any:
    if isinstance(value, Path):
        return value if value.is_absolute() else directory / value
    return beside(value, directory) if isinstance(value, HubSettings) else value


__all__ = ["ConfigErrors", "HubSettings", "SecretPlace", "beside", "section", "validated"]
