"""The VPN kinds that the daemon can run: one package and one line each."""

from collections.abc import Mapping
from types import MappingProxyType

from tunnels.base import AnyKind
from tunnels.kinds.command.kind import COMMAND
from tunnels.kinds.openconnect.kind import OPENCONNECT
from tunnels.kinds.openfortivpn.kind import OPENFORTIVPN
from tunnels.kinds.openvpn.kind import OPENVPN
from tunnels.kinds.sshuttle.kind import SSHUTTLE
from tunnels.kinds.strongswan.kind import STRONGSWAN
from tunnels.kinds.vpnc.kind import VPNC
from tunnels.kinds.wireguard.kind import WIREGUARD

KINDS: Mapping[str, AnyKind] = MappingProxyType(
    {
        "command": COMMAND,
        "openconnect": OPENCONNECT,
        "openfortivpn": OPENFORTIVPN,
        "openvpn": OPENVPN,
        "sshuttle": SSHUTTLE,
        "strongswan": STRONGSWAN,
        "vpnc": VPNC,
        "wireguard": WIREGUARD,
    }
)
