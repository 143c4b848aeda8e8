"""Networks and addresses, and how many tunnels there can be. Nothing heavy is imported here."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

MOST_TUNNELS = 999  # each has two lanes (fwmark = routing table) of a fixed range

IPNetwork = IPv4Network | IPv6Network
IPAddress = IPv4Address | IPv6Address
