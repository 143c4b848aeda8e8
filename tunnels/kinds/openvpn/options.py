"""Which options a customer's .ovpn may have: kept, owned by the daemon and left out, or refused with a reason
(man page openvpn(8) and the source of OpenVPN 2.6).
"""

from __future__ import annotations

from types import MappingProxyType


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# The connection and its cryptography: only the customer knows them.
KEPT = _names("""
    allow-compression askpass auth auth-token auth-token-user ca capath cert cipher client client-nat comp-lzo comp-noadapt compat-mode
    compress connection crl-verify data-ciphers data-ciphers-fallback disable-occ ecdh-curve explicit-exit-notify extra-certs fast-io float
    force-tls-key-material-export fragment http-proxy http-proxy-option http-proxy-user-pass ifconfig ifconfig-ipv6
    ifconfig-nowarn inactive keepalive key key-direction link-mtu max-packet-size mode mssfix mtu-disc ncp-ciphers
    no-replay ns-cert-type opt-verify peer-fingerprint ping ping-exit ping-restart ping-timer-rem pkcs12 proto proto-force
    providers pull pull-filter push-peer-info rcvbuf remote remote-cert-eku remote-cert-ku remote-cert-tls
    remote-random-hostname reneg-bytes reneg-pkts reneg-sec replay-window rport secret session-timeout single-session sndbuf socket-flags
    socks-proxy static-challenge tcp-nodelay tcp-queue-limit tls-auth tls-cert-profile tls-cipher tls-ciphersuites tls-client tls-crypt
    tls-crypt-v2 tls-groups tls-timeout tls-version-max tls-version-min topology tran-window tun-mtu tun-mtu-extra tun-mtu-max txqueuelen
    udp-mtu verify-hash verify-x509-name x509-track x509-username-field
""")

# Kept too, for the versions of OpenVPN that know them; the others are told to ignore them (2.6 has removed
# some, 2.7 insists on the last one where 2.6 does not know it).
SOME_VERSIONS = _names("""
    key-method keysize ncp-disable no-iv use-prediction-resistance allow-deprecated-insecure-static-crypto
""")

# What the daemon decides itself (process, interface, routes, names, logins, logs), what runs a program, what
# is about other operating systems, and what has no effect on a client: left out of the profile.
OWNED_BY_DAEMON = _names("""
    allow-nonadmin allow-pull-fqdn allow-recursive-routing auth-nocache auth-retry auth-user-pass bcast-buffers bind bind-dev block-ipv6
    block-outside-dns cd chroot client-connect client-crresponse client-disconnect connect-freq connect-freq-initial connect-retry
    connect-retry-max connect-timeout daemon dev dev-node dev-type dh dhcp-option dhcp-release dhcp-renew disable-dco dns
    down down-pre echo errors-to-stderr group hand-window hash-size http-proxy-override http-proxy-retry http-proxy-timeout
    ifconfig-noexec ip-remote-hint ip-win32 ipchange iproute key-derivation keying-material-exporter lladdr
    learn-address local log log-append lport machine-readable-output management management-client management-client-auth
    management-client-group management-client-user management-forget-disconnect
    management-hold management-log-cache management-query-passwords management-query-proxy management-query-remote management-signal
    management-up-down mark max-routes memstats mlock msg-channel mtu-test multihome mute mute-replay-warnings nice nobind parameter passtos
    pause-exit peer-id persist-key persist-local-ip persist-remote-ip persist-tun plugin preresolve prng protocol-flags push-continuation
    redirect-gateway redirect-private register-dns remap-usr1 remote-random replay-persist resolv-retry route route-delay route-gateway
    route-ipv6 route-ipv6-gateway route-method route-metric
    route-noexec route-nopull route-pre-down route-up script-security server-poll-timeout service setcon setenv-safe shaper show-net-up
    socks-proxy-retry status status-version suppress-timestamps syslog tap-sleep tls-exit tls-export-cert tmp-dir tun-ipv6 up up-delay
    up-restart user verb win-sys windows-driver writepid
""")

# Commands of the program openvpn, which are no options of a tunnel.
COMMANDS = _names("""
    genkey gremlin help mktun rmtun show-ciphers show-curves show-digests show-engines show-gateway show-groups
    show-pkcs11-ids show-pkcs11-objects show-pkcs11-slots show-tls test-crypto version
""")

