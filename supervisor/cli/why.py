"""`facilitator why`: the path of a packet, as the running daemon and its kernel see it now."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import click

from supervisor.cli.options import ask, fail, socket_option
from supervisor.cli.output import paint, say, say_json
from supervisor.core.diagnosis.query import is_name, parse_query
from supervisor.core.exits import Exit

if TYPE_CHECKING:
    from supervisor.core.views.documents import WhyDocument

_CODES = {"carried": Exit.OK, "person": Exit.OK, "down": Exit.NOT_UP}
_COLOURS = {"ok": "green", "warning": "yellow", "problem": "red"}


@click.command()
@click.argument("address")
@click.option("--from", "source", metavar="SOURCE", help="Source address: check access and the return route.")
@click.option("--port", metavar="N", help="TCP port, where `allow` restricts ports.")
@click.option("--json", "as_json", is_flag=True, help="JSON output.")
@socket_option
def why(
    address: str, source: str | None, port: str | None, as_json: bool, config: Path, socket_path: Path | None
) -> None:
    """Show how a packet to ADDRESS would be routed right now, and why.

    Names who may send it, which tunnel routes it, what the kernel holds, and what blocks it. ADDRESS is the
    one that users see, or the real one at the remote site if it is mapped. It may be a name behind a tunnel
    (`names:`), which is then resolved, and with a hub in the configuration a user's address: who has it, and
    which tunnels let that person in.

    Exit code 0: it is routed. 3: its tunnel is not up. 1: no tunnel routes it, or something blocks it.

    \b
    Example: facilitator why 10.77.0.10 --from 10.8.0.2 --port 443
    """
    parts: dict[str, object] = {"address": address, "from": source, "port": port}
    try:
        if not is_name(address):
            asked = parse_query(address, source, port)
            parts = {"address": asked.address, "from": asked.source, "port": asked.port}
    except ValueError as error:
        fail(Exit.USAGE, str(error))
    query = urlencode({name: str(value) for name, value in parts.items() if value is not None})
    answer: WhyDocument = ask(lambda client: client.get(f"/api/v1/why?{query}"), config, socket_path)
    if as_json:
        say_json(answer)
    else:
        say(*_text(answer))
    sys.exit(_CODES.get(answer["outcome"], Exit.FAILED))


def _text(answer: WhyDocument) -> Iterator[str]:
    width = max(len(step["name"]) for step in answer["steps"])
    yield paint(answer["verdict"], bold=True)
    yield "\n"
    for step in answer["steps"]:
        yield "\n  "
        yield paint(f"{step['state']:7}", _COLOURS[step["state"]])
        yield f"  {step['name']:{width}}  {step['text']}"
