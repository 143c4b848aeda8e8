"""The settings of the session service and of the operator's commands."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from common.configuration.notation import File, Listen, ListenText, Subject, Url
from common.configuration.yaml_scalars import Misread
from common.quantities import Pause, Seconds
from hub.config.reading import HubSettings, SecretPlace
from hub.core.api import Method
from hub.core.routes import Role


class ServiceTls(HubSettings):
    """Mutual TLS of the API. The CA signs machines and operators, never the staff."""

    certificate: File = Field(description="PEM file with the service's certificate chain")
    key: File = Field(description="PEM file with its private key")
    client_ca: File = Field(description="PEM file; only certificates of this CA may connect")
    roles: Mapping[Role, tuple[Subject, ...]] = Field(
        description="the subjects of the certificates that have a role: `sidecar: [CN=hub-a]`"
    )


class ServiceClientTls(HubSettings):
    """The certificate that we show to the service."""

    certificate: File = Field(description="PEM file with the certificate chain")
    key: File = Field(description="PEM file with its private key")
    ca: File = Field(description="PEM file with the CA of the service")


def _database(value: str) -> str:
    scheme = urlsplit(value).scheme
    if scheme == "sqlite" and urlsplit(value).path.startswith("/") and not urlsplit(value).netloc:
        return value
    if scheme in ("postgresql", "postgres") and urlsplit(value).password is None:
        return value
    raise ValueError(
        "write sqlite:///PATH, or postgresql://[USER@HOST]/NAME without a password (it goes to PGPASSFILE)"
    )


class Addresses(HubSettings):
    """Which addresses the clients get."""

    networks: tuple[IPv4Network, ...] = Field(
        min_length=1, description="the clients' networks; the OpenVPN servers have them, too"
    )
    servers: Annotated[int, Field(ge=1, le=1000)] = Field(
        1, description="so many addresses at the start of each network are the servers' own"
    )
    quarantine: Seconds = Field(600.0, description="rest of an address before it changes its person")


class PeopleSettings(HubSettings):
    """Who the staff are."""

    file: File = Field(description="YAML file; it is read again when it changes")


class TotpSettings(HubSettings):
    """One-time codes."""

    seeds: SecretPlace = Field(description="YAML file with `PERSON: SEED`; base32 or otpauth://")


class NotificationSettings(HubSettings):
    """Approval by a link."""

    webhook: SecretPlace = Field(description="where the address of your notifier lies")
    key: SecretPlace = Field(description="where the key lies that signs what is sent to it (HMAC-SHA256)")
    timeout: Pause = Field(90.0, description="how long a login waits, 60s to 180s")

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if not 60 <= self.timeout <= 180:
            raise ValueError("timeout must be 60s to 180s")
        return self


class OidcSettings(HubSettings):
    """An identity provider (OpenID Connect, authorization code with PKCE). Needs the extra `oidc`."""

    issuer: Url = Field(
        description="as the provider names itself, such as https://login.example.net/realms/staff"
    )
    client: Annotated[str, Field(min_length=1, max_length=200)] = Field(description="our client id there")
    secret: SecretPlace = Field(description="where the client's secret lies")
    person: Annotated[str, Field(min_length=1)] = Field(
        "preferred_username",
        description="claim of the ID token that holds the person's name, the CN of its certificate",
    )
    groups: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="claim with a list of groups, which come beside those of the file"
    )
    scopes: tuple[str, ...] = Field(("openid", "profile"), description="what is asked for")
    timeout: Pause = Field(150.0, description="how long a login waits for the browser, 60s to 180s")
    same_address: bool = Field(
        True,
        description="the browser has to have the address of the VPN client: links that are passed on are worthless",
    )
    ca: File | None = Field(None, description="PEM file with the provider's CA; absent: the system's")

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if not 60 <= self.timeout <= 180:
            raise ValueError("timeout must be 60s to 180s")
        if "openid" not in self.scopes:
            raise ValueError("scopes must hold openid")
        return self


class LoginSettings(HubSettings):
    """How people prove who they are."""

    default: Method = Field(Method.CERTIFICATE, description="for people whose entry names no method")
    remember: Seconds = Field(
        12 * 3600.0, description="for so long a client with a valid auth-token of OpenVPN is not asked again"
    )
    totp: TotpSettings | None = Field(None, description="one-time passwords")
    notification: NotificationSettings | None = Field(None, description="approval by a link")
    oidc: OidcSettings | None = Field(None, description="login at an identity provider")


class Limits(HubSettings):
    """What one person may do."""

    session: Seconds = Field(12 * 3600.0, description="longest session")
    per_person: Annotated[int, Field(ge=1, le=100)] = Field(
        2, description="sessions at a time; the next login takes the place of the oldest"
    )
    attempts: Annotated[int, Field(ge=1, le=1000)] = Field(10, description="logins in a minute")


class Pages(HubSettings):
    """The pages that people's browsers see, on a port of their own."""

    listen: ListenText = Field(description="HOST:PORT")
    url: Url = Field(description="how browsers reach it")
    certificate: File | None = Field(None, description="PEM file; absent: behind a proxy that does TLS")
    key: File | None = Field(None, description="PEM file")
    proxies: tuple[IPv4Network | IPv6Network, ...] = Field(
        (), description="proxies that are believed what they write into X-Forwarded-For"
    )

    @property
    def link(self) -> str:
        """What links begin with; a token follows."""
        return f"{self.url.rstrip('/')}/approve?token="


class SessionsSettings(HubSettings):
    """The session service."""

    listen: ListenText = Field(description="HOST:PORT of the API, such as 0.0.0.0:8443")
    http: ListenText = Field(
        Listen("127.0.0.1", 9465), description="metrics, health and the status page, without TLS"
    )
    tls: ServiceTls
    database: Annotated[str, AfterValidator(_database)] = Field(
        "sqlite:////var/lib/facilitator-hub/sessions.db", description="sqlite:///PATH or postgresql://..."
    )
    addresses: Addresses
    people: PeopleSettings
    login: LoginSettings = Field(default_factory=LoginSettings)
    limits: Limits = Field(default_factory=Limits)
    pages: Pages | None = Field(
        None, description="needed by logins by notification and by an identity provider"
    )
    heartbeat: Pause = Field(5.0, description="how often sidecars report")
    retention: Seconds = Field(90 * 86400.0, description="how long events and ended sessions are kept")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.login.notification is not None and self.pages is None:
            raise ValueError("login.notification needs `pages`: there the links lead")
        if self.login.oidc is not None and self.pages is None:
            raise ValueError("login.oidc needs `pages`: there the links lead")
        return self


class AdminSettings(HubSettings):
    """How the operator's commands reach the service."""

    url: Url
    tls: ServiceClientTls


def _day(value: Any) -> Any:
    """YAML takes a day for a date; it is wanted as it is written."""
    return value.text if isinstance(value, Misread) else value


class PersonSettings(HubSettings):
    """One entry of the file of people."""

    state: str = Field("active", pattern="^(active|disabled)$", description="active or disabled")
    groups: tuple[str, ...] = Field((), description="for rules by group")
    method: Method | None = Field(None, description="how this person logs in")
    until: Annotated[str, BeforeValidator(_day)] | None = Field(
        None, description="last day with access, as 2027-01-31 (UTC)"
    )
    address: IPv4Address | None = Field(None, description="always this address")


def database_path(database: str) -> Path | None:
    """The file of SQLite; None: it is PostgreSQL."""
    return Path(urlsplit(database).path) if database.startswith("sqlite") else None
