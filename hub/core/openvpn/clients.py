"""The clients of an OpenVPN server: the table of `status 3`, and what a login says of its client. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

MAX_VALUE_CHARS = 200  # of what is passed on of a variable
MAX_CLAIMS = 40  # of what a client says of itself
MAX_PASSWORD_CHARS = 4096  # OpenVPN's own limit (USER_PASS_LEN)
_CLAIM = re.compile(r"[IU]V_[A-Za-z0-9_]{1,40}", re.ASCII)
_DIGITS = re.compile(r"[0-9]{1,9}", re.ASCII)
MAX_PORT = 65535
_TABLE = "CLIENT_LIST"


@dataclass(frozen=True, slots=True)
class ClientRow:
    """A client as the server lists it; `address` is empty while its login is not complete."""

    cid: int
    name: str  # the common name of its certificate
    real: str  # IP:port
    address: str
    received: int  # bytes from the client
    sent: int


def client_rows(reply: Iterable[str]) -> Iterator[ClientRow]:
    """The clients in a reply to `status 3`. Columns are found by the header's names; a row that does not
    parse is left out.
    """
    columns: list[str] = []
    for line in reply:
        first, *fields = line.split("\t")
        if first == "HEADER" and fields[:1] == [_TABLE]:
            columns = fields[1:]
        elif first == _TABLE:
            row = _row(dict(zip(columns, fields, strict=False)))
            if row is not None:
                yield row


def _row(fields: Mapping[str, str]) -> ClientRow | None:
    try:
        return ClientRow(
            cid=int(fields["Client ID"]),
            name=fields["Common Name"],
            # OpenVPN 2.7 puts the protocol before the address
            real=re.sub(r"^(?:udp|tcp)[46]?(?:-server)?:", "", fields["Real Address"]),
            address=fields["Virtual Address"],
            received=int(fields["Bytes Received"]),
            sent=int(fields["Bytes Sent"]),
        )
    except (KeyError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class ClientFacts:
    """What a CONNECT or REAUTH says: the certificate was verified by OpenVPN, `claims` are the client's own
    words.
    """

    person: str  # common name of the certificate
    serial: str  # of the certificate, in hexadecimal digits
    digest: str  # SHA-256 of the certificate
    real: str  # IP:port, IPv6 in brackets
    flags: int  # IV_PROTO
    claims: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    password: str = field(default="", repr=False)
    token_state: str = ""  # of `auth-gen-token external-auth`: Initial, Authenticated, Expired, ...

    @property
    def understands(self) -> frozenset[str]:
        """How it can be asked a question (IV_SSO)."""
        return frozenset(self.claims.get("IV_SSO", "").split(","))


def client_facts(env: Mapping[str, str]) -> ClientFacts:
    """From the variables of a CONNECT or REAUTH."""
    claims = {name: _short(value) for name, value in env.items() if _CLAIM.fullmatch(name)}
    flags = claims.get("IV_PROTO", "")
    return ClientFacts(
        person=_short(env.get("common_name", "")),
        serial=_short(env.get("tls_serial_hex_0", "")),
        digest=_short(env.get("tls_digest_sha256_0", "")),
        real=_real(env),
        flags=int(flags) if _DIGITS.fullmatch(flags) else 0,
        claims=dict(sorted(claims.items())[:MAX_CLAIMS]),
        user=_short(env.get("username", "")),
        password=env.get("password", "")[:MAX_PASSWORD_CHARS],
        token_state=_short(env.get("session_state", "")),
    )


def address_and_port(real: str) -> tuple[str, int]:
    """The two parts of `IP:port`, without brackets; port 0 where there is none."""
    address, colon, port = real.rpartition(":")
    if not colon or not _DIGITS.fullmatch(port) or int(port) > MAX_PORT:
        return real, 0
    return address.removeprefix("[").removesuffix("]"), int(port)


def _real(env: Mapping[str, str]) -> str:
    for kind in ("trusted", "untrusted"):
        port = env.get(f"{kind}_port", "")
        if (address := env.get(f"{kind}_ip", "")) and port:
            return f"{_short(address)}:{_short(port)}"
        if (address := env.get(f"{kind}_ip6", "")) and port:
            return f"[{_short(address)}]:{_short(port)}"
    return ""


def _short(value: str) -> str:
    """Without control characters, and of a bounded length."""
    return "".join(letter for letter in value[:MAX_VALUE_CHARS] if letter.isprintable())
