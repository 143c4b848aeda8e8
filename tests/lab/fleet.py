"""Two facilitators as one, with a router that speaks BGP and BFD, and a cluster of etcd.

    laptop -- hub (BIRD) -- switch -+- facilitator  (vpn1) -- transport -- customer, bastion
               |                    +- facilitator2 (vpn2) -- transport
               +-- engine (etcd, three nodes)

The hub is the cloud router: it has no static route to a destination, only what the members announce.
"""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from tests.lab import network as net
from tests.lab.config import Config
from tests.lab.daemon import LabDaemon
from tests.lab.lab import Lab
from tests.lab.servers import Server
from tests.lab.wait import eventually
from tests.netns import Namespace

ROUTER = IPv4Address("10.60.0.1")
ENGINE_NETWORK = "10.62.0.0/24"
ENDPOINTS = tuple(f"http://10.62.0.{number}:2379" for number in (11, 12, 13))
FLEET = "lab"


@dataclass(frozen=True, slots=True)
class LabMember:
    """One of the two facilitators."""

    name: str  # `facilitator.name`
    namespace: str
    address: IPv4Address  # on the network that the members share with the router
    address6: str
    uplink: IPv4Address
    port: str  # of the switch


VPN1 = LabMember(
    "vpn1", "facilitator", IPv4Address("10.60.0.2"), "fd00:60::2", net.FACILITATOR_UPLINK, "first"
)
VPN2 = LabMember(
    "vpn2", "facilitator2", IPv4Address("10.60.0.3"), "fd00:60::3", IPv4Address("198.51.100.6"), "second"
)
MEMBERS = (VPN1, VPN2)

_SWITCHED = (
    ("hub", "vpc", f"{ROUTER}/29", "switch", "router", ""),
    ("facilitator", "vpc", f"{VPN1.address}/29", "switch", VPN1.port, ""),
    ("facilitator2", "vpc", f"{VPN2.address}/29", "switch", VPN2.port, ""),
    ("facilitator2", net.UPLINK, f"{VPN2.uplink}/30", "transport", "fac2", "198.51.100.5/30"),
    ("hub", "engines", "10.62.0.1/24", "engine", "lan", "10.62.0.11/24"),
)


class FleetNetwork(net.LabNetwork):
    """The lab's namespaces with a second facilitator and a switch between the members and their router."""

    cables = (*(cable for cable in net.LabNetwork.cables if cable[:2] != ("hub", "vpc")), *_SWITCHED)
    addresses6 = (
        *net.LabNetwork.addresses6,
        ("facilitator2", "vpc", f"{VPN2.address6}/64"),
        ("facilitator2", net.UPLINK, "fd00:52::2/64"),
        ("transport", "fac2", "fd00:52::1/64"),
    )
    routes = (
        *(
            (name, destination, gateway)
            for name, destination, gateway in net.LabNetwork.routes
            if name != "hub"
        ),
        ("facilitator", ENGINE_NETWORK, str(ROUTER)),
        ("facilitator2", ENGINE_NETWORK, str(ROUTER)),
        ("facilitator2", str(net.STAFF), str(ROUTER)),
        ("facilitator2", "default", "198.51.100.5"),
        ("facilitator2", str(net.STAFF6), "fd00:60::1"),
        ("facilitator2", "::/0", "fd00:52::1"),
        ("engine", "10.60.0.0/29", "10.62.0.1"),
    )
    routers = (*net.LabNetwork.routers, "facilitator2")

    def _build(self) -> None:
        super()._build()
        switch = self["switch"]
        switch.run("ip", "link", "add", "bridge", "up", "type", "bridge")
        for port in ("router", *(member.port for member in MEMBERS)):
            switch.run("ip", "link", "set", port, "master", "bridge")
        for number in (12, 13):
            self["engine"].run("ip", "address", "add", f"10.62.0.{number}/24", "dev", "lan")
        self["hub"].run("nft", "-f", "-", input=_CUTS)


_CUTS = """
table inet cuts {
  set members { type ipv4_addr; }
  chain forward {
    type filter hook forward priority 0;
    iifname engines ip daddr @members drop;
    oifname engines ip saddr @members drop;
  }
}
"""


