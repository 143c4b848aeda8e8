"""Two small kinds, one of each carrier, so that these tests do not move with the real ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from common.settings import setting
from supervisor.config import Config, ConfigErrors
from supervisor.config.parse import parse
from tunnels.base import CLIENT_SETTINGS, AnyKind, Carrier, Input, Kind, Launch
from tunnels.settings import Secret, Tunnel


class Wire(Tunnel):
    """Runs through a device."""

    kind: Literal["wire"] = "wire"
    config: Path = setting(description="the file of the remote gateway")


class PipeTunnel(Tunnel):
    """Runs through a proxy."""

    kind: Literal["pipe"] = "pipe"
    remote: str = setting(description="the remote gateway")
    identity: Secret | None = None
    options: tuple[str, ...] = ()


def _kind(name: str, options: type[Any], carrier: Carrier, inputs: Any, uses: frozenset[str]) -> AnyKind:
    launch, dialogue = (lambda *_: Launch(())), (lambda *_: None)
    return Kind(name, options, carrier, inputs, launch, dialogue, (), uses=lambda _: uses)  # type: ignore[arg-type]


KINDS: Mapping[str, AnyKind] = {
    "wire": _kind(
        "wire",
        Wire,
        Carrier.DEVICE,
        lambda t: (Input("password", t.login.password),) if t.login.password else (),
        CLIENT_SETTINGS,
    ),
    "pipe": _kind(
        "pipe",
        PipeTunnel,
        Carrier.PROXY,
        lambda t: (Input("identity", t.identity),) if t.identity else (),
        frozenset(),
    ),
}

HEAD = (
    "staff: {networks: [10.8.0.0/16]}\ntunnels:\n  acme:\n    kind: wire\n    config: acme.conf\n    "
    "destinations: [10.77.0.0/24]\n"
)


def good(text: str) -> Config:
    """The configuration of a text that is right."""
    return parse(text, "c.yaml", KINDS)


def problems(text: str) -> list[str]:
    """What is wrong with the text."""
    try:
        good(text)
    except ConfigErrors as errors:
        return [str(problem) for problem in errors.problems]
    return []


def warnings(text: str) -> list[str]:
    """What is allowed and may surprise."""
    return [str(warning) for warning in good(text).warnings]
