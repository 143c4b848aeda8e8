"""The status of an OpenVPN server, versions 2 and 3 (`--status-version` in openvpn(8)), as a file has it and
as the management command `status 3` prints it.

A name that holds the separator makes a line of another length: such a line is left out. So nobody can take
the place of somebody else by choosing a user name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import ip_address

from supervisor.core.identity.book import BookReading, Holding, of_people
from supervisor.core.identity.words import is_name
from tunnels.networks import IPAddress

MAX_LINES = 50_000
_LIST = "CLIENT_LIST"
_NAME, _ADDRESSES, _SINCE, _ID = (
    "Common Name",
    ("Virtual Address", "Virtual IPv6 Address"),
    "Connected Since (time_t)",
    "Client ID",
)
_NOBODY = "UNDEF"  # a client whose login is not decided yet


def read_status(
    text: str, server: str, groups: Mapping[str, Sequence[str]], accepted: Callable[[IPAddress], bool]
) -> BookReading:
    """Who has which address. ValueError: it is no whole status of these versions."""
    lines = text.splitlines()
    if len(lines) > MAX_LINES:
        raise ValueError(f"it has {len(lines)} lines; at most {MAX_LINES} are read")
    if not lines or lines[-1].strip() != "END":
        raise ValueError("it does not end with END: it is not whole, or its status-version is 1")
    split = "\t" if lines[0].startswith("TITLE\t") else ","
    rows = [line.split(split) for line in lines]
    time = next(
        (float(row[2]) for row in rows if row[0] == "TIME" and len(row) == 3 and row[2].isdecimal()), None
    )
    header = next((row[2:] for row in rows if row[:2] == ["HEADER", _LIST]), None)
    if time is None or header is None or not {_NAME, _SINCE, _ADDRESSES[0]} <= set(header):
        raise ValueError("it has no TIME or no header of the list of clients")
    clients = [row for row in rows if row[0] == _LIST]
    whole = [dict(zip(header, row[1:], strict=True)) for row in clients if len(row) == len(header) + 1]
    found = tuple(
        holding
        for client in whole
        for holding in _holdings(client, server, groups)
        if _usable(holding, accepted)
    )
    return BookReading(0, True, True, found, time, len(clients) - len(whole))


def _usable(holding: Holding, accepted: Callable[[IPAddress], bool]) -> bool:
    return accepted(ip_address(holding.address))


def _holdings(
    client: Mapping[str, str], server: str, groups: Mapping[str, Sequence[str]]
) -> Iterator[Holding]:
    """One for each of the client's addresses."""
    person, since = client[_NAME], client[_SINCE]
    if not is_name(person) or person == _NOBODY or not (since.isdecimal() and len(since) < 12):
        return
    for name in _ADDRESSES:
        try:
            address = ip_address(client.get(name, ""))
        except ValueError:
            continue  # it has none
        session = f"{client.get(_ID, '')}@{since}"
        yield Holding(address.packed, person, session, float(since), None, of_people(groups, person), server)
