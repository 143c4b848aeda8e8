"""Recognises what a file is that was sent in place of the right one, and says what to do: formats of other
clients, web pages, archives, keys, and templates that nobody has filled in.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass


class ProfileFormat(enum.Enum):
    """A format that some kind reads."""

    OPENVPN = "an OpenVPN profile (.ovpn)"
    WIREGUARD = "a WireGuard configuration"
    SWANCTL = "a swanctl.conf of strongSwan"
    VPNC = "a configuration of vpnc"
    PCF = "a profile of Cisco's old VPN Client (.pcf)"
    OPENFORTIVPN = "a configuration of openfortivpn"
    IPSEC_CONF = "an ipsec.conf, strongSwan's old format"


@dataclass(frozen=True, slots=True)
class Recognised:
    """What a text is instead of what was wanted."""

    sentence: str
    line: int


_ASK = "ask for {wanted}"
_BESIDE = "put it beside {wanted}, which names it"
_OTHER_KIND = "set kind: {kind} for this tunnel, or ask for {wanted}"

# --- by the first bytes
# ------------------------------------------------------------------------------------------------------------

_UNPACK = "unpack it, and name the profile inside"
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", f"this is a zip archive; {_UNPACK}"),
    (b"\x1f\x8b", f"this is a gzip archive; {_UNPACK}"),
    (b"7z\xbc\xaf\x27\x1c", f"this is a 7-Zip archive; {_UNPACK}"),
    (b"Rar!\x1a\x07", f"this is a RAR archive; {_UNPACK}"),
    (b"BZh", f"this is a bzip2 archive; {_UNPACK}"),
    (b"\xfd7zXZ\x00", f"this is an xz archive; {_UNPACK}"),
    (b"%PDF-", "this is a PDF document; ask for the profile itself as a file"),
    (b"\xd0\xcf\x11\xe0", "this is a Microsoft Office document or installer; ask for the profile as text"),
    (
        b"MZ",
        "this is a Windows program, most likely an installer with the profile inside; ask for the profile",
    ),
    (b"\x89PNG", "this is a picture (PNG); a QR code holds a profile: ask for the file itself"),
    (b"\xff\xd8\xff", "this is a picture (JPEG); ask for the profile itself as a file"),
    (b"\x7fELF", "this is a Linux program; ask for the profile itself"),
    (b"SQLite format 3", "this is a database; ask for the profile itself"),
)
_DER = re.compile(rb"\x30[\x80-\x84]", re.DOTALL)
_PKCS12 = re.compile(rb"\x30[\x80-\x84].{0,4}\x02\x01\x03", re.DOTALL)  # SEQUENCE, version 3 (RFC 7292)


def recognised_bytes(data: bytes) -> str | None:
    """What these bytes are, if they are certainly no text; None: they may be text."""
    for magic, sentence in _MAGIC:
        if data.startswith(magic):
            return sentence
    if data[257:262] == b"ustar":
        return f"this is a tar archive; {_UNPACK}"
    if _PKCS12.match(data):
        return "this is a PKCS#12 file (.p12, .pfx) with certificate and key; it belongs beside the profile"
    if _DER.match(data):
        return (
            "this is a certificate or key in binary form (DER); "
            "convert it: openssl x509 -inform DER -in FILE -out FILE.pem"
        )
    return None


# --- by the text
# ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Signature:
    """How a format is known: each pattern matches somewhere (at the start of a line, letter case ignored)."""

    what: str
    remedy: str  # {wanted} is the format that was expected
    patterns: tuple[re.Pattern[str], ...]
    format: ProfileFormat | None = None
    beginning: bool = False  # the first pattern must match where the text begins


def _signature(
    what: str, remedy: str, *patterns: str, format: ProfileFormat | None = None, beginning: bool = False
) -> _Signature:
    compiled = tuple(re.compile(rf"^[ \t]*(?:{each})", re.MULTILINE | re.IGNORECASE) for each in patterns)
    return _Signature(what, remedy, compiled, format, beginning)


# The first that matches counts, so the more particular ones come first.
_SIGNATURES = (
    _signature(
        "a web page (HTML), most likely the login page of a portal",
        "log in there with a browser and download the profile again",
        r"<!doctype html|<html|<head|<script",
        beginning=True,
    ),
    _signature(
        "an Apple configuration profile (.mobileconfig)",
        _ASK,
        r"<!doctype plist|<plist|(?s:<\?xml.{0,200}<!doctype plist)",
        beginning=True,
    ),
    _signature(
        "a profile of Cisco's AnyConnect (XML)",
        "set kind: openconnect and server: to its HostAddress",
        r"(?s:(?:<\?xml.{0,400})?<AnyConnectProfile)",
        beginning=True,
    ),
    _signature(
        "a profile of the Azure VPN Client (XML)",
        "download the package for OpenVPN or IKEv2 with certificates instead, and name the file in it",
        r"(?s:(?:<\?xml.{0,200})?<AzVpnProfile)",
        beginning=True,
    ),
    _signature(
        "a configuration of FortiClient (XML)",
        "set kind: openconnect with protocol: fortinet and server: to its address",
        r"(?s:(?:<\?xml.{0,200})?<forticlient_configuration)",
        beginning=True,
    ),
    _signature("an XML file", _ASK, r"<\?xml", beginning=True),
    _signature(
        "a network configuration of ChromeOS (.onc)",
        _ASK,
        r'(?s:\{.{0,4000}"(?:NetworkConfigurations|Type"\s*:\s*"(?:Un)?[Ee]ncryptedConfiguration))',
        beginning=True,
    ),
    _signature("a JSON file", _ASK, r'\{\s*(?:"|\})|\[\s*\{', beginning=True),
    _signature("a document in RTF", "save it as plain text (UTF-8)", r"\{\\rtf", beginning=True),
    _signature(
        "an e-mail",
        "take the attachment out of it",
        r"(?:Received|Return-Path|MIME-Version): ",
        beginning=True,
    ),
    _signature(
        ProfileFormat.PCF.value,
        "set kind: vpnc with IPSec gateway (its Host), IPSec ID (GroupName) and group_secret",
        r"\[main\]",
        r"!?(?:Host|GroupName|enc_GroupPwd|AuthType)\s*=",
        format=ProfileFormat.PCF,
    ),
    _signature(
        ProfileFormat.WIREGUARD.value,
        _OTHER_KIND.replace("{kind}", "wireguard"),
        r"\[Interface\]|\[Peer\]",
        r"(?:PrivateKey|PublicKey)\s*=",
        format=ProfileFormat.WIREGUARD,
    ),
    _signature(
        "a connection of NetworkManager",
        "export it there as the client's own file: nmcli connection export NAME",
        r"\[connection\]",
        r"\[(?:vpn|ipv4|wireguard)\]",
    ),
    _signature("a phone book of Windows (.pbk)", _ASK, r"PBVersion="),
    _signature("a remote desktop file (.rdp)", _ASK, r"full address:s:"),
    _signature("a link of Windows (.url)", "open it, and download what it leads to", r"\[InternetShortcut\]"),
    _signature(
        ProfileFormat.IPSEC_CONF.value,
        "write it as swanctl.conf (docs.strongswan.org: Migrating from ipsec.conf to swanctl.conf); "
        "set kind: strongswan",
        r"(?:conn|ca)[ \t]+\S+|config[ \t]+setup",
        r"(?:left|right|keyexchange|also|ike|esp|authby|auto)\w*[ \t]*=|config[ \t]+setup",
        format=ProfileFormat.IPSEC_CONF,
    ),
    _signature(
        "an ipsec.secrets, with a key in it",
        "put the key alone into a file, and name it as psk:",
        r"(?:[^#\s][^#\n]*)?:[ \t]*(?:PSK|RSA|EAP|XAUTH|ECDSA)[ \t]+\S",
    ),
    _signature(
        "a configuration of racoon",
        _ASK,
        r"remote[ \t]+\S+[ \t]*\{|sainfo[ \t]",
        r"exchange_mode|pfs_group|encryption_algorithm|proposal",
    ),
    _signature(
        ProfileFormat.SWANCTL.value,
        _OTHER_KIND.replace("{kind}", "strongswan"),
        r"connections[ \t]*\{|connections\.\w|secrets[ \t]*\{",
        format=ProfileFormat.SWANCTL,
    ),
    _signature(
        ProfileFormat.VPNC.value,
        _OTHER_KIND.replace("{kind}", "vpnc"),
        r"IPSec (?:gateway|ID)\b",
        format=ProfileFormat.VPNC,
    ),
    _signature(
        "the configuration of a router",
        _ASK,
        r"crypto (?:map|isakmp|ikev2|ipsec)\b|tunnel-group \S|config vpn (?:ipsec|ssl)|set security (?:ike|ipsec)|"
        r"/ip ipsec|set vpn ipsec",
    ),
    _signature(
        ProfileFormat.OPENFORTIVPN.value,
        "set kind: openfortivpn, with server: and login: of this tunnel",
        r"host[ \t]*=",
        r"trusted-cert[ \t]*=|realm[ \t]*=|username[ \t]*=",
        format=ProfileFormat.OPENFORTIVPN,
    ),
    _signature(
        "a configuration of ssh",
        "set kind: sshuttle with remote: USER@HOST",
        r"Host[ \t]+\S",
        r"HostName[ \t]+\S|IdentityFile[ \t]+\S|ProxyJump[ \t]+\S",
    ),
    _signature(
        ProfileFormat.OPENVPN.value,
        _OTHER_KIND.replace("{kind}", "openvpn"),
        r"(?:remote|proto|dev|dev-type|ifconfig|tls-remote)[ \t]+\S|client[ \t]*$|<(?:ca|connection)>",
        r"(?:dev|proto|client|tls-client|remote-cert-tls|cipher|auth-user-pass|verb|ca|secret|nobind)\b|<ca>|<secret>",
        format=ProfileFormat.OPENVPN,
    ),
    _signature(
        "a private key of PuTTY",
        "convert it: puttygen FILE -O private-openssh -o NEW",
        r"PuTTY-User-Key-File-",
        beginning=True,
    ),
    _signature("an encrypted message (PGP)", "decrypt it first", r"-----BEGIN PGP MESSAGE", beginning=True),
    _signature("a private key", _BESIDE, r"-----BEGIN [A-Z ]*PRIVATE KEY", beginning=True),
    _signature("a static key of OpenVPN", _BESIDE, r"-----BEGIN OpenVPN ", beginning=True),
    _signature("a certificate", _BESIDE, r"-----BEGIN [A-Z0-9 ]+-----", beginning=True),
    _signature("a public key of ssh", _ASK, r"(?:ssh|ecdsa)-\S+ AAAA", beginning=True),
    _signature("a script", "ask for {wanted} that it makes or uses", r"#!", beginning=True),
    _signature(
        "a web address, not a file",
        "download what it leads to",
        r"(?:https?|openvpn|ss|vless)://\S+\s*\Z",
        beginning=True,
    ),
)


def recognised_text(text: str, wanted: ProfileFormat) -> Recognised | None:
    """What a text is, if it is not in the wanted format and is known for another."""
    own = next(each for each in _SIGNATURES if each.format is wanted)
    if _match_of(own, text) is not None:
        return None
    for signature in _SIGNATURES:
        if (at := _match_of(signature, text)) is not None:
            remedy = signature.remedy.replace("{wanted}", wanted.value)
            return Recognised(f"this is {signature.what}; {remedy}", text.count("\n", 0, at) + 1)
    return None


def identified(text: str) -> ProfileFormat | str | None:
    """The format of a text; a sentence if it is one that no kind reads; None: nobody knows it."""
    for signature in _SIGNATURES:
        if _match_of(signature, text) is not None:
            return signature.format or f"this is {signature.what}"
    return None


def _match_of(signature: _Signature, text: str) -> int | None:
    """Where the format's first pattern matches, if all do."""
    if signature.beginning:
        text_begins = len(text) - len(text.lstrip())
        found = signature.patterns[0].match(text, text_begins) if text_begins < len(text) else None
        return None if found is None else found.start()
    matches = [each.search(text) for each in signature.patterns]
    first = matches[0]
    return first.start() if first is not None and None not in matches else None


