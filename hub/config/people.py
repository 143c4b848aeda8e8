"""The files of people and of their seeds: YAML text -> values, or all errors at once."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address

from common.configuration.problems import Report
from common.configuration.yaml_document import Group, Listing, Scalar, load
from hub.config.model import PersonSettings
from hub.config.reading import validated
from hub.core.addresses import AddressPool
from hub.core.api import Method
from hub.core.codes import Seed, parse_seed
from hub.core.people import People, Person


def parse_people(text: str, name: str, default: Method, pool: AddressPool) -> People:
    """The staff by name: `people: {alice: {groups: [engineers], until: 2027-01-31}}`. ConfigErrors."""
    report = Report(name)
    root = load(text, report)
    entries = root.entries.get("people") if root is not None else None
    people: dict[str, Person] = {}
    if root is not None and isinstance(entries, Group):
        for key in entries.entries:
            person = _checked(key, root, entries, default, report)
            people.update({key: person} if person is not None else {})
        _check_addresses(people, entries, pool, report)
    elif root is not None:
        report.error(root.position, (), "the file has no group `people`")
    report.finish()
    return people


def _checked(key: str, root: Group, entries: Group, default: Method, report: Report) -> Person | None:
    node, where = entries.entries[key], ("people", key)
    empty = isinstance(node, Scalar) and node.reading.value is None
    settings = PersonSettings() if empty else validated(PersonSettings, root, where, report)
    try:
        return _person(key, settings, default) if settings is not None else None
    except ValueError as error:
        report.error(entries.keys[key], (*where, "until"), str(error))
        return None


def _check_addresses(people: People, entries: Group, pool: AddressPool, report: Report) -> None:
    holders: dict[IPv4Address, str] = {}
    for name, person in people.items():
        if person.address is None:
            continue
        position, where = entries.keys[name], ("people", name, "address")
        if not pool.usable(person.address):
            report.error(
                position, where, f"{person.address} is no client's address in sessions.addresses.networks"
            )
        other = holders.setdefault(person.address, name)
        if other != name:
            report.error(position, where, f"{person.address} is {other}'s already")


def _person(name: str, settings: PersonSettings, default: Method) -> Person:
    return Person(
        name,
        settings.state == "disabled",
        settings.groups,
        settings.method or default,
        _end_of_day(settings.until) if settings.until is not None else None,
        settings.address,
    )


def _end_of_day(text: str) -> float:
    try:
        day = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise ValueError(f"{text!r} is not a day; write it as 2027-01-31") from None
    return (day + timedelta(days=1)).timestamp()


def parse_seeds(text: str, name: str) -> Mapping[str, Seed]:
    """The seeds by person. ConfigErrors, which repeats no seed."""
    report = Report(name)
    root = load(text, report)
    seeds: dict[str, Seed] = {}
    for person, node in root.entries.items() if root is not None else ():
        if isinstance(node, Listing | Group):
            report.error(node.position, (person,), "expected a seed: base32, or an otpauth:// address")
            continue
        try:
            seeds[person] = parse_seed(node.text)
        except ValueError as error:
            report.error(node.position, (person,), str(error))
    report.finish()
    return seeds
