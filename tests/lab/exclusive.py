"""Two facilitators with exclusive tunnels of one certificate, for which the server allows one session."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from tests.lab.daemon import LabDaemon
from tests.lab.fleet import ENDPOINTS, MEMBERS, VPN1, VPN2, EtcdNodes, FleetLab, LabMember
from tests.lab.network import CUSTOMER
from tests.lab.servers import OpenVpnServer

TTL = 5.0
ACME, CLOUD = "acme-dc", "own-cloud"
_COUNTERS = """
table inet seen {
  counter vpn1 { }
  counter vpn2 { }
  chain forward {
    type filter hook forward priority 0;
    udp dport %d ip saddr %s counter name vpn1
    udp dport %d ip saddr %s counter name vpn2
  }
}
"""


@dataclass
class ExclusiveFleet:
    """Two members; acme-dc is exclusive, own-cloud is not."""

    lab: FleetLab
    cluster: EtcdNodes
    server: OpenVpnServer
    daemons: dict[LabMember, LabDaemon]

    def sent(self, member: LabMember) -> int:
        """Packets of this member's client that were on their way to the server."""
        said = self.lab.network["transport"].run("nft", "list", "counter", "inet", "seen", member.name).stdout
        return int(said.split("packets ")[1].split()[0])

    @property
    def logins(self) -> int:
        """Sessions that the server has begun so far."""
        return self.server.log.read_text().count("Peer Connection Initiated")

    def up(self, member: LabMember) -> bool:
        """Its exclusive tunnel is up."""
        return bool(self.daemons[member].tunnel(ACME)["phase"] == "up")

    def wait_up(self, member: LabMember, within: float = 20.0) -> None:
        """Its exclusive tunnel comes up."""
        self.daemons[member].wait_for(ACME, within, phase="up")

    def wait_waiting(self, member: LabMember) -> None:
        """Its exclusive tunnel waits for the lock."""
        self.daemons[member].wait_for(ACME, phase="backoff", reason="lock")


@contextlib.contextmanager
def exclusive_fleet() -> Iterator[ExclusiveFleet]:
    """Both members run, and the first one is logged in."""
    with FleetLab() as lab, contextlib.ExitStack() as running:
        server = OpenVpnServer(
            lab.network["customer"],
            lab.directory,
            lab.openvpn.authority,
            number=7,
            options=('push "ping 1"', 'push "ping-restart 6"'),
        )
        server.start()
        running.callback(server.stop)
        lab.set_secret("acme-single.ovpn", server.client_config(str(CUSTOMER)))
        cluster = running.enter_context(lab.etcd())
        counters = _COUNTERS % (server.port, VPN1.uplink, server.port, VPN2.uplink)
        lab.network["transport"].run("nft", "-f", "-", input=counters)
        daemons = {}
        for member in MEMBERS:
            config = lab.member_configuration(member, "acme-single.ovpn")
            config["fleet"]["lock"] = {"etcd": {"endpoints": list(ENDPOINTS), "ttl": f"{TTL:g}s"}}
            config["tunnels"][ACME]["exclusive"] = True
            daemons[member] = lab.member_daemon(member, config)
        daemons[VPN1].start()
        running.callback(daemons[VPN1].end)
        daemons[VPN1].wait_for(ACME, phase="up")
        daemons[VPN2].start()
        running.callback(daemons[VPN2].end)
        yield ExclusiveFleet(lab, cluster, server, daemons)
