"""The VPN kinds that the daemon can run: one file and one line each."""

from collections.abc import Mapping
from types import MappingProxyType

from tunnels.base import AnyKind
from tunnels.openvpn import OPENVPN
from tunnels.sshuttle import SSHUTTLE

KINDS: Mapping[str, AnyKind] = MappingProxyType({
    "openvpn": OPENVPN,
    "sshuttle": SSHUTTLE,
})
