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
@click.option(
    "--from", "source", metavar="SOURCE", help="The sender: may it, and do answers find back to it."
)
@click.option("--port", metavar="N", help="The TCP port, where a tunnel lets only some in.")
@click.option("--json", "as_json", is_flag=True, help="The whole answer as JSON.")
@socket_option
def why(
    address: str, source: str | None, port: str | None, as_json: bool, config: Path, socket_path: Path | None
) -> None:
    """Say what would become of a packet to ADDRESS now, and why: who may send it, which tunnel carries it,
    and what the kernel holds.

    ADDRESS is what staff use, or the real one at the far side where the two differ. It may also be a name
    behind a tunnel (`names:`), which is then asked for. With a hub in the configuration, an address of staff:
    whose it is, and which tunnels let that person in.

    Exit code 0: it is carried. 3: the tunnel that should carry it is not up. 1: nothing carries it, or
    something is in the way.

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
