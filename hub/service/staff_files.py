"""The rules as the configuration and the files of people and seeds say now."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import structlog

from common.configuration.problems import ConfigErrors
from hub.config.model import SessionsSettings
from hub.config.people import parse_people, parse_seeds
from hub.core.addresses import AddressPool
from hub.service import files
from hub.service.files import FileMark, HubSecrets
from hub.service.metrics import HubMetrics
from hub.service.rules import Rules


class StaffFiles:
    """Reads them again when they change. One that is wrong then changes nothing, and is told."""

    def __init__(self, settings: SessionsSettings, secrets: HubSecrets, metrics: HubMetrics) -> None:
        self._settings, self._secrets, self._metrics = settings, secrets, metrics
        self._marks: dict[Path, FileMark] = {}
        self._log = structlog.get_logger()
        self.rules = first_rules(settings)

    def read(self) -> None:
        """Read all for the first time. ConfigErrors, OSError or ValueError with a sentence."""
        self.rules = self._read(self._new_marks())

    def reread(self) -> bool:
        """Read again what has changed; True: the rules are others now."""
        marks = self._new_marks()
        if marks == self._marks:
            return False
        try:
            self.rules = self._read(marks)
        except (ConfigErrors, OSError, ValueError) as error:
            self._marks = marks
            self._log.error("a changed file is not used, the earlier one is in effect", error=str(error))
            self._metrics.file("people", False)
            return False
        self._log.info("people read", people=len(self.rules.people))
        return True

    def _paths(self) -> list[Path]:
        totp = self._settings.login.totp
        seeds = self._secrets.path(totp.seeds) if totp is not None else None
        return [self._settings.people.file, *([seeds] if seeds is not None else [])]

    def _new_marks(self) -> dict[Path, FileMark]:
        return {path: files.mark(path) for path in self._paths()}

    def _read(self, marks: dict[Path, FileMark]) -> Rules:
        totp, path = self._settings.login.totp, self._settings.people.file
        default = self._settings.login.default
        people = parse_people(files.text(path), str(path), default, self.rules.pool)
        reserved = frozenset(each.address for each in people.values() if each.address is not None)
        seeds = parse_seeds(self._secrets.read(totp.seeds), "seeds") if totp is not None else {}
        self._marks = marks
        self._metrics.people(len(people))
        self._metrics.file("people", True)
        return replace(
            self.rules, people=people, seeds=seeds, pool=replace(self.rules.pool, reserved=reserved)
        )


def first_rules(settings: SessionsSettings) -> Rules:
    """Those of the settings alone: nobody is known yet."""
    notification, oidc = settings.login.notification, settings.login.oidc
    return Rules(
        AddressPool(settings.addresses.networks, servers=settings.addresses.servers),
        session_seconds=settings.limits.session,
        per_person=settings.limits.per_person,
        attempts=settings.limits.attempts,
        rest_seconds=settings.addresses.quarantine,
        remember_seconds=settings.login.remember,
        approval_seconds=int(notification.timeout) if notification is not None else None,
        identity_seconds=int(oidc.timeout) if oidc is not None else None,
        login_url=settings.pages.link if settings.pages is not None else "",
        claimed_groups=oidc is not None and oidc.groups is not None,
        same_address=oidc is None or oidc.same_address,
    )
