"""Settings of the kernel, without a kernel."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from supervisor.app.stores.changed_sysctls import NAME, ChangedSysctls
from supervisor.clients.processes import boot_id
from supervisor.kernel.sysctl import Sysctls, put_back
from tests.netns import Namespace


class SysctlTree:
    """A directory that looks like /proc/sys/net."""

    def __init__(self, root: Path, **values: str) -> None:
        self.root = root
        self.notes: list[str] = []
        self.sysctls = Sysctls(lambda text, details: self.notes.append(text), root)
        for name, value in values.items():
            self.put(name.replace("__", "/"), value)

    def put(self, name: str, value: str) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(value + "\n")

    def get(self, name: str) -> str:
        return (self.root / name).read_text().strip()


@pytest.mark.parametrize(
    ("everywhere", "own", "after"), [(0, 1, 1), (1, 0, 1), (1, 2, 2), (2, 1, 2), (2, 0, 2)]
)
def test_the_reverse_path_filter_moves_without_changing_a_device(
    tmp_path: Path, everywhere: int, own: int, after: int
) -> None:
    values = {"all": everywhere, "default": 0, "eth0": own}
    tree = SysctlTree(
        tmp_path, **{f"ipv4__conf__{device}__rp_filter": str(value) for device, value in values.items()}
    )
    tree.sysctls.move_reverse_path_filter()
    assert tree.get("ipv4/conf/all/rp_filter") == "0"
    assert tree.get("ipv4/conf/eth0/rp_filter") == str(after)
    assert tree.get("ipv4/conf/default/rp_filter") == str(everywhere)
    tree.sysctls.accept_replies("eth0")
    assert tree.get("ipv4/conf/eth0/rp_filter") == "0"
    assert tree.notes == []


def test_forwarding_keeps_the_hosts_own_router(tmp_path: Path) -> None:
    tree = SysctlTree(
        tmp_path,
        ipv4__ip_forward="0",
        ipv6__conf__all__forwarding="0",
        ipv6__conf__all__accept_ra="1",
        ipv6__conf__eth0__accept_ra="1",
        ipv6__conf__eth1__accept_ra="0",
    )
    tree.sysctls.forward(ipv6=False)
    assert (tree.get("ipv4/ip_forward"), tree.get("ipv6/conf/all/forwarding")) == ("1", "0")
    tree.sysctls.forward(ipv6=True)
    assert tree.get("ipv6/conf/all/forwarding") == "1"
    assert [tree.get(f"ipv6/conf/{device}/accept_ra") for device in ("all", "eth0", "eth1")] == [
        "1",
        "2",
        "0",
    ]


@pytest.mark.parametrize(
    ("before", "after"), [("1 0", "7 7"), ("0 5", "0 7"), ("9 12", "7 12"), ("0 2147483647", "0 2147483647")]
)
def test_the_groups_that_may_ping_grow_to_ours(tmp_path: Path, before: str, after: str) -> None:
    tree = SysctlTree(tmp_path, ipv4__ping_group_range=before)
    tree.sysctls.allow_ping(7)
    assert tree.get("ipv4/ping_group_range").split() == after.split()


def test_what_cannot_be_written_is_told_once_unless_it_is_fine(tmp_path: Path) -> None:
    tree = SysctlTree(tmp_path, ipv4__ip_forward="0")

    class ReadOnly(Sysctls):
        def _write(self, name: str, value: str) -> None:
            raise OSError(30, "Read-only file system")

    sysctls = ReadOnly(lambda text, details: tree.notes.append(text), tmp_path)
    for _ in range(3):
        sysctls.forward(ipv6=False)
    assert tree.notes == [
        "net.ipv4.ip_forward is 0 and cannot be written (Read-only file system); it must be 1"
    ]
    tree.put("ipv4/ip_forward", "1")
    SysctlTree(tmp_path).sysctls.forward(ipv6=False)
    assert len(tree.notes) == 1


def test_missing_settings_are_nothing_to_complain_about(tmp_path: Path) -> None:
    tree = SysctlTree(tmp_path)
    tree.sysctls.forward(ipv6=True)
    tree.sysctls.accept_replies("t-gone")
    tree.sysctls.move_reverse_path_filter()
    assert tree.notes == []


# --- first values


@pytest.mark.root
def test_a_real_kernel_has_its_first_values_again(tmp_path: Path) -> None:
    """Forwarding changes other settings along with it: these too, also over a restart of the daemon."""
    namespace = Namespace("first")
    try:
        namespace.run("ip", "link", "add", "lan0", "type", "veth", "peer", "name", "lan1")
        namespace.run(
            "sysctl",
            "-qw",
            "net.ipv4.ip_forward=0",
            "net.ipv4.conf.lan0.forwarding=1",
            "net.ipv4.conf.all.accept_redirects=0",
            "net.ipv4.conf.all.rp_filter=1",
            "net.ipv4.conf.lan1.rp_filter=0",
            "net.ipv6.conf.all.forwarding=0",
            "net.ipv6.conf.lan1.forwarding=1",
            "net.ipv6.conf.lan0.accept_ra=1",
        )
        with namespace.entered():
            before = every_setting()
            for _ in range(2):
                sysctls = Sysctls(lambda *_: None, first=ChangedSysctls(tmp_path))
                sysctls.move_reverse_path_filter()
                sysctls.open_host(ipv6=True, tunnels=(), accounting=True)
            during = every_setting()
            lines = put_back(ChangedSysctls(tmp_path))
            after = every_setting()
        assert during["ipv4/ip_forward"] == "1" != before["ipv4/ip_forward"]
        assert {name for name in during if during[name] != before[name]} >= {
            "ipv4/ip_forward",
            "ipv4/conf/lan1/forwarding",
            "ipv4/conf/all/rp_filter",
            "ipv6/conf/all/forwarding",
        }
        assert after == before
        assert "put back net.ipv4.ip_forward = 0 (was 1)" in lines
        with namespace.entered():
            assert put_back(ChangedSysctls(tmp_path)) == []
    finally:
        namespace.remove()


def every_setting() -> dict[str, str]:
    """The forwarding, filters, redirects and so on of this network namespace."""
    root = Path("/proc/sys/net")
    found = {}
    for path in sorted(root.glob("ip*/**/*")):
        with contextlib.suppress(OSError):
            if path.is_file() and path.parent.name != "route":
                found[str(path.relative_to(root))] = path.read_text().strip()
    return found


def test_what_somebody_else_has_set_since_stays(tmp_path: Path) -> None:
    first = ChangedSysctls(tmp_path)
    tree = SysctlTree(tmp_path / "net", ipv4__ip_forward="0", ipv4__ping_group_range="1\t0")
    sysctls = Sysctls(lambda *_: None, tree.root, first)
    sysctls.forward(ipv6=False)
    sysctls.allow_ping(7)
    tree.put("ipv4/ping_group_range", "0\t100")
    assert put_back(ChangedSysctls(tmp_path), tree.root) == [
        "kept net.ipv4.ping_group_range = 0\t100: another program has set it (before facilitator: 1\t0)",
        "put back net.ipv4.ip_forward = 0 (was 1)",
    ]
    assert (tree.get("ipv4/ip_forward"), tree.get("ipv4/ping_group_range")) == ("0", "0\t100")


def test_another_boot_id_of_this_very_boot_is_none(tmp_path: Path) -> None:
    """As a service and an administrator of a container may see it."""
    tree = SysctlTree(tmp_path / "net", ipv4__ip_forward="0")
    Sysctls(lambda *_: None, tree.root, ChangedSysctls(tmp_path)).forward(ipv6=False)
    file = tmp_path / NAME
    file.write_text(file.read_text().replace(boot_id(), "of the container"))
    put_back(ChangedSysctls(tmp_path), tree.root)
    assert tree.get("ipv4/ip_forward") == "0"
    assert not file.exists()


def test_a_reboot_has_put_everything_back_already(tmp_path: Path) -> None:
    tree = SysctlTree(tmp_path / "net", ipv4__ip_forward="0")
    Sysctls(lambda *_: None, tree.root, ChangedSysctls(tmp_path)).forward(ipv6=False)
    file = tmp_path / NAME
    file.write_text(file.read_text().replace(boot_id(), "an earlier boot"))
    os.utime(file, (0, 0))
    assert put_back(ChangedSysctls(tmp_path), tree.root) == []
    assert tree.get("ipv4/ip_forward") == "1"
