"""Our own vpnc-script: what it reads from a client's environment, and what it does to a real device."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.netns import Namespace
from tunnels.drivers.netlink import bring_up
from tunnels.drivers.vpnc_script import COMMAND, SOCKET, Call, Script, read_call

CONNECT = {
    "reason": "connect",
    "TUNDEV": "t-acme",
    "VPNGATEWAY": "203.0.113.2",
    "INTERNAL_IP4_ADDRESS": "10.84.0.156",
    "INTERNAL_IP4_MTU": "1434",
    "INTERNAL_IP6_ADDRESS": "fd00:84::1",
    "INTERNAL_IP6_NETMASK": "fd00:84::1/128",
    "CISCO_SPLIT_INC": "2",
    "CISCO_SPLIT_INC_0_ADDR": "10.77.0.0",
    "CISCO_SPLIT_INC_0_MASKLEN": "24",
    "CISCO_SPLIT_INC_1_ADDR": "junk",
    "CISCO_SPLIT_INC_1_MASKLEN": "24",
    "CISCO_IPV6_SPLIT_INC": "1",
    "CISCO_IPV6_SPLIT_INC_0_ADDR": "fd00:77::",
    "CISCO_IPV6_SPLIT_INC_0_MASKLEN": "64",
    "CISCO_CSTP_OPTIONS": "X-CSTP-Version=1\nX-CSTP-Session-Timeout=86400\nX-CSTP-Session-Timeout-Remaining=86395\nX-CSTP-DPD=90\n",
}


def test_a_call_is_read() -> None:
    assert read_call(CONNECT) == Call(
        "connect",
        "t-acme",
        (ip_address("10.84.0.156"), ip_address("fd00:84::1")),
        1434,
        "203.0.113.2",
        ("10.77.0.0/24", "fd00:77::/64"),
        86395.0,
    )


def test_an_ipv6_address_may_stand_in_the_netmask_alone() -> None:
    assert read_call({"reason": "connect", "INTERNAL_IP6_NETMASK": "fd00:84::1/64"}).addresses == (
        ip_address("fd00:84::1"),
    )


@pytest.mark.parametrize(
    ("options", "lasts"),
    [
        ("", None),
        ("X-CSTP-Session-Timeout=0", None),
        ("X-CSTP-Session-Timeout=none", None),
        ("X-CSTP-Session-Timeout=60", 60.0),
        ("X-CSTP-Session-Timeout: 60\r\n", 60.0),
        ("X-CSTP-Session-Timeout-Remaining=0\nX-CSTP-Session-Timeout=60\n", 60.0),
    ],
)
def test_how_long_the_session_lasts(options: str, lasts: float | None) -> None:
    assert read_call({"CISCO_CSTP_OPTIONS": options}).lasts == lasts


@given(
    st.dictionaries(
        st.sampled_from([*CONNECT, "CISCO_SPLIT_INC_7_ADDR"]),
        st.text(max_size=30) | st.sampled_from([*CONNECT.values()]),
    )
)
def test_no_environment_upsets_it(environment: dict[str, str]) -> None:
    call = read_call(environment)
    assert len(call.addresses) <= 2


async def _run(directory: Path, **environment: str) -> int:
    """The script as a client runs it."""
    process = await asyncio.create_subprocess_shell(COMMAND, cwd=directory, env={**os.environ, **environment})
    return await process.wait()


async def test_the_hook_hands_over_and_waits(tmp_path: Path) -> None:
    calls: list[Call] = []

    def called(call: Call) -> None:
        calls.append(call)
        if call.reason == "connect" and not call.addresses:
            raise OSError(1, "Operation not permitted")

    await Script(called).listen(tmp_path / SOCKET)
    assert await _run(tmp_path, reason="pre-init", CISCO_BANNER="two\nlines") == 0
    assert await _run(tmp_path, reason="connect") == 1  # the program could not do it
    assert [call.reason for call in calls] == ["pre-init", "connect"]


async def test_a_hook_without_its_program_fails_at_once(tmp_path: Path) -> None:
    assert await _run(tmp_path, reason="connect") == 1


@pytest.mark.root
def test_the_device_is_up_and_closed_without_an_address_or_a_route() -> None:
    namespace = Namespace("script")
    try:
        namespace.run("ip", "tuntap", "add", "t-acme", "mode", "tun")
        with namespace.entered():
            for _ in range(2):  # a reconnect does the same again
                bring_up("t-acme", 1400)
            bring_up("t-acme", 1434)
            with pytest.raises(OSError, match="no interface with this name"):
                bring_up("t-nothing", None)
        (link,) = json.loads(namespace.run("ip", "-j", "address", "show", "t-acme").stdout)
        addresses = [each for each in link["addr_info"] if each["scope"] == "global"]
        assert ("UP" in link["flags"], link["mtu"], addresses) == (True, 1434, [])
        settings = (f"net.ipv6.conf.t-acme.{name}" for name in ("accept_ra", "autoconf", "accept_redirects"))
        for setting in (*settings, "net.ipv4.conf.t-acme.accept_redirects"):
            assert namespace.run("sysctl", "-n", setting).stdout == "0\n"
        assert namespace.run("ip", "route").stdout == ""
    finally:
        namespace.remove()


def test_the_command_names_no_secret_and_no_shell_trick() -> None:
    assert subprocess.run(["sh", "-n", "-c", COMMAND], check=False).returncode == 0
