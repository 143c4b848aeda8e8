"""Opens the daemon's sockets: the control socket in `runtime_dir`, and HTTP or HTTPS. CannotStart if the
first cannot be; the second is tried again while the tunnels run (`supervisor.app.watchers.http_address`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from common.configuration.notation import Listen
from common.tls import ServerTls
from supervisor.app.parts import Parts
from supervisor.config.model import Tls
from supervisor.core.exits import CannotStart, Exit

if TYPE_CHECKING:
    from supervisor.control.api import HTTPApi  # aiohttp: not before the clients are adopted


def server_tls(tls: Tls | None) -> ServerTls | None:
    """The certificate of the HTTP server. CannotStart: wrong files are a wrong configuration."""
    if tls is None:
        return None
    try:
        with _required("http.tls cannot be used", Exit.CONFIG):
            return ServerTls(tls.certificate, tls.key, tls.client_ca, tls.client_subjects)
    except ValueError as error:
        raise CannotStart(Exit.CONFIG, str(error)) from None


async def listen(parts: Parts, api: HTTPApi, control: Path, address: Listen, tls: ServerTls | None) -> None:
    """Open the control socket and the HTTP server; `Servers.serve` answers. CannotStart: no control socket,
    or no permission for the port.
    """
    from supervisor.control.client import KEY_FILE
    from supervisor.control.peer_credentials import ClientGuard, new_key

    with _required(f"cannot listen on {control}; see facilitator.runtime_dir"):
        guard = ClientGuard(parts.data_plane.runner.is_client, new_key(control.with_name(KEY_FILE)))
        await parts.servers.listen_unix(api.control(guard), control)

    async def listen_http() -> None:
        if tls is None:
            await parts.servers.listen_tcp(api.public(), address.host, address.port, None)
        else:
            await parts.servers.listen_tcp(api.public(tls.refusal), address.host, address.port, tls.context)
            parts.watchers.tls.start(tls)

    with _required(f"cannot listen on {address}; see http.listen"):
        await parts.watchers.http.open(str(address), listen_http)
    parts.servers.close_unused()


@contextlib.contextmanager
def _required(sentence: str, code: Exit = Exit.FAILED) -> Iterator[None]:
    """An OSError becomes a CannotStart with this sentence and exit code."""
    try:
        yield
    except OSError as error:
        code = Exit.NO_RIGHT if isinstance(error, PermissionError) else code
        raise CannotStart(code, f"{sentence} ({error})") from None
