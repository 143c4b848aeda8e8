"""The files that are made from the models, the example, and the speed of a large configuration."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from supervisor.config import candidates
from supervisor.config.markdown_tables import tables
from supervisor.config.parse import parse
from supervisor.config.schema import schema
from tests.config.kinds import KINDS as SMALL
from tests.config.kinds import problems
from tunnels.networks import MOST_TUNNELS
from tunnels.registry import KINDS
from tunnels.settings import Secret

ROOT = Path(__file__).parents[2]


def test_the_example_is_right_and_has_no_warnings() -> None:
    config = parse((ROOT / "config.example.yaml").read_text(), "/etc/facilitator/config.yaml", KINDS)
    assert {("acme-dc", "openvpn"), ("own-cloud", "sshuttle")} <= {
        (tunnel.name, tunnel.kind) for tunnel in config.tunnels.values()
    }
    assert config.warnings == ()


def test_the_example_shows_every_setting() -> None:
    text = (ROOT / "config.example.yaml").read_text()
    assert text.startswith("# yaml-language-server: $schema=docs/config.schema.json\n")
    for name in re.findall(r"^\| `([a-z_.]+)` \|", tables(KINDS), re.MULTILINE):
        assert re.search(rf"\b{name.rpartition('.')[2]}:", text), name


def test_the_schema_file_is_up_to_date() -> None:
    file, made = json.loads((ROOT / "docs/config.schema.json").read_text()), schema(KINDS)
    assert meaning(file, file["$defs"]) == meaning(made, made["$defs"]), "make docs"


def meaning(value: Any, defs: dict[str, Any]) -> Any:
    """The schema with each definition where it is used: how it is taken apart is up to the version of
    pydantic that wrote it.
    """
    if isinstance(value, list):
        return [meaning(item, defs) for item in value]
    if not isinstance(value, dict):
        return value
    parts = [defs[name.rpartition("/")[2]] for name in (value.get("$ref"),) if isinstance(name, str)]
    parts += value["allOf"] if len(value.get("allOf", ())) == 1 else []
    own = {
        key: meaning(item, defs)
        for key, item in value.items()
        if key not in ("$ref", "$defs") and not (key == "allOf" and parts)
    }
    return {**{key: item for part in parts for key, item in meaning(part, defs).items()}, **own}


def test_the_tables_of_the_documentation_are_up_to_date() -> None:
    text = (ROOT / "docs/configuration.md").read_text()
    assert text.partition("supervisor.config.markdown_tables -->\n\n")[2] == tables(KINDS) + "\n", (
        "python -m supervisor.config.markdown_tables"
    )


def test_the_schema_knows_the_kinds_and_the_short_forms() -> None:
    made = schema(SMALL)
    entries = made["properties"]["tunnels"]["additionalProperties"]["oneOf"]
    assert [entry["$ref"] for entry in entries] == ["#/$defs/Wire", "#/$defs/PipeTunnel"]
    wire = made["$defs"]["Wire"]
    assert wire["properties"]["kind"]["const"] == "wire"
    assert "name" not in wire["properties"]
    assert sorted(wire["required"]) == ["config", "destinations", "kind"]
    assert [form["type"] for form in made["$defs"]["Destination"]["anyOf"]] == ["string", "object"]
    assert made["$defs"]["Secret"]["oneOf"] == [{"required": ["file"]}, {"required": ["env"]}]
    assert "required" not in made["$defs"]["Defaults"]


def test_every_reference_of_the_schema_leads_somewhere() -> None:
    made = schema(KINDS)

    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
            return own + [found for item in value.values() for found in references(item)]
        return [found for item in value for found in references(item)] if isinstance(value, list) else []

    assert {reference.removeprefix("#/$defs/") for reference in references(made)} <= set(made["$defs"])


@pytest.mark.slow
def test_a_thousand_tunnels_take_seconds() -> None:
    tunnels = "".join(
        f"  site-{n}:\n    kind: wire\n    description: Customer site number {n}\n    config: "
        f"/etc/facilitator/site-{n}.conf\n"
        f"    destinations: [10.{n // 250}.{n % 250}.0/24]\n    login: "
        f"{{username: svc, password: {{file: site-{n}-password}}}}\n"
        f'    probe: {{targets: ["tcp://10.{n // 250}.{n % 250}.1:443"]}}\n'
        for n in range(MOST_TUNNELS)
    )
    text = (
        f"staff: {{networks: [192.168.0.0/16]}}\ndefaults: {{probe: {{interval: 5s}}}}\ntunnels:\n{tunnels}"
    )
    started = time.process_time()
    assert len(parse(text, "c.yaml", SMALL).tunnels) == MOST_TUNNELS
    assert len(problems(text.replace("5s", "5").replace("description", "descripton"))) == MOST_TUNNELS + 1
    assert time.process_time() - started < 20.0  # two runs, of less than a second each on an idle machine


ENVIRONMENT = {
    "CREDENTIALS_DIRECTORY": "/run/credentials/f",
    "NOMAD_SECRETS_DIR": "/secrets",
    "HOME": "/root",
}


@pytest.mark.parametrize(
    ("secret", "environment", "expected"),
    [
        (Secret(file="pw"), ENVIRONMENT, ["/run/credentials/f/pw", "/secrets/pw", "/etc/f/pw"]),
        (Secret(file="pw"), {"NOMAD_SECRETS_DIR": "/secrets"}, ["/secrets/pw", "/etc/f/pw"]),
        (Secret(file="pw"), {"CREDENTIALS_DIRECTORY": ""}, ["/etc/f/pw"]),
        (Secret(file="pw"), {"CREDENTIALS_DIRECTORY": "/etc/f"}, ["/etc/f/pw"]),
        (Secret(file="/x/pw"), ENVIRONMENT, ["/x/pw"]),
        (Secret(env="PW"), ENVIRONMENT, []),
    ],
)
def test_where_a_secret_may_lie(secret: Secret, environment: dict[str, str], expected: list[str]) -> None:
    assert [str(path) for path in candidates(secret, environment, Path("/etc/f"))] == expected
