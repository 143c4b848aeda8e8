"""A customer's own name server: a real unbound with some names, in one of the lab's namespaces."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from ipaddress import IPv4Address
from pathlib import Path

from tests.lab.servers import Server
from tests.netns import Namespace

_numbers = itertools.count(1)


class CustomerResolver(Server):
    """unbound on port 53 of an address, which is made. It knows the names of one domain, and those of their
    addresses.
    """

    def __init__(
        self,
        namespace: Namespace,
        directory: Path,
        address: IPv4Address,
        domain: str,
        hosts: Mapping[str, IPv4Address],
        extra: tuple[str, ...] = (),
    ) -> None:
        """`extra`: further records, each a line as in a zone file."""
        config = directory / f"unbound-{next(_numbers)}.conf"
        names = [f'  local-data: "{name}.{domain}. 300 IN A {host}"' for name, host in hosts.items()]
        names += [f'  local-data-ptr: "{host} 300 {name}.{domain}"' for name, host in hosts.items()]
        names += [f"  local-data: '{line}'" for line in extra]
        head = (
            "server:",
            f"  interface: {address}",
            "  access-control: 0.0.0.0/0 allow",
            "  do-daemonize: no",
            "  use-syslog: no",
            '  username: ""',
            '  chroot: ""',
            '  pidfile: ""',
            "  num-threads: 1",
            f'  local-zone: "{domain}." static',
            '  local-zone: "10.in-addr.arpa." static',
        )
        tail = ("remote-control:", "  control-enable: no")
        config.write_text("\n".join((*head, *names, *tail)) + "\n")
        namespace.run("ip", "address", "replace", f"{address}/32", "dev", "lo")
        super().__init__(
            namespace, directory, config.stem, ("unbound", "-d", "-c", str(config)), "start of service"
        )
