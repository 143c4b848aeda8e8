"""The strongswan.conf of the charon that runs one session. Pure.

path of its vici socket, routing table, retries -> configuration
"""

from __future__ import annotations

from pathlib import Path

RETRIES = 4  # of a packet: a dead gateway is given up after 10 s
RETRIES_WITH_PROBES = (
    9  # after 25 s: where probes judge the session, a silence of the network is to cost nothing
)
_NEVER = "0x7fabcdef/0xffffffff"  # no packet has this mark: for the moment until charon's rule is deleted
_PLUGINS = (
    "random nonce openssl pem pkcs1 pkcs7 pkcs8 pkcs12 x509 pubkey constraints revocation aes sha1 sha2 "
    "md5 mgf1 hmac kdf gcm xcbc cmac"
    " fips-prf gmp curve25519 chapoly kernel-libipsec kernel-netlink socket-default vici"
    " counters eap-identity eap-md5 eap-mschapv2 eap-gtc eap-tls eap-ttls xauth-generic"
)


def configuration(vici: Path, table: int, retries: int = RETRIES) -> str:
    """The strongswan.conf of a charon that shares this host with others and changes no routes or DNS."""
    return f"""\
charon-systemd {{
  load = {_PLUGINS}
  port = 0
  port_nat_t = 0
  install_routes = no
  process_route = no
  routing_table = {table}
  routing_table_prio = 32000
  retransmit_timeout = 1.0
  retransmit_base = 1.4
  retransmit_limit = 3
  retransmit_tries = {retries}
  i_dont_care_about_security_and_use_aggressive_mode_psk = yes
  plugins {{
    vici {{
      socket = "unix://{vici}"
    }}
    kernel-netlink {{
      fwmark = {_NEVER}
    }}
  }}
  journal {{
    default = -1
  }}
  filelog {{
    stderr {{
      default = 1
      job = 0
      net = 0
      enc = 0
      knl = 0
      flush_line = yes
    }}
  }}
}}
"""
