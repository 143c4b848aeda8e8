"""A customer's file that becomes bad while its tunnel is up, with real clients and servers."""

from __future__ import annotations

import pytest

from supervisor.core.exits import Exit
from tests.lab import Lab
from tests.lab.config import Config
from tests.lab.daemon import LabDaemon
from tests.lab.wait import eventually

pytestmark = pytest.mark.root


def conditions(daemon: LabDaemon) -> list[str]:
    return [each["text"] for each in daemon.status()["conditions"]]


def test_a_file_that_becomes_bad_is_said_and_ends_no_good_session(
    lab: Lab, config: Config, daemon: LabDaemon
) -> None:
    profile = lab.directory / "acme.ovpn"
    good, session = profile.read_text(), daemon.tunnel("acme-dc")["session"]["id"]
    line = good.splitlines().index("client") + 1
    profile.write_text(good.replace("client\n", "client-of-sorts\n", 1))
    where = f"{profile}:{line}: 'client-of-sorts' is not an option"
    eventually(
        lambda: any(where in text for text in conditions(daemon)), 5, "the condition names file and line"
    )
    shown = daemon.cli("status", "acme-dc").stdout
    assert "".join(where.split()) in "".join(shown.split()), shown

    refused = daemon.cli("restart", "acme-dc")
    assert refused.returncode != 0
    assert where in refused.stderr
    assert "--force" in refused.stderr
    reloaded = daemon.cli("reload")
    assert where in reloaded.stderr
    assert daemon.tunnel("acme-dc")["session"]["id"] == session

    profile.write_text(good)
    eventually(lambda: not any(str(profile) in text for text in conditions(daemon)), 5, "it is good again")
    profile.write_text(good.replace("client\n", "client-of-sorts\n", 1))
    assert daemon.cli("restart", "--force", "acme-dc").returncode != 0
    failed = daemon.wait_for("acme-dc", phase="backoff", reason="client-config")
    assert where in failed["last_error"]
    profile.write_text(good)
    daemon.wait_for("acme-dc", phase="up")


def test_a_reload_does_not_end_a_good_session_for_a_file_that_cannot_be_used(
    lab: Lab, config: Config, daemon: LabDaemon
) -> None:
    good, session = (lab.directory / "acme.ovpn").read_text(), daemon.tunnel("acme-dc")["session"]["id"]
    profile = lab.directory / "acme-new.ovpn"
    profile.write_text("client-of-sorts\n" + good)
    config["tunnels"]["acme-dc"] |= {"config": str(profile)}
    config["tunnels"]["acme-dc"]["probe"] |= {"interval": "700ms"}
    config["staff"]["networks"].append("10.200.0.0/16")
    daemon.configure(config)
    where = f"{profile}:1: 'client-of-sorts' is not an option"
    for _ in range(2):
        reloaded = daemon.cli("reload")
        assert reloaded.returncode == Exit.FAILED
        assert f"acme-dc: {where}" in reloaded.stderr
        withheld = "acme-dc: config, probe changed, applied once its files can be used"
        assert withheld in reloaded.stdout.replace("probe, config", "config, probe")
    assert daemon.tunnel("acme-dc")["session"]["id"] == session
    assert daemon.tunnel("acme-dc")["health"] == "healthy"
    assert any(where in text for text in conditions(daemon))

    profile.write_text(good)
    eventually(
        lambda: (daemon.tunnel("acme-dc")["session"] or {}).get("id") not in (session, None),
        15,
        "the new settings are taken over",
    )
    daemon.wait_for("acme-dc", phase="up", health="healthy")
    assert not any(str(profile) in text for text in conditions(daemon))
    done = daemon.cli("reload")
    assert (done.returncode, done.stdout) == (Exit.OK, "nothing changed\n")
