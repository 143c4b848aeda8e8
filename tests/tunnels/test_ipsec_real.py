"""Real vpnc and strongSwan against a real gateway, without the daemon: what passes, what a stop leaves
behind, and a mute gateway.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from ipaddress import ip_network

import psutil
import pytest

from tests.lab.servers import PASSWORD
from tests.lab.strongswan import GROUP_SECRET, PRESHARED_KEY, SITE
from tests.tunnels.driver import ClientRun, translate
from tests.tunnels.ipsec_lab import CLIENT, SERVER, IpsecLab
from tunnels.base import Failed, Reason
from tunnels.drivers.netlink import forget_rules, rename
from tunnels.kinds.strongswan.driver import CHILDLESS_SECONDS
from tunnels.kinds.strongswan.kind import STRONGSWAN

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IpsecLab]:
    directory = tmp_path_factory.mktemp("ipsec")
    lab = IpsecLab(directory)
    yield lab
    lab.close()


def start(lab: IpsecLab, kind: str, how: str = "psk", config: str | None = None) -> ClientRun:
    if kind == "vpnc":
        return lab.run("vpnc", lab.gateway.vpnc_config(), password=PASSWORD, group_secret=GROUP_SECRET)
    secrets = {"psk": PRESHARED_KEY} if how == "psk" else {"password": PASSWORD} if how == "eap" else {}
    return lab.run("strongswan", config or lab.gateway.swanctl_config(how), f"t-{how}", **secrets)


def left(lab: IpsecLab) -> dict[str, str]:
    """Devices and rules of the client's namespace beside the usual ones."""
    devices = [
        line
        for line in lab.client.run("ip", "-o", "link").stdout.splitlines()
        if not {"lo:", "wan@if2:"} & set(line.split()[1:2])
    ]
    rules = [
        line
        for line in lab.client.run("ip", "rule").stdout.splitlines()
        if not line.startswith(("0:", "3276"))
    ]
    return {name: "\n".join(lines) for name, lines in (("devices", devices), ("rules", rules)) if lines}


