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
    ifconfig-nowarn inactive keepalive key key-direction key-method keysize link-mtu mode mssfix mtu-disc ncp-ciphers ncp-disable no-iv
    no-replay ns-cert-type opt-verify peer-fingerprint ping ping-exit ping-restart ping-timer-rem pkcs12 proto proto-force
    providers pull pull-filter push-peer-info rcvbuf remote remote-cert-eku remote-cert-ku remote-cert-tls
    remote-random-hostname reneg-bytes reneg-pkts reneg-sec replay-window rport secret session-timeout single-session sndbuf socket-flags
    socks-proxy static-challenge tcp-nodelay tcp-queue-limit tls-auth tls-cert-profile tls-cipher tls-ciphersuites tls-client tls-crypt
    tls-crypt-v2 tls-groups tls-timeout tls-version-max tls-version-min topology tran-window tun-max-mtu tun-mtu tun-mtu-extra txqueuelen
    use-prediction-resistance verify-hash verify-x509-name x509-track x509-username-field
""")

# What the daemon decides itself (process, interface, routes, names, logins, logs), what runs a program, and
# what is about other operating systems: left out of the profile.
OWNED_BY_DAEMON = _names("""
    allow-nonadmin allow-pull-fqdn allow-recursive-routing auth-nocache auth-retry auth-user-pass bind bind-dev block-ipv6
    block-outside-dns cd chroot client-connect client-crresponse client-disconnect connect-freq connect-retry
    connect-retry-max connect-timeout daemon dev dev-node dev-type dhcp-option dhcp-release dhcp-renew disable-dco dns
    down down-pre echo errors-to-stderr group hand-window ifconfig-noexec ip-win32 ipchange iproute keying-material-exporter lladdr
    learn-address local log log-append lport machine-readable-output management management-client management-client-auth
    management-client-group management-client-user management-external-cert management-external-key management-forget-disconnect
    management-hold management-log-cache management-query-passwords management-query-proxy management-query-remote management-signal
    management-up-down mark max-routes mlock mtu-test multihome mute mute-replay-warnings nice nobind prng passtos pause-exit
    persist-key persist-local-ip persist-remote-ip persist-tun plugin redirect-gateway redirect-private register-dns remap-usr1
    remote-random replay-persist resolv-retry route route-delay route-gateway route-ipv6 route-ipv6-gateway route-method route-metric
    route-noexec route-nopull route-pre-down route-up script-security server-poll-timeout service setcon setenv-safe shaper show-net-up
    status status-version suppress-timestamps syslog tap-sleep tls-exit tls-export-cert tmp-dir tun-ipv6 up up-delay up-restart user verb
    win-sys windows-driver writepid
""")

SERVER = "makes this a server; only client profiles can be run"
LOADS_CODE = "loads code into OpenVPN, which a customer's profile may not do"
SENT_TO_PROXY = (
    "names a file, whose first lines would be sent to the proxy; write the login into the profile, "
    "between <http-proxy-user-pass> and"
    " </http-proxy-user-pass>, and `auto` in place of the file"
)
REFUSED = MappingProxyType(
    {
        "config": "includes another file; put everything into one file",
        "server": SERVER,
        "server-bridge": SERVER,
        "server-ipv6": SERVER,
        "tls-server": SERVER,
        "ifconfig-pool": SERVER,
        "push": SERVER,
        "engine": LOADS_CODE,
        "pkcs11-providers": LOADS_CODE,
        "pkcs11-id": LOADS_CODE,
        "cryptoapicert": "is a Windows key store",
        "tls-verify": "runs a program to verify the server, and programs are not run; use verify-x509-name",
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
