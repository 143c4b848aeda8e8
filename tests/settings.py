"""Settings as a configuration says them: durations, networks and short forms as text."""

from __future__ import annotations

from typing import TypeVar

from common.settings import Settings
from supervisor.config.validation import validated

SettingsT = TypeVar("SettingsT", bound=Settings)


def configured(group: type[SettingsT], **settings: object) -> SettingsT:
    """This group of settings. pydantic's ValidationError."""
    return validated(group, settings)
