"""`facilitator-hub profile`: a person's client profile."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click

from hub.cli.configuration import FAILED, config_option, settings_of, stop
from hub.config.sidecar import ProfileSettings
from hub.core.openvpn.profile import ClientProfile, profile_problems, profile_text

_PERSON = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}", re.ASCII)


@click.command()
@click.argument("person")
@click.option("--codes", is_flag=True, help="For a login with user name and one-time passwords.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write this file, mode 0600.")
@config_option
def profile(person: str, codes: bool, output: Path | None, config: Path) -> None:
    """Write the client profile (.ovpn) of PERSON.

    It contains the certificate and the key."""
    if not _PERSON.fullmatch(person):
        raise click.BadParameter(f"{person!r} cannot be the name of a certificate's file")
    settings = settings_of(config, "profile", ProfileSettings)
    try:
        made = _profile(settings, person, codes)
    except OSError as error:
        stop(f"{error.filename}: {error.strerror}", FAILED)
    except UnicodeDecodeError:
        stop(f"the certificate or key of {person} is not a PEM file", FAILED)
    for problem in profile_problems(made):
        click.echo(f"facilitator-hub: the profile of {person}: {problem}", err=True)
    if output is None:
        sys.stdout.write(profile_text(made))
        return
    try:
        output.touch(mode=0o600)
        output.chmod(0o600)
        output.write_text(profile_text(made))
    except OSError as error:
        stop(f"{output}: {error.strerror}", FAILED)


def _profile(settings: ProfileSettings, person: str, codes: bool) -> ClientProfile:
    def remote(text: str) -> tuple[str, int]:
        host, _, port = text.rpartition(":")
        return host.removeprefix("[").removesuffix("]"), int(port)

    return ClientProfile(
        remotes=tuple(map(remote, settings.remotes)),
        protocol=settings.protocol,
        ca=settings.ca.read_text(),
        certificate=(settings.certificates / f"{person}.crt").read_text(),
        key=(settings.certificates / f"{person}.key").read_text(),
        tls_crypt=settings.tls_crypt.read_text() if settings.tls_crypt is not None else "",
        asks_codes=codes,
    )