class FleetLab(Lab):
    """A lab with two facilitators: `with FleetLab() as lab`. Nothing of the fleet runs yet."""

    @staticmethod
    def make_network() -> net.LabNetwork:
        """With the second facilitator."""
        return FleetNetwork()

    def namespace_of(self, member: LabMember) -> Namespace:
        """Where a member lives."""
        return self.network[member.namespace]

    def member_configuration(self, member: LabMember, profile: str = "acme-shared.ovpn") -> Config:
        """The configuration of a member: both tunnels, the other member, and what it announces. `profile`:
        of the OpenVPN tunnel (`shared_server` allows several sessions of one certificate).
        """
        config = self.configuration()
        config["facilitator"]["name"] = member.name
        config["tunnels"]["acme-dc"]["config"] = str(self.directory / profile)
        config["fleet"] = {
            "name": FLEET,
            "members": {other.name: {"address": str(other.address)} for other in MEMBERS if other != member},
            "announce": {"bgp": {"table": 173, "preference": 100}},
        }
        return config

    def own_account(self, member: LabMember) -> str:
        """A profile with a certificate of this member: it gets the same address when it comes back."""
        profile = self.directory / f"acme-{member.name}.ovpn"
        profile.touch(mode=0o600)
        profile.write_text(self.openvpn.client_config(str(net.CUSTOMER), name=member.name))
        return profile.name

    def member_daemon(self, member: LabMember, config: Config) -> LabDaemon:
        """The facilitator of this member; not started."""
        return LabDaemon(self.namespace_of(member), self.directory, config)

    # --- its router and its speakers

    def router(self) -> Bird:
        """BIRD on the hub; not started."""
        return Bird(self.network["hub"], self.directory, "router", _ROUTER_CONFIG)

    def speaker(self, member: LabMember, config: str | None = None) -> Bird:
        """BIRD beside this member's daemon; not started. `config`: another text than the lab's own."""
        return Bird(
            self.namespace_of(member), self.directory, member.name, config or speaker_configuration(member)
        )

    @contextlib.contextmanager
    def routed(self) -> Iterator[Bird]:
        """BIRD runs on the hub and beside both members."""
        with contextlib.ExitStack() as running:
            router = self.router()
            for bird in (router, *(self.speaker(member) for member in MEMBERS)):
                bird.start()
                running.callback(bird.stop)
            router.wait_established(2 * len(MEMBERS))
            yield router

    def via(self, destination: object = net.DATACENTRE) -> IPv4Address | None:
        """The member to which the router sends this network now; None: to none."""
        words = self.network["hub"].run("ip", "route", "show", str(destination)).stdout.split()
        return IPv4Address(words[words.index("via") + 1]) if "via" in words else None

    def wait_via(self, member: LabMember | None, destination: object = net.DATACENTRE) -> None:
        """Wait until the router sends this network to this member, or to nobody."""
        wanted = member.address if member else None
        eventually(
            lambda: self.via(destination) == wanted, 20, f"{destination} leads to {member}", every=0.005
        )

    # --- faults

    @contextlib.contextmanager
    def silent(self, member: LabMember) -> Iterator[None]:
        """The member's VM is frozen: nothing leaves or reaches it meanwhile, and no link goes down."""
        self.silence(member)
        try:
            yield
        finally:
            self.revive(member)

    def silence(self, member: LabMember) -> None:
        """From now on nothing leaves or reaches this member."""
        self.network["switch"].run("bridge", "link", "set", "dev", member.port, "state", "0")
        self.network.blackhole(member.uplink)

    def revive(self, member: LabMember) -> None:
        """Its packets pass again."""
        self.network["switch"].run("bridge", "link", "set", "dev", member.port, "state", "3")
        self.network.unblock(member.uplink)

    @contextlib.contextmanager
    def cut_off(self, *members: LabMember) -> Iterator[None]:
        """These members do not reach the lock engine meanwhile; everything else works."""
        elements = f"inet cuts members {{ {', '.join(str(member.address) for member in members)} }}"
        self.network["hub"].run("nft", f"add element {elements}")
        try:
            yield
        finally:
            self.network["hub"].run("nft", f"delete element {elements}")

    # --- the lock engine

    def etcd(self) -> EtcdNodes:
        """Three nodes of etcd; not started."""
        return EtcdNodes(self.network["engine"], self.directory)


class Bird(Server):
    """One BIRD with its configuration."""

    def __init__(self, namespace: Namespace, directory: Path, name: str, config: str) -> None:
        file, self.socket = directory / f"bird-{name}.conf", directory / f"bird-{name}.ctl"
        file.write_text(config)
        argv = ("bird", "-f", "-c", str(file), "-s", str(self.socket), "-P", str(file.with_suffix(".pid")))
        super().__init__(namespace, directory, f"bird-{name}", argv, "Started")

    def ask(self, *words: str) -> str:
        """What birdc says."""
        return self.namespace.run("birdc", "-s", str(self.socket), *words).stdout

    def wait_established(self, sessions: int, within: float = 20.0) -> None:
        """Wait until so many BGP sessions are up."""
        eventually(
            lambda: self.ask("show", "protocols").count("Established") == sessions,
            within,
            f"{sessions} BGP sessions are up",
        )


