"""The configuration file as a value.

`Globals` is everything but the tunnels; `Config` adds them. The schema in `docs/` and the errors of
`facilitator check` come from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal

from common.configuration.notation import (
    Directory,
    File,
    IncludePattern,
    Listen,
    ListenText,
    Name,
    ShortDirectory,
    Size,
    Subject,
    Url,
)
from common.configuration.problems import Problem
from common.constraints import CheckedBy, NotEmpty, Whole
from common.quantities import Pause, Seconds
from common.settings import Settings, setting
from supervisor.config.fleet import FleetSettings
from supervisor.config.hub import IdentitySettings
from tunnels.settings import Network, Secret, Tunnel


class Facilitator(Settings):
    """This daemon."""

    name: Name | None = setting(
        default=None, description="in metrics, alerts and logs; absent means the host's name"
    )
    state_dir: Directory = setting(
        default=Path("/var/lib/facilitator"),
        description="database of sessions, transitions and unsent alerts",
    )
    runtime_dir: ShortDirectory = setting(
        default=Path("/run/facilitator"),
        description="control socket, management sockets, logs of the clients",
    )
    runbook_url: Url | None = setting(
        default=None,
        description="address where you publish docs/reasons.md; log, status and incidents append #REASON; "
        "absent means that they name the file instead",
    )


class Staff(Settings):
    """Whose traffic may enter the tunnels."""

    networks: tuple[Network, ...] = setting(
        default=(), description="the hub's clients, or the hub's nodes if they masquerade"
    )
    segments: Mapping[str, tuple[Network, ...]] = setting(
        default_factory=dict, description="parts of staff, for a tunnel's `allow`"
    )


class Tls(Settings):
    """TLS of the HTTP server."""

    certificate: File = setting(description="PEM file with the certificate chain")
    key: File = setting(description="PEM file with the private key")
    client_ca: File | None = setting(
        default=None, description="PEM file; when given, clients must show a certificate of this CA"
    )
    client_subjects: tuple[Subject, ...] = setting(
        default=(),
        description="subjects of the accepted client certificates, as in `CN=prometheus,O=Example`; "
        "absent means all of that CA",
    )


class Http(Settings):
    """Metrics, health, status page and read-only API."""

    listen: ListenText = setting(
        default=Listen("127.0.0.1", 9464), description="HOST:PORT, an IPv6 address in brackets and quotes"
    )
    tls: Tls | None = setting(default=None, description="absent means plain HTTP")
    external_url: Url | None = setting(
        default=None, description="address at which your engineers open the status page; incidents link to it"
    )


class PagerDutySettings(Settings):
    """Incidents in PagerDuty (Events API v2)."""

    routing_key: Secret = setting(description="the service's integration key")
    url: Url = setting(default="https://events.pagerduty.com", description="service region, or a test double")


class WebhookSettings(Settings):
    """Incidents as JSON to an address of your own."""

    url: Secret = setting(description="the address; it usually contains a token")
    format: Literal["facilitator", "slack", "alertmanager"] = setting(
        default="facilitator",
        description="facilitator: docs/incidents.md; slack: for Slack, Mattermost and Rocket.Chat; "
        "alertmanager: as Alertmanager's webhook receivers expect it",
    )


class Alerts(Settings):
    """Where incidents go."""

    pagerduty: PagerDutySettings | None = setting(default=None, description="PagerDuty")
    webhook: WebhookSettings | None = setting(default=None, description="any HTTP service")


class DrainSettings(Settings):
    """How a planned end waits for the flows that still run."""

    timeout: Seconds = setting(default=8 * 3600.0, description="longest wait for flows to end")
    idle: Pause = setting(
        default=15 * 60.0, description="a flow without packets for this long counts as ended"
    )


class Audit(Settings):
    """A record of who used which tunnel."""

    file: File = setting(
        description="file for the records, one JSON object per line; its directory must be writable for the daemon"
    )
    max_size: Size = setting(default=100 * 10**6, description="size at which the file is rotated")
    keep: Annotated[int, Whole(0, 1000)] = setting(default=5, description="how many rotated files are kept")
    people: bool = setting(
        default=False,
        description="name the person behind each flow, as far as the hub knows; see docs/hub.md",
    )
    keep_for: Seconds | None = setting(
        default=None,
        description="no line is kept for longer, and each at least half as long; absent means by size alone",
    )


def _checked_listen(value: tuple[Listen, ...]) -> tuple[Listen, ...]:
    for each in value:
        try:
            address = ip_address(each.host)
        except ValueError:
            raise ValueError(f"{each}: names are listened for on an address; write 10.60.0.1:53") from None
        if address.is_unspecified:
            raise ValueError(f"{each}: name the address of this host that staff ask; write 10.60.0.1:53")
    return value


def _checked_upstream(value: tuple[str, ...]) -> tuple[str, ...]:
    for each in value:
        try:
            ip_address(each)
        except ValueError:
            raise ValueError(f"{each!r} is not the address of a name server; write 10.60.0.53") from None
    return value


class NameService(Settings):
    """The customers' names for the staff: a name server that asks behind each tunnel (docs/names.md)."""

    listen: Annotated[tuple[ListenText, ...], NotEmpty(), CheckedBy(_checked_listen)] = setting(
        description="ADDRESS:PORT, where staff ask for names, over UDP and TCP"
    )
    upstream: Annotated[tuple[str, ...], CheckedBy(_checked_upstream)] = setting(
        default=(),
        description="addresses of name servers that all other names are handed to; absent means that these are "
        "refused",
    )


class Globals(Settings):
    """Everything in the file but the tunnels and their defaults."""

    facilitator: Facilitator = setting(default=Facilitator())
    staff: Staff = setting(default=Staff())
    http: Http = setting(default=Http())
    alerts: Alerts = setting(default=Alerts())
    drain: DrainSettings = setting(default=DrainSettings())
    on_exit: Literal["keep", "remove"] = setting(
        default="keep",
        description="what an orderly shutdown leaves behind: the rules that keep destinations "
        "blocked, or nothing",
    )
    audit: Audit | None = setting(default=None, description="absent means no audit file")
    fleet: FleetSettings | None = setting(default=None, description="absent means a single facilitator")
    include: IncludePattern | None = setting(
        default=None, description="files with more tunnels, such as conf.d/*.yaml; beside this file"
    )
    hub: IdentitySettings | None = setting(default=None, description="absent means that people are not known")
    names: NameService | None = setting(
        default=None, description="absent means that names behind the tunnels are not asked for"
    )


class Config(Globals):
    """A valid configuration. The defaults are merged into the tunnels."""

    tunnels: Mapping[str, Tunnel] = setting(default_factory=dict)
    warnings: tuple[Problem, ...] = setting(default=(), description="valid settings that may surprise")
