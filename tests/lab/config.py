"""The configuration of the facilitator in the lab, as a plain value that a test changes before it writes
it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.lab.network import BASTION, CLOUD, CLOUD_WEB, DATACENTRE, DATACENTRE_WEB, STAFF

ROUTING_KEY = "0123456789abcdef0123456789abcdef"
Config = dict[str, Any]


def configuration(directory: Path, pagerduty: str | None = None) -> Config:
    """Both tunnels with the defaults of the product; files and directories lie in `directory`."""
    config: Config = {
        "facilitator": {
            "name": "lab",
            "state_dir": str(directory / "state"),
            "runtime_dir": str(directory / "run"),
        },
        "staff": {"networks": [str(STAFF)]},
        "http": {"listen": "127.0.0.1:9464"},
        "defaults": {},
        "tunnels": {
            "acme-dc": {
                "kind": "openvpn",
                "description": "ACME's data centre",
                "destinations": [str(DATACENTRE)],
                "config": str(directory / "acme.ovpn"),
                "probe": {"targets": [f"tcp://{DATACENTRE_WEB}:80"]},
            },
            "own-cloud": {
                "kind": "sshuttle",
                "description": "our own cloud",
                "destinations": [str(CLOUD)],
                "remote": f"facilitator@{BASTION}:22",
                "identity": {"file": str(directory / "own-cloud-ssh-key")},
                "known_hosts": str(directory / "known_hosts"),
                "probe": {"targets": [f"http://{CLOUD_WEB}/"]},
            },
        },
    }
    if pagerduty is not None:
        config["alerts"] = {
            "pagerduty": {"routing_key": {"file": str(directory / "pagerduty-routing-key")}, "url": pagerduty}
        }
    return config


def with_password(config: Config, directory: Path) -> Config:
    """`acme-dc` logs in with a user name and the password in `directory`/acme-password."""
    login = {"username": "svc-facilitator", "password": {"file": str(directory / "acme-password")}}
    acme = {**config["tunnels"]["acme-dc"], "config": str(directory / "acme-password.ovpn"), "login": login}
    return {**config, "tunnels": {**config["tunnels"], "acme-dc": acme}}


def only(config: Config, *tunnels: str) -> Config:
    """The same with some of the tunnels."""
    return {**config, "tunnels": {name: config["tunnels"][name] for name in tunnels}}
