"""Rules between the parts of a configuration: overlaps, references, limits, settings without effect."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import collapse_addresses, ip_network
from typing import Any

from pydantic import ValidationError

from common.configuration.explanations import did_you_mean
from common.configuration.locations import Location, find, find_key
from common.configuration.problems import Report
from common.configuration.yaml_document import Group, Listing
from supervisor.config.model import Staff
from supervisor.config.overlaps import DestinationClaim, collisions
from supervisor.config.tunnel_entries import TunnelEntry
from supervisor.config.validation import validated
from tunnels.base import CLIENT_SETTINGS, Carrier, device_name
from tunnels.networks import MOST_TUNNELS, IPNetwork
from tunnels.settings import Destination, Tunnel
from tunnels.targets import parse_target

_SPECIAL = tuple(
    (ip_network(text), what)
    for text, what in (
        ("0.0.0.0/8", "'this network', which is no place"),
        ("127.0.0.0/8", "loopback addresses, which never leave this host"),
        ("169.254.0.0/16", "link-local addresses, which are never routed"),
        ("224.0.0.0/4", "multicast addresses, which a tunnel does not carry"),
        ("255.255.255.255/32", "the broadcast address"),
        ("::/127", "loopback addresses, which never leave this host"),
        ("fe80::/10", "link-local addresses, which are never routed"),
        ("ff00::/8", "multicast addresses, which a tunnel does not carry"),
    )
)


@dataclass(frozen=True, slots=True)
class Checked:
    """What the rules are checked against."""

    file: Group  # as it was written
    root: Group  # with the defaults merged in
    staff: Staff
    entries: Sequence[TunnelEntry]
    report: Report


def check(checked: Checked) -> None:
    """Report all violations."""
    _check_count(checked)
    _check_http(checked)
    _check_staff(checked)
    _check_destinations(checked)
    _check_devices(checked)
    for entry in checked.entries:
        if entry.tunnel is not None:
            _check_totp(checked, entry.tunnel)
            _check_segments(checked, entry.tunnel)
            _warn_unreached_targets(checked, entry.tunnel)
            _warn_unused(checked, entry, entry.tunnel)


def _check_count(checked: Checked) -> None:
    if len(checked.entries) > MOST_TUNNELS:
        place = find_key(checked.root, ("tunnels",))
        text = (
            f"{len(checked.entries)} tunnels; one facilitator runs at most {MOST_TUNNELS}: give the "
            f"others to a second one"
        )
        checked.report.error(place.position, ("tunnels",), text)


def _check_http(checked: Checked) -> None:
    place = find_key(checked.root, ("http", "tls", "client_subjects"))
    if place.where == ("http", "tls", "client_subjects") and "client_ca" not in _keys(
        find(checked.root, ("http", "tls"))
    ):
        checked.report.error(
            place.position, place.where, "without client_ca no client shows a certificate; add client_ca"
        )


# --- networks
# ----------------------------------------------------------------------------------------------------------


def _check_staff(checked: Checked) -> None:
    for index, network in enumerate(checked.staff.networks):
        if network.prefixlen == 0:
            place = find(checked.root, ("staff", "networks", index))
            checked.report.error(
                place.position, place.where, f"{network} lets everybody in; name the networks of staff"
            )
    if not checked.staff.networks and "networks" not in _keys(find(checked.root, ("staff",))):
        place = find(checked.root, ("staff",))
        checked.report.warning(
            place.position, ("staff", "networks"), "no staff networks: nobody may enter the tunnels"
        )
    for name, networks in checked.staff.segments.items():
        for index, network in enumerate(networks):
            if not _within(network, checked.staff.networks):
                place = find(checked.root, ("staff", "segments", name, index))
                checked.report.error(
                    place.position, place.where, f"{network} is not inside of staff.networks"
                )


def _within(network: IPNetwork, networks: Sequence[IPNetwork]) -> bool:
    """Are all of its addresses in these networks together?"""
    same: Any = [other for other in networks if other.version == network.version]
    return any(other.supernet_of(network) for other in collapse_addresses(same))


def _keys(place: Location) -> frozenset[str]:
    return frozenset(place.node.entries) if isinstance(place.node, Group) and place.where else frozenset()


def _check_destinations(checked: Checked) -> None:
    staff = [network for network in checked.staff.networks if network.prefixlen > 0]
    claims = []
    for place, entry, destination in _destinations(checked):
        trouble = _trouble(destination, staff)
        if trouble is not None:
            checked.report.error(place.position, place.where, trouble)
            continue
        claims.append(
            DestinationClaim(
                destination.staff_side,
                entry.name,
                _priority(entry),
                place.where,
                place.position,
                checked.report.line(place.position),
            )
        )
    for claim, text in collisions(claims):
        checked.report.error(claim.position, claim.where, text)


def _destinations(checked: Checked) -> Iterator[tuple[Location, TunnelEntry, Destination]]:
    """Every valid destination, also of tunnels with other errors."""
    for entry in checked.entries:
        listing = entry.node.entries.get("destinations")
        for index, item in enumerate(listing.items if isinstance(listing, Listing) else ()):
            try:
                destination = validated(Destination, item.plain())
            except ValidationError:
                continue  # reported with its tunnel
            yield find(checked.root, ("tunnels", entry.name, "destinations", index)), entry, destination


def _priority(entry: TunnelEntry) -> int:
    node = entry.node.entries.get("priority")
    value = node.plain() if node is not None else None
    return value if isinstance(value, int) else 100


def _trouble(destination: Destination, staff: Sequence[IPNetwork]) -> str | None:
    for network in dict.fromkeys((destination.network, destination.staff_side)):
        if network.prefixlen == 0:
            return f"{network} is the whole internet; name the networks behind the tunnel"
        special = next((what for other, what in _SPECIAL if network.overlaps(other)), None)
        if special is not None:
            return f"{network} covers {special}"
    own = next((other for other in staff if other.overlaps(destination.staff_side)), None)
    if own is not None:
        return (
            f"{destination.staff_side} overlaps {own} of staff.networks: staff could not be reached any more"
        )
    return None


# --- tunnels
# ----------------------------------------------------------------------------------------------------------


def _check_devices(checked: Checked) -> None:
    owners: dict[str, str] = {}
    for entry in checked.entries:
        if entry.tunnel is None or entry.kind is None or entry.kind.carrier is not Carrier.DEVICE:
            continue
        device = device_name(entry.tunnel)
        owner = owners.setdefault(device, entry.name)
        if owner != entry.name:
            place = find(checked.root, ("tunnels", entry.name, "device"))
            checked.report.error(
                place.position,
                place.where,
                f"its interface {device} is also that of {owner}; set device: to another name",
            )


def _check_totp(checked: Checked, tunnel: Tunnel) -> None:
    if tunnel.login.totp is not None and tunnel.login.password is None:
        place = find_key(checked.root, ("tunnels", tunnel.name, "login", "totp"))
        checked.report.error(
            place.position, place.where, "a one-time password goes with a password; login.password is missing"
        )


def _check_segments(checked: Checked, tunnel: Tunnel) -> None:
    for index, allowance in enumerate(tunnel.allow or ()):
        if allowance.by_person and checked.file.entries.get("hub") is None:
            place = find(checked.root, ("tunnels", tunnel.name, "allow", index))
            text = "who is behind an address must be known for that; add hub"
            checked.report.error(place.position, place.where, text)
        if allowance.segment and allowance.segment not in checked.staff.segments:
            place = find(checked.root, ("tunnels", tunnel.name, "allow", index, "segment"))
            hint = did_you_mean(allowance.segment, checked.staff.segments)
            checked.report.error(
                place.position, place.where, f"no segment {allowance.segment!r} under staff.segments{hint}"
            )


def _warn_unreached_targets(checked: Checked, tunnel: Tunnel) -> None:
    """Warn of probe targets that the tunnel does not carry: they prove little, through a proxy nothing."""
    for index, target in enumerate(tunnel.probe.targets):
        address = parse_target(target).address
        if not any(address in d.network or address in d.staff_side for d in tunnel.destinations):
            place = find(checked.root, ("tunnels", tunnel.name, "probe", "targets", index))
            checked.report.warning(
                place.position, place.where, f"{address} lies in no destination of {tunnel.name}"
            )


def _warn_unused(checked: Checked, entry: TunnelEntry, tunnel: Tunnel) -> None:
    """Warn of settings of the tunnel itself that its kind does not use; defaults are meant for all kinds."""
    assert entry.kind is not None
    unused = sorted(CLIENT_SETTINGS - entry.kind.uses(tunnel))
    unused += ["reconnect.planned"] if entry.kind.unlimited_session else []
    for path in unused:
        where = ("tunnels", tunnel.name, *path.split("."))
        place = find_key(checked.file, where)
        if place.where == where and place.node.plain() is not None:
            checked.report.warning(place.position, where, f"ignored by kind {tunnel.kind}")
