"""`names:` in the configuration: what is wrong with it."""

from __future__ import annotations

import pytest

from common.configuration.problems import ConfigErrors
from supervisor.config.parse import parse
from tunnels.registry import KINDS

TEXT = """\
staff: {networks: [10.8.0.0/16]}
names: {listen: ["10.60.0.1:53"]}
tunnels:
  acme-dc:
    kind: openvpn
    config: acme.ovpn
    destinations: [{network: 10.0.0.0/16, presented_as: 100.64.0.0/16}]
    names: {domains: [acme.internal], servers: [10.0.0.53]}
  globex-dc:
    kind: openvpn
    config: globex.ovpn
    destinations: [{network: 10.0.0.0/16, presented_as: 100.65.0.0/16}]
    names: {domains: [Globex.Internal.], servers: pushed}
"""


def test_what_is_right() -> None:
    config = parse(TEXT, "c.yaml", KINDS)
    assert config.names is not None
    acme, globex = (config.tunnels[name].names for name in ("acme-dc", "globex-dc"))
    assert acme is not None
    assert globex is not None
    assert (acme.domains, str(acme.addresses[0]), acme.pushed, acme.reverse) == (
        ("acme.internal",),
        "10.0.0.53",
        False,
        True,
    )
    assert (globex.domains, globex.addresses, globex.pushed) == (("globex.internal",), (), True)
    assert config.warnings == ()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "Globex.Internal.",
            "acme.internal",
            "tunnels.globex-dc.names.domains.0: acme.internal is also a domain of acme-dc",
        ),
        ("Globex.Internal.", "dc.acme.internal", "dc.acme.internal lies in acme.internal of acme-dc"),
        ("Globex.Internal.", "co.uk", "co.uk is a public suffix"),
        ("Globex.Internal.", "a..b", "'a..b' is not a domain"),
        ("Globex.Internal.", "10.in-addr.arpa", "names of addresses are asked for by `reverse: true`"),
        ("[10.0.0.53]", "[10.1.0.53]", "10.1.0.53 lies in no destination of acme-dc"),
        ("[10.0.0.53]", "[100.64.0.53]", "100.64.0.53 lies in no destination of acme-dc"),
        ("[10.0.0.53]", "[ns1]", "'ns1' is not an address"),
        ("10.60.0.1:53", "0.0.0.0:53", "name the address of this host that staff ask"),
        ("10.60.0.1:53", "resolver:53", "names are listened for on an address"),
    ],
)
def test_what_is_wrong(old: str, new: str, said: str) -> None:
    with pytest.raises(ConfigErrors) as caught:
        parse(TEXT.replace(old, new), "c.yaml", KINDS)
    assert any(said in str(problem) for problem in caught.value.problems), caught.value.problems


def test_two_tunnels_to_one_customer_may_share_a_domain() -> None:
    text = (
        TEXT.replace("100.65", "100.64")
        .replace("    config: globex", "    priority: 200\n    config: globex")
        .replace("Globex.Internal.", "acme.internal")
    )
    assert parse(text, "c.yaml", KINDS).names is not None


def test_names_that_nobody_is_answered() -> None:
    config = parse(TEXT.replace('names: {listen: ["10.60.0.1:53"]}', ""), "c.yaml", KINDS)
    assert ["nobody is answered" in str(each) for each in config.warnings] == [True]
