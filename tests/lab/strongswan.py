"""The customer's IPsec gateway: a real strongSwan, for vpnc (IKEv1, aggressive mode, XAuth) and for
strongSwan (IKEv2, three logins).
"""

from __future__ import annotations

import re
import subprocess
import textwrap
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from tests.lab.pki import Authority
from tests.lab.servers import PASSWORD, Server
from tests.netns import Namespace
from tunnels.kinds.strongswan.syntax import Tree, render

USER, GROUP, GROUP_SECRET, PRESHARED_KEY = (
    "svc-facilitator",
    "staff",
    "everybody knows this one",
    "correct battery staple",
)
SITE = "10.79.97.200"
_PLUGINS = (
    "random nonce openssl pem pkcs1 pkcs8 x509 pubkey constraints hmac sha1 sha2 md5 aes gmp kdf xcbc "
    "fips-prf kernel-libipsec"
    " kernel-netlink socket-default vici xauth-generic eap-mschapv2 eap-identity"
)
_VERDICTS = re.compile(
    r"XAuth authentication of '[^']*' (?P<xauth>successful|failed)"
    r"|EAP method EAP_MSCHAPV2 (?P<eap>succeeded|failed) for peer"
    r"|tried \d+ shared keys? for '[^']*' - '(?P<psk>[^']*)', but MAC mismatched"
)


