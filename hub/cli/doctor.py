"""`facilitator-hub doctor`: whether OpenVPN, the directory, certificates and the service fit."""

from __future__ import annotations

import http.client
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import click

from hub.cli.configuration import config_option, settings_of
from hub.config.sidecar import SidecarSettings
from hub.core.openvpn.server_config import (
    FindingWeight,
    ServerFinding,
    server_findings,
    server_options,
    version_finding,
)
from hub.sidecar.directory import DirectoryRefused, check_directory

_SECONDS = 10.0
_COLOURS = {FindingWeight.OK: "green", FindingWeight.WARNING: "yellow", FindingWeight.PROBLEM: "red"}


@click.command()
@click.argument("server", type=click.Path(path_type=Path))
@click.option("--openvpn", default="openvpn", show_default=True, help="OpenVPN program of the server.")
@config_option
def doctor(server: Path, openvpn: str, config: Path) -> None:
    """Check that the OpenVPN server's configuration fits the sidecar.

    SERVER is the server's configuration file.

    Exit 1: there is a problem.
    """
    settings = settings_of(config, "sidecar", SidecarSettings)
    found = [*_server(server, settings), _version(openvpn), _directory(settings), *_service(settings)]
    for finding in found:
        click.secho(f"{finding.weight:<8} ", fg=_COLOURS[finding.weight], nl=False)
        click.echo(finding.text)
        if finding.hint:
            click.echo(f"         {finding.hint}")
    sys.exit(any(finding.weight is FindingWeight.PROBLEM for finding in found))


def _server(path: Path, settings: SidecarSettings) -> list[ServerFinding]:
    try:
        text = path.read_text(errors="replace")
    except OSError as error:
        return [ServerFinding(FindingWeight.PROBLEM, f"{path}: {error.strerror}")]
    return server_findings(server_options(text), str(settings.management))


def _version(openvpn: str) -> ServerFinding:
    try:
        done = subprocess.run(
            [openvpn, "--version"], check=False, capture_output=True, text=True, timeout=_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return ServerFinding(FindingWeight.PROBLEM, f"{openvpn} cannot be run", "apt install openvpn")
    return version_finding(done.stdout)


def _directory(settings: SidecarSettings) -> ServerFinding:
    try:
        check_directory(settings.management.parent)
    except DirectoryRefused as error:
        return ServerFinding(FindingWeight.PROBLEM, str(error))
    return ServerFinding(FindingWeight.OK, f"only its owner can enter {settings.management.parent}")


def _service(settings: SidecarSettings) -> Iterator[ServerFinding]:
    """One request that changes nothing: any answer shows that the certificates fit."""
    url, tls = urlsplit(settings.sessions.url), settings.sessions.tls
    try:
        context = ssl.create_default_context(cafile=str(tls.ca))
        context.load_cert_chain(tls.certificate, tls.key)
        port = url.port or http.client.HTTPS_PORT
        connection = http.client.HTTPSConnection(url.hostname or "", port, timeout=_SECONDS, context=context)
        connection.request("GET", "/")
        connection.getresponse().read()
        connection.close()
    except (OSError, ValueError, http.client.HTTPException) as error:
        yield ServerFinding(
            FindingWeight.PROBLEM, f"the session service does not answer at {settings.sessions.url}: {error}"
        )
    else:
        yield ServerFinding(FindingWeight.OK, f"the session service answers at {settings.sessions.url}")