@pytest.mark.parametrize(
    ("kind", "how"),
    [("vpnc", ""), ("strongswan", "psk"), ("strongswan", "eap"), ("strongswan", "certificate")],
)
def test_packets_pass_and_nothing_stays(lab: IpsecLab, kind: str, how: str) -> None:
    run = start(lab, kind, how)
    try:
        connected = run.connected()
        device = run.launch.argv[run.launch.argv.index("--device") + 1]
        if not connected.on_interface:
            assert " 10.79." not in lab.client.run("ip", "-br", "address", "show", device).stdout
            translate(lab.client, device, connected)
        lab.client.run("ip", "route", "add", "10.77.0.1/32", "dev", device)
        assert lab.passes(device)
        assert connected.address is not None
        tree = [psutil.Process(run.process.pid), *psutil.Process(run.process.pid).children(recursive=True)]
        seen = " ".join(word for each in tree for word in (*each.cmdline(), *each.environ().values()))
        assert not [secret for secret in (PASSWORD, GROUP_SECRET, PRESHARED_KEY) if secret in seen]
    finally:
        assert run.stop() == 0
    assert not [each for each in tree if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    assert left(lab) == {}


@pytest.mark.parametrize("kind", ["vpnc", "strongswan"])
def test_a_mute_gateway_does_not_hold_up_the_end(lab: IpsecLab, kind: str) -> None:
    lab.silence()
    try:
        run = start(lab, kind)
        run.pump(lambda: any("S4.3" in line or "initiating IKE_SA" in line for line in run.transcript))
        since = time.monotonic()
        run.stop()
        assert time.monotonic() - since < STRONGSWAN.stop_timeout  # else the daemon would have used force
    finally:
        lab.speak()
    assert left(lab) == {}


def test_a_child_that_the_gateway_replaces_is_not_the_end(lab: IpsecLab) -> None:
    """It deletes the only one and creates another, as strongSwan does that rekeys IKE and child at once."""
    run = start(lab, "strongswan")
    try:
        before = run.connected()
        lab.client.run("ip", "route", "add", "10.77.0.1/32", "dev", "t-psk")
        for _ in range(2):
            lab.gateway.end_child("psk")
            assert not lab.passes("t-psk")
            lab.gateway.create_child("psk")
            assert run.connected() == before
            assert lab.passes("t-psk")
        lab.gateway.end_child("psk")  # and where none comes
        since = time.monotonic()
        assert run.failed().reason is Reason.PEER_CLOSED
        assert CHILDLESS_SECONDS - 1 < time.monotonic() - since < CHILDLESS_SECONDS + 5
    finally:
        run.stop()
    assert left(lab) == {}


def test_a_selector_of_one_address_is_our_address(lab: IpsecLab) -> None:
    """As where two sites are joined: the remote gateway gives no address."""
    config = lab.gateway.swanctl_config("psk").replace("facilitator@", "site@").replace("vips = 0.0.0.0", "")
    config = config.replace("remote_ts", f"local_ts = {SITE}/32\n remote_ts")
    run = start(lab, "strongswan", config=config)
    try:
        assert run.connected().address == SITE
        lab.client.run("ip", "route", "add", "10.77.0.1/32", "dev", "t-psk")
        assert lab.passes("t-psk")
    finally:
        assert run.stop() == 0


def test_of_several_gateways_each_is_tried_in_turn(lab: IpsecLab) -> None:
    config = lab.gateway.swanctl_config("psk").replace(SERVER, f"198.18.2.77, {SERVER}")
    lab.client.run("ip", "route", "add", "198.18.2.77/32", "dev", "wan")
    for number, reason in ((0, Reason.NETWORK), (1, None), (2, Reason.NETWORK)):
        since = time.monotonic()
        run = lab.run("strongswan", config, "t-several", psk=PRESHARED_KEY, remote=number)
        try:
            if reason is None:
                assert run.connected().peer == SERVER
            else:
                assert run.failed(30).reason is reason
                assert time.monotonic() - since < 15
        finally:
            run.stop()


def test_an_address_of_ours_that_this_host_does_not_have(lab: IpsecLab) -> None:
    config = lab.gateway.swanctl_config("psk").replace(
        "version = 2", "local_addrs = 203.0.113.50\nlocal_port = 500"
    )
    run = start(lab, "strongswan", config=config)
    try:
        why = run.failed()
    finally:
        run.stop()
    path = lab.directory / "client.conf"
    assert why == Failed(
        Reason.CLIENT_CONFIG,
        f"{path}:3: local_addrs 203.0.113.50 is no address of this host (an Elastic IP is not one: it is "
        "translated on the way); remove local_addrs, and set id = 203.0.113.50 in local { } if the remote gateway "
        "knows us by it",
    )
    run = start(lab, "strongswan", config=config.replace("203.0.113.50", CLIENT))
    try:
        assert run.connected().peer == SERVER
    finally:
        run.stop()


def test_what_the_gateway_agrees_to_carry_may_be_less_than_we_asked_for(lab: IpsecLab) -> None:
    config = lab.gateway.swanctl_config("psk")
    run = start(lab, "strongswan", config=config.replace("10.77.0.0/24", "10.77.0.0/16, 10.78.0.0/24"))
    try:
        connected = run.connected()
        assert connected.agreed == (ip_network("10.77.0.0/24"),)
    finally:
        run.stop()


def test_a_device_is_renamed_while_it_is_up(lab: IpsecLab) -> None:
    with lab.client.entered():
        lab.client.run("ip", "link", "add", "one", "type", "veth", "peer", "name", "other")
        try:
            lab.client.run("ip", "link", "set", "one", "up")
            rename("one", "two")
            assert "two" in lab.client.run("ip", "link").stdout
            with pytest.raises(OSError, match="File exists"):
                rename("two", "lo")
        finally:
            lab.client.run("ip", "link", "delete", "other")


def test_rules_of_a_table_are_forgotten(lab: IpsecLab) -> None:
    for family in ("-4", "-6"):
        lab.client.run(
            "ip", family, "rule", "add", "priority", "32000", "fwmark", "0x7fabcdef", "table", "1174405121"
        )
    with lab.client.entered():
        forget_rules(1174405121)
        forget_rules(1174405121)
    assert left(lab) == {}
    assert "1174405121" not in lab.client.run("ip", "-6", "rule").stdout