class StrongSwanServer(Server):
    """Gives addresses of 10.79.96.0/24 to vpnc and of 10.79.97.0/24 to IKEv2; carries packets in user
    space.
    """

    def __init__(
        self,
        namespace: Namespace,
        directory: Path,
        authority: Authority,
        address: IPv4Address,
        patient: bool = False,
    ) -> None:
        """`patient`: it gives up a silent client after 165 s, as strongSwan itself does, instead of 6 s."""
        self.address, self.authority = address, authority
        self.folder = directory / "strongswan"
        for name in ("x509ca", "x509", "private"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.uri = f"unix://{self.folder}/vici"
        (self.folder / "strongswan.conf").write_text(_daemon(self.uri, patient))
        identity = authority.issue("gateway.example.net", "serverAuth")
        (self.folder / "x509ca/ca.pem").write_text(authority.root.certificate.read_text())
        (self.folder / "x509/gateway.pem").write_text(identity.certificate.read_text())
        (self.folder / "private/gateway.pem").write_text(identity.key.read_text())
        argv = ("env", f"STRONGSWAN_CONF={self.folder}/strongswan.conf", "/usr/sbin/charon-systemd")
        super().__init__(namespace, directory, "strongswan", argv, "spawning 16 worker threads")
        self._password, self._pool = PASSWORD, "10.79.97.0/24"
        self._rekeying: dict[str, int] = {}

    def start(self) -> None:
        """Start it and load its configuration."""
        super().start()
        self._load()

    def change_password(self, password: str) -> None:
        """What the server accepts from now on, of vpnc and of EAP."""
        self._password = password
        self._load()

    def assign(self, pool: str) -> None:
        """The network of the addresses that IKEv2 clients get from now on."""
        self._pool = pool
        self._load()

    def rekey(self, name: str, seconds: int) -> None:
        """Sessions of this connection that begin from now on get new keys so often, of IKE and of ESP."""
        self._rekeying[name] = seconds
        self._load()

    def rekeyed(self, name: str) -> int:
        """How often IKE SAs of this connection were replaced so far."""
        return len(re.findall(rf"IKE_SA {name}\[\d+\] rekeyed between", self._said))

    @property
    def children_rekeyed(self) -> int:
        """How often child SAs were replaced so far, of all connections."""
        return len(re.findall(r"outbound CHILD_SA \S+ established", self._said))

    @property
    def _said(self) -> str:
        return self.log.read_text(errors="replace")

    def end_sessions(self, *names: str) -> None:
        """An administrator ends every session, or those of the connections named: the clients are told."""
        for name in names or ("xauth", "psk", "eap", "certificate"):
            self._swanctl("--terminate", "--ike", name, check=False)

    def end_child(self, name: str) -> None:
        """Delete the child SAs of this connection; its IKE SAs stay."""
        self._swanctl("--terminate", "--child", "datacentre", "--ike", name)

    def create_child(self, name: str) -> None:
        """Create a child SA in the IKE SA of this connection."""
        self._swanctl("--initiate", "--child", "datacentre", "--ike", name)

    @property
    def attempts(self) -> list[str]:
        """The logins judged since the server's start, each `accepted` or `refused`; of pre-shared keys
        only the refused ones.
        """
        verdicts = (match["xauth"] or match["eap"] or "failed" for match in _VERDICTS.finditer(self._said))
        return ["accepted" if verdict.startswith("succe") else "refused" for verdict in verdicts]

    def _load(self) -> None:
        tree = _connections(self.address, self._password, self._pool)
        for name, seconds in self._rekeying.items():
            add_rekeying(tree["connections"][name], seconds)
        (self.folder / "swanctl.conf").write_text(render(tree))
        self._swanctl("--load-all", "--noprompt", "--file", str(self.folder / "swanctl.conf"))

    def _swanctl(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.namespace.run("swanctl", *arguments, "--uri", self.uri, check=check)

    # --- what the customer's administrator sends us
    # -----------------------------------------------------------------------------

    def vpnc_config(self) -> str:
        """A vpnc configuration without secrets; with lines that only suit a person's laptop."""
        return textwrap.dedent(f"""\
            IPSec gateway {self.address}
            IPSec ID {GROUP}
            Xauth username {USER}
            NAT Traversal Mode force-natt
            Script /usr/share/vpnc-scripts/vpnc-script
            Interface name vpn0
            Local Port 500
            """)

    def swanctl_config(self, how: str = "psk") -> str:
        """A swanctl.conf without secrets that logs in with `psk`, `eap` (user and password) or
        `certificate`.
        """
        local = {
            "psk": "auth = psk\n id = facilitator@example.net",
            "eap": "auth = eap-mschapv2\n id = staff@example.net",
            "certificate": 'auth = pubkey\n certs = facilitator.pem\n id = "CN=svc-facilitator"',
        }[how]
        remote = (
            "auth = psk\n id = gateway@example.net"
            if how == "psk"
            else 'auth = pubkey\n id = "CN=gateway.example.net"'
        )
        return textwrap.dedent(f"""\
            connections {{
              acme {{
                version = 2
                remote_addrs = {self.address}
                vips = 0.0.0.0
                local {{ {local}
                }}
                remote {{ {remote}
                }}
                children {{
                  datacentre {{
                    remote_ts = 10.77.0.0/24
                    start_action = trap
                    updown = /usr/lib/ipsec/_updown iptables
                  }}
                }}
              }}
            }}
            """)

    def write_client_files(self, folder: Path) -> None:
        """What lies beside a swanctl.conf that needs certificates: the authority, and our certificate with
        its key.
        """
        client = self.authority.issue("svc-facilitator", "clientAuth")
        for name, source in (
            ("x509ca/ca", self.authority.root.certificate),
            ("x509/facilitator", client.certificate),
            ("private/facilitator", client.key),
        ):
            path = folder / f"{name}.pem"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            path.write_text(source.read_text())


def _daemon(uri: str, patient: bool) -> str:
    timeout, tries = (4.0, 5) if patient else (1.0, 2)
    return textwrap.dedent(f"""\
        charon-systemd {{
          load = {_PLUGINS}
          i_dont_care_about_security_and_use_aggressive_mode_psk = yes
          retransmit_timeout = {timeout}
          retransmit_tries = {tries}
          plugins {{
            vici {{
              socket = {uri}
            }}
            eap-mschapv2 {{
              fragment_size = 1024
            }}
          }}
          journal {{
            default = -1
          }}
          filelog {{
            stderr {{
              default = 1
            }}
          }}
        }}
        """)


def _site(address: IPv4Address, local: Tree) -> Tree:
    """For who brings his own address."""
    return {
        "version": "2",
        "local_addrs": str(address),
        "unique": "never",
        "local": local,
        "remote": {"auth": "psk", "id": "site@example.net"},
        "children": {"datacentre": {"local_ts": "10.77.0.0/24", "remote_ts": f"{SITE}/32"}},
    }


def add_rekeying(connection: Any, seconds: int) -> None:
    """Let this end of a connection (swanctl.conf) negotiate new keys so often, for IKE and for its children
    at the same moment: then charon sometimes forgets the child while it replaces the IKE SA, deletes it when
    its life is over, and creates another one.
    """
    connection |= {"rekey_time": f"{seconds}s", "rand_time": "0s", "over_time": f"{seconds}s"}
    for child in connection["children"].values():
        child |= {"rekey_time": f"{seconds}s", "rand_time": "0s", "life_time": f"{2 * seconds}s"}


def _connections(address: IPv4Address, password: str, pool: str) -> dict[str, Any]:
    gateway: Tree = {"auth": "pubkey", "certs": "gateway.pem", "id": "CN=gateway.example.net"}
    keys: Tree = {"auth": "psk", "id": "gateway@example.net"}
    return {
        "connections": {
            "xauth": _xauth(address),
            "psk": _ikev2(address, keys, {"auth": "psk", "id": "facilitator@example.net"}),
            "eap": _ikev2(
                address, gateway, {"auth": "eap-mschapv2", "id": "staff@example.net", "eap_id": "%any"}
            ),
            "site": _site(address, keys),
            "certificate": _ikev2(address, gateway, {"auth": "pubkey", "id": "CN=svc-facilitator"}),
        },
        "pools": {"xauth": {"addrs": "10.79.96.0/24"}, "ikev2": {"addrs": pool}},
        "secrets": {
            "ike-group": {"id": str(address), "id2": f"keyid:{GROUP}", "secret": GROUP_SECRET},
            "ike-psk": {"id": "facilitator@example.net", "id2": "site@example.net", "secret": PRESHARED_KEY},
            "eap-user": {"id": USER, "secret": password},
        },
    }


def _xauth(address: IPv4Address) -> Tree:
    return {
        "version": "1",
        "aggressive": "yes",
        "local_addrs": str(address),
        "proposals": "aes128-sha1-modp1024,aes256-sha1-modp1024",
        "pools": "xauth",
        "send_cert": "never",
        "encap": "yes",
        "unique": "never",
        "dpd_delay": "5s",
        "local": {"auth": "psk", "id": str(address)},
        "remote": {"auth": "psk", "id": f"keyid:{GROUP}"},
        "remote-xauth": {"auth": "xauth"},
        "children": {"net": {"local_ts": "0.0.0.0/0", "esp_proposals": "aes128-sha1,aes256-sha1"}},
    }


def _ikev2(address: IPv4Address, local: Tree, remote: Tree) -> Tree:
    return {
        "version": "2",
        "local_addrs": str(address),
        "pools": "ikev2",
        "unique": "never",
        "dpd_delay": "5s",
        "local": local,
        "remote": remote,
        "children": {"datacentre": {"local_ts": "10.77.0.0/24"}},
    }
