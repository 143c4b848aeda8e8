"""The VPN kinds that the daemon can run: one file and one line each."""

from collections.abc import Mapping
from types import MappingProxyType

from tunnels.base import AnyKind
from tunnels.command import COMMAND
from tunnels.openconnect import OPENCONNECT
from tunnels.openfortivpn import OPENFORTIVPN
from tunnels.openvpn import OPENVPN
from tunnels.sshuttle import SSHUTTLE
from tunnels.strongswan import STRONGSWAN
from tunnels.vpnc import VPNC
from tunnels.wireguard import WIREGUARD

KINDS: Mapping[str, AnyKind] = MappingProxyType({
    "command": COMMAND,
    "openconnect": OPENCONNECT,
    "openfortivpn": OPENFORTIVPN,
    "openvpn": OPENVPN,
    "sshuttle": SSHUTTLE,
    "strongswan": STRONGSWAN,
    "vpnc": VPNC,
    "wireguard": WIREGUARD,
})
