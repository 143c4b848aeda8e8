"""How each kind of tunnel can be replaced before its session ends."""

from __future__ import annotations

import pytest

from supervisor.config.validation import validated
from tunnels.registry import KINDS


@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_login_is_renewed_only_where_the_client_can_reconnect_in_place(name: str) -> None:
    kind = KINDS[name]
    assert kind.renew or not kind.renew_starts_new_session
    assert kind.renew_starts_new_session == (name == "openvpn")
    assert kind.unlimited_session == (name == "wireguard")


def test_a_command_runs_twice_only_if_it_can_be_told_its_device() -> None:
    command = KINDS["command"]

    def options(**said: object) -> object:
        common = {"name": "a", "kind": "command", "destinations": ["10.0.0.0/24"], "up": {"notify": True}}
        return validated(command.options, {**common, **said})

    assert command.allows_parallel(options(argv=["vpn", "{device}"]))
    assert not command.allows_parallel(options(argv=["vpn"], device="vpn0"))