class EtcdNodes:
    """Three nodes of etcd in one namespace, each with its own address."""

    def __init__(self, namespace: Namespace, directory: Path) -> None:
        peers = ",".join(f"n{number}=http://10.62.0.{number}:2380" for number in (11, 12, 13))
        self.nodes = [
            Server(
                namespace,
                directory,
                f"etcd-{number}",
                (
                    "etcd",
                    f"--name=n{number}",
                    f"--data-dir={directory}/etcd-{number}",
                    f"--listen-client-urls=http://10.62.0.{number}:2379",
                    f"--advertise-client-urls=http://10.62.0.{number}:2379",
                    f"--listen-peer-urls=http://10.62.0.{number}:2380",
                    f"--initial-advertise-peer-urls=http://10.62.0.{number}:2380",
                    f"--initial-cluster={peers}",
                    "--unsafe-no-fsync",
                ),
                "",
            )
            for number in (11, 12, 13)
        ]

    def __enter__(self) -> EtcdNodes:
        for node in self.nodes:
            node.start()
        eventually(lambda: self.leader() is not None, 20, "the cluster of etcd has a leader")
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            node.kill()

    def leader(self) -> Server | None:
        """The node that leads now."""
        done = self.nodes[0].namespace.run(
            "etcdctl", f"--endpoints={','.join(ENDPOINTS)}", "endpoint", "status", check=False
        )
        for line in done.stdout.splitlines():
            words = line.split(", ")
            if words[4] == "true":
                return self.nodes[ENDPOINTS.index(words[0])]
        return None

    def ctl(self, *words: str) -> str:
        """What etcdctl says."""
        return self.nodes[0].namespace.run("etcdctl", f"--endpoints={','.join(ENDPOINTS)}", *words).stdout

    def halt(self) -> None:
        """All nodes do nothing, until `go_on`."""
        for node in self.nodes:
            node.halt()

    def go_on(self) -> None:
        """They work again where they were."""
        for node in self.nodes:
            node.go_on()


_TIMES = "hold time 9; keepalive time 3; connect delay time 1; connect retry time 2; error wait time 1, 4;"
_BFD = (
    'protocol bfd { interface "vpc" '
    "{ min rx interval 100 ms; min tx interval 100 ms; multiplier 3; idle tx interval 300 ms; }; }"
)
# Without its own `error wait time` the router refuses a member for a minute after BFD has failed once.
_ROUTER_CONFIG = (
    textwrap.dedent("""\
    log stderr all;
    router id 10.60.0.1;
    protocol device { }
    protocol kernel { ipv4 { export where source = RTS_BGP; import none; }; }
    protocol kernel { ipv6 { export where source = RTS_BGP; import none; }; }
    filter announced { if (65535,0) ~ bgp_community then bgp_local_pref = 0; accept; }
    template bgp facilitator { local as 65000; bfd; passive; prefer older on; hold time 9; keepalive time 3; error wait time 1, 4; }
    """)
    + _BFD
    + "\n"
    + "".join(
        f"protocol bgp {member.name}_v4 from facilitator "
        f"{{ neighbor {member.address} as 65077; ipv4 {{ import filter announced; export none; }}; }}\n"
        f"protocol bgp {member.name}_v6 from facilitator "
        f"{{ neighbor {member.address6} as 65077; ipv6 {{ import filter announced; export none; }}; }}\n"
        for member in MEMBERS
    )
)


def speaker_configuration(member: LabMember) -> str:
    """The text of BIRD beside a member: what stands in table 173 is announced, the metric as MED."""
    export = "export filter { bgp_med = krt_metric; if krt_metric > 1000 then bgp_community.add((65535,0)); accept; };"
    families = "".join(
        textwrap.dedent(f"""\
        ipv{version} table announced{version};
        protocol kernel facilitator{version} {{
          kernel table 173; learn; persist; scan time 60;
          ipv{version} {{ table announced{version}; import where krt_source = 173; export none; }};
        }}
        protocol bgp upstream{version} {{
          local {address} as 65077; neighbor {router} as 65000; bfd; {_TIMES}
          ipv{version} {{ table announced{version}; import none; next hop self; {export} }};
        }}
        """)
        for version, address, router in ((4, member.address, ROUTER), (6, member.address6, "fd00:60::1"))
    )
    head = f"log stderr all;\nrouter id {member.address};\nprotocol device {{ scan time 1; }}\n"
    return f"{head}{_BFD}\n{families}"
