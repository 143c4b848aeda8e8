"""The settings of a sidecar, and of the client profiles that fit its server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from common.configuration.notation import File, Url
from common.quantities import Pause, Seconds
from hub.config.model import ServiceClientTls
from hub.config.reading import HubSettings

_MAX_SOCKET_PATH_BYTES = 107  # sun_path in struct sockaddr_un (unix(7))


def _socket(value: Path) -> Path:
    if not value.is_absolute():
        raise ValueError("must be an absolute path, the one after `management` in OpenVPN's configuration")
    if len(bytes(value)) > _MAX_SOCKET_PATH_BYTES:
        raise ValueError(f"is longer than the {_MAX_SOCKET_PATH_BYTES} bytes that a socket's path may have")
    return value


class NodeDrainSettings(HubSettings):
    """How `facilitator-hub sidecar drain` ends."""

    timeout: Seconds = Field(8 * 3600.0, description="for so long, people may finish what they do")
    then: Literal["next", "wait"] = Field(
        "next", description="when it expires clients are sent to the next server; wait: no time limit"
    )


class ServiceAddress(HubSettings):
    """Where the session service is."""

    url: Url
    tls: ServiceClientTls


class SidecarSettings(HubSettings):
    """The sidecar of one OpenVPN server."""

    management: Annotated[Path, AfterValidator(_socket)] = Field(
        Path("/run/facilitator-hub/management.sock"),
        description="OpenVPN's management socket; its directory (mode 0700) also holds the sidecar's files",
    )
    server: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")] | None = Field(
        None, description="a name for this server where one certificate serves several of them"
    )
    sessions: ServiceAddress
    heartbeat: Pause = Field(5.0, description="how often all sessions are reported to the service")
    login_patience: Seconds = Field(
        10.0, description="for so long, a login waits for a service that does not answer"
    )
    drain: NodeDrainSettings = Field(default_factory=NodeDrainSettings)


class ProfileSettings(HubSettings):
    """What `facilitator-hub profile PERSON` writes."""

    remotes: tuple[str, ...] = Field(
        min_length=1, description="HOST:PORT of the servers; two or more, so that one can be drained"
    )
    protocol: Literal["udp", "tcp"] = Field("udp", description="udp or tcp")
    ca: File = Field(description="PEM file with the CA of the servers' certificates")
    tls_crypt: File | None = Field(None, description="the servers' tls-crypt key")
    certificates: File = Field(description="directory with PERSON.crt and PERSON.key")

    @model_validator(mode="after")
    def _each_remote_has_a_port(self) -> Self:
        for remote in self.remotes:
            host, colon, port = remote.rpartition(":")
            if not (host and colon and port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
                raise ValueError(f"{remote!r} is not HOST:PORT")
        return self