# --- values
# ------------------------------------------------------------------------------------------------------------

_PLACEHOLDER = re.compile(
    r"<[A-Za-z][^<>]*>|\[(?=[A-Za-z])[^\[\]:]*\]|\{\{.*\}\}|\$\{?[A-Za-z_]+\}?|%[A-Za-z_]+%|@@?[A-Z_]+@@?|__\w+__"
    r"|(?i:.*\b_*your[_ -]?(?:own[_ -]?)?(?:server|vpn|public|private|pre|key|ip|host|address|domain|gateway|"
    r"endpoint|name|user|fqdn|port|peer|psk|secret|password)(?![a-z]).*)"
    r"|(?i:.*\b(?:change|replace|edit|fix)[_-]?(?:me|this)\b.*)|(?i:(?:replace|insert|enter|put|fill)[_-].*here.*)"
    r"|(?i:x{1,3}(?:\.x{1,3}){3})|[A-Z]+(?:_[A-Z]+)+|(?i:x{3,10})|\.\.\.|my-server-\d|(?i:to[_-]?do|tbd|placeholder)"
)


_REAL_DOMAIN = ".your-server.de"  # of a large provider: its servers' names end so


def placeholder(value: str) -> bool:
    """Whether a value (host, key, name) is one that a template leaves to be filled in."""
    text = value.strip()
    return _PLACEHOLDER.fullmatch(text) is not None and not text.lower().endswith(_REAL_DOMAIN)