SERVER = "makes this a server; only client profiles can be run"
LOADS_CODE = "loads code into OpenVPN, which a customer's profile may not do"
SMART_CARD = "has the private key on a smart card; ask for a key as a file"
KEY_ELSEWHERE = "leaves the private key with another program; ask for a key as a file"
SENT_TO_PROXY = (
    "names a file, whose first lines would be sent to the proxy; write the login into the profile, "
    "between <http-proxy-user-pass> and"
    " </http-proxy-user-pass>, and `auto` in place of the file"
)
_SERVER_OPTIONS = _names("""
    auth-gen-token auth-gen-token-secret auth-user-pass-optional auth-user-pass-verify ccd-exclusive client-cert-not-required
    client-config-dir client-to-client disable duplicate-cn ifconfig-ipv6-pool ifconfig-ipv6-push ifconfig-pool ifconfig-pool-linear
    ifconfig-pool-persist ifconfig-push ifconfig-push-constraint iroute iroute-ipv6 max-clients max-routes-per-client port-share
    push push-remove push-reset server server-bridge server-ipv6 stale-routes-check tls-crypt-v2-max-age
    tls-crypt-v2-verify tls-server username-as-common-name verify-client-cert vlan-accept vlan-pvid vlan-tagging
""")
_SMART_CARD_OPTIONS = _names("""
    pkcs11-cert-private pkcs11-id pkcs11-id-management pkcs11-id-type pkcs11-pin-cache pkcs11-private-mode
    pkcs11-protected-authentication pkcs11-sign-mode pkcs11-slot pkcs11-slot-type
""")
REFUSED = MappingProxyType(
    {
        **dict.fromkeys(_SERVER_OPTIONS, SERVER),
        **dict.fromkeys(_SMART_CARD_OPTIONS, SMART_CARD),
        "compat-names": "was removed in OpenVPN 2.5; ask for a current profile, with verify-x509-name",
        "config": "includes another file; put everything into one file",
        "cryptoapicert": "is a Windows key store; export certificate and key from it, and name the files",
        "engine": LOADS_CODE,
        "management-external-cert": KEY_ELSEWHERE,
        "management-external-key": KEY_ELSEWHERE,
        "no-name-remapping": "was removed in OpenVPN 2.5; ask for a current profile, with verify-x509-name",
        "pkcs11-providers": LOADS_CODE,
        "tls-remote": "was removed in OpenVPN 2.4; write the same name as: verify-x509-name NAME name",
        "tls-verify": "runs a program to verify the server, and programs are not run; use verify-x509-name",
    }
)

# What is left out and may matter: the end of a sentence about the option.
_PROGRAM = "no program of a profile is run"
_RESOLVERS = (
    "names are resolved as before; where staff need names of this site, their own resolver must forward them"
)
_OUR_END = "the source address and port are chosen by this host; if the customer's firewall expects a fixed one, tell them"
MAY_MATTER = MappingProxyType(
    {
        **dict.fromkeys(
            _names(
                "up down down-pre route-up route-pre-down ipchange client-connect client-disconnect plugin"
            ),
            _PROGRAM,
        ),
        **dict.fromkeys(_names("dhcp-option dns"), _RESOLVERS),
        **dict.fromkeys(_names("lport local bind bind-dev multihome"), _OUR_END),
        **dict.fromkeys(
            _names("redirect-gateway redirect-private"), "only the tunnel's destinations are routed into it"
        ),
        "shaper": "the bandwidth is not limited",
        "passtos": "the TOS field of packets is not copied",
        "mark": "the tunnel's packets carry the daemon's own mark",
        "http-proxy-override": "only http-proxy is used",
        "replay-persist": "replays are detected within one session only",
        "tls-export-cert": "the server's certificate is not written to disk",
    }
)

# All kept options that can name a file. The content goes into the text as a block; a passphrase is given when
# OpenVPN asks for it.
EMBEDDED = _names("ca cert crl-verify extra-certs key pkcs12 secret tls-auth tls-crypt tls-crypt-v2")
WITH_KEY_DIRECTION = _names("secret tls-auth")
# whose files are secrets
SECRETS = frozenset({"askpass", "key", "pkcs12", "secret", "tls-auth", "tls-crypt", "tls-crypt-v2"})
ASKPASS = "askpass"  # the content of its file is sent over the management socket
FOLDERS = _names("capath")
# kept options that can be a block
BLOCKS = EMBEDDED | _names("connection http-proxy-user-pass peer-fingerprint verify-hash")
# in place of a file name: the block with the content is elsewhere in the profile
INLINE = frozenset({"[inline]", "[[INLINE]]"})
# in place of a file name with the login for an HTTP proxy: asked for on the management socket
PROXY_LOGIN_PROMPTS = frozenset({"auto", "auto-nct", "stdin"})
# by name only: a path would load any library
SAFE_PROVIDERS = frozenset({"base", "default", "fips", "legacy"})