def windows_path(name: str) -> bool:
    """Whether a file name is a path of Windows: C:\\..., \\\\server\\..., or folders\\name."""
    return re.match(r"[A-Za-z]:[\\/]|\\\\|[^/\\]+\\[^/]+$", name) is not None


class Pem(enum.Enum):
    """What a PEM text can hold (RFC 7468, and OpenVPN's own)."""

    CERTIFICATE = "a certificate"
    PRIVATE_KEY = "a private key"
    STATIC_KEY = "an OpenVPN static key"
    TLS_CRYPT_V2 = "an OpenVPN tls-crypt-v2 client key"
    TLS_CRYPT_V2_SERVER = "the server's own tls-crypt-v2 key"
    REVOCATION_LIST = "a revocation list"
    REQUEST = "a certificate request, which nobody has signed yet"
    PUBLIC_KEY = "a public key"
    PKCS7 = "a PKCS#7 bundle"


# by the end of the label; the first counts
_LABELS = (
    ("CERTIFICATE REQUEST", Pem.REQUEST),
    ("CERTIFICATE", Pem.CERTIFICATE),
    ("PRIVATE KEY", Pem.PRIVATE_KEY),
    ("PUBLIC KEY", Pem.PUBLIC_KEY),
    ("OpenVPN Static key V1", Pem.STATIC_KEY),
    ("OpenVPN tls-crypt-v2 client key", Pem.TLS_CRYPT_V2),
    ("OpenVPN tls-crypt-v2 server key", Pem.TLS_CRYPT_V2_SERVER),
    ("X509 CRL", Pem.REVOCATION_LIST),
    ("PKCS7", Pem.PKCS7),
    ("CMS", Pem.PKCS7),
)
_BEGIN = re.compile(r"^[ \t]*-----BEGIN ([^\n]+?)-----", re.MULTILINE)
_BEGIN_OR_END = re.compile(r"^[ \t]*-----(BEGIN|END) ([^\n]+?)-----", re.MULTILINE)


def pem_parts(text: str) -> Iterator[Pem]:
    """What a PEM text holds, in order; unknown labels are left out."""
    for label in _BEGIN.findall(text):
        found = next((pem for end, pem in _LABELS if label.endswith(end)), None)
        if found is not None:
            yield found


def pem_problem(text: str, wanted: Pem) -> str | None:
    """Why a text does not hold what is wanted, as the end of a sentence about it; None: it does."""
    parts = list(pem_parts(text))
    if wanted not in parts:
        if placeholder(text.strip()) or not text.strip():
            return f"is not filled in; {wanted.value} belongs here, ask for it"
        if parts:
            return f"holds {parts[0].value} where {wanted.value} belongs"
        return f"holds no {wanted.value.partition(' ')[2]} in PEM form (-----BEGIN ...)"
    marks = _BEGIN_OR_END.findall(text)
    ends = [label for mark, label in marks if mark == "END"]
    if [label for mark, label in marks if mark == "BEGIN"] != ends:
        return "is cut off: an -----END ...----- line is missing; ask for it again"
    return None
