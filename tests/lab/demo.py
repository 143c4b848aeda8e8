"""`make demo`: the product shown in the lab. Two tunnels are broken in every common way; each healing is
timed as a laptop sees it.

On a terminal the status table stays live above the story; otherwise the story comes as plain lines. Exits 0
only if all healed.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from supervisor.cli.status_table import status_view
from tests.lab import CLOUD_WEB, CUSTOMER, DATACENTRE_WEB, Lab, LabDaemon
from tests.lab.config import Config
from tests.lab.daemon import LabPagerDuty
from tests.lab.lab import end_on_signals, unfit
from tests.lab.wait import eventually

PICTURE = """\
laptop ── hub ── facilitator ──┬── customer (OpenVPN) ── datacentre  10.77.0.0/24
10.8.0.2                       └── bastion (sshd) ────── own cloud   10.90.0.0/16"""


@dataclass
class Story:
    """What was shown so far: told line by line, and summed up in the end."""

    console: Console
    picture: str = PICTURE
    daemon: LabDaemon | None = None
    table: Callable[[], RenderableType] | None = None  # in place of the daemon's
    started: float = field(default_factory=time.monotonic)
    lines: list[Text] = field(default_factory=list)
    shown: list[tuple[str, str]] = field(default_factory=list)

    def tell(self, text: str, style: str = "") -> None:
        """One line, with the time since the start."""
        line = Text(f"{time.monotonic() - self.started:5.1f} s  ", "dim").append(text, style)
        self.lines.append(line)
        if not self.console.is_terminal:
            self.console.print(line, soft_wrap=True)

    def show(self, what: str, result: object) -> None:
        """A result for the final table."""
        self.shown.append((what, str(result)))
        self.tell(f"{what} {result}", "green")

    def view(self) -> RenderableType:
        """The picture, the status as `facilitator status` prints it, and the last lines."""
        return Group(Panel(self.picture, expand=False), self._status(), Text(), *self.lines[-12:])

    def _status(self) -> RenderableType:
        if self.table is not None:
            return self.table()
        if self.daemon is None:
            return Text("the facilitator does not run", "dim")
        try:
            return status_view(self.daemon.status())
        except AssertionError:
            return Text("the facilitator does not answer", "yellow")

    @contextlib.contextmanager
    def live(self) -> Iterator[None]:
        """The view, refreshed for as long as the context lasts, if somebody looks at a terminal."""
        if not self.console.is_terminal:
            yield
            return
        with Live(get_renderable=self.view, console=self.console, refresh_per_second=5, transient=False):
            yield

    def summary(self) -> Table:
        """What was shown, with its times."""
        table = Table("shown", "result", title="What you have seen")
        for what, result in self.shown:
            table.add_row(what, result)
        return table


def _config(lab: Lab, pagerduty: LabPagerDuty) -> Config:
    """The product's defaults, but an incident after seconds instead of minutes, and a session that counts
    as stable sooner.
    """
    config = lab.configuration(pagerduty)
    config["defaults"] = {
        "reconnect": {"first": "500ms", "max": "3s", "stable_after": "1s"},
        "probe": {"interval": "2s", "timeout": "1s"},
        "alert": {"after": "5s", "clear_after": "2s"},
    }
    return config


def _demo(story: Story) -> None:
    story.tell("building the private network with real servers ...")
    with Lab() as lab, lab.pagerduty() as pagerduty:
        daemon = lab.daemon(_config(lab, pagerduty))
        with daemon, lab.capture() as capture:
            story.daemon = daemon
            _connect(story, lab, daemon)
            for chapter in (_kill_clients, _delete_routes, _silence, _stop_server, _look_at_metrics):
                chapter(story, lab, daemon, pagerduty)
            clear = (
                capture.finish()
            )  # once the facilitator has gone for good, what a laptop still sends may go anywhere
            assert not clear, f"packets in clear on the uplink: {clear[:3]}"
            story.show("Packets in clear on the uplink during all of this:", 0)
            story.daemon = None
            _clean_up(story, daemon)


def _connect(story: Story, lab: Lab, daemon: LabDaemon) -> None:
    story.tell("the facilitator starts an openvpn client and an sshuttle ...")
    since = time.monotonic()
    daemon.wait_well()
    story.show("Both tunnels up and healthy after", _seconds(since))
    for address in (DATACENTRE_WEB, CLOUD_WEB):
        reply = lab.request(f"http://{address}/")
        assert reply.status == 200, reply
        story.show(
            f"The laptop (10.8.0.2) asks http://{address} and gets",
            f"“{reply.body}” in {reply.seconds * 1000:.0f} ms",
        )


def _kill_clients(story: Story, lab: Lab, daemon: LabDaemon, pagerduty: LabPagerDuty) -> None:
    for program, tunnel, address in (("openvpn", "acme-dc", DATACENTRE_WEB), ("ssh", "own-cloud", CLOUD_WEB)):
        story.tell(f"kill -9 the {program} of {tunnel} ...")
        daemon.wait_for(tunnel, phase="up", health="healthy")
        (victim,) = daemon.client_pids(program)
        outage = lab.outage(address, functools.partial(os.kill, victim, signal.SIGKILL))
        story.show(f"kill -9 {program}: the laptop is without answers for", outage)


def _delete_routes(story: Story, lab: Lab, daemon: LabDaemon, pagerduty: LabPagerDuty) -> None:
    story.tell("delete the tunnels' routes behind its back ...")
    daemon.wait_well()
    flush = ("ip", "route", "flush", "table", "all", "proto", "173")
    outage = lab.outage(DATACENTRE_WEB, functools.partial(lab.network["facilitator"].run, *flush))
    story.show("ip route flush: the laptop is without answers for", outage)


def _silence(story: Story, lab: Lab, daemon: LabDaemon, pagerduty: LabPagerDuty) -> None:
    story.tell("the path to the customer silently drops everything ...")
    daemon.wait_well()
    since = time.monotonic()
    lab.blackhole(CUSTOMER)
    daemon.wait_silent("acme-dc", 15)
    story.show("Silent path: noticed after", _seconds(since))
    since = time.monotonic()
    lab.unblock(CUSTOMER)
    lab.reachable_within(DATACENTRE_WEB, 40)
    story.show("Path works again: answers again after", _seconds(since))


def _stop_server(story: Story, lab: Lab, daemon: LabDaemon, pagerduty: LabPagerDuty) -> None:
    story.tell("the customer's OpenVPN server goes down for longer ...")
    daemon.wait_well()
    since = time.monotonic()
    lab.openvpn.stop()
    eventually(pagerduty.open, 30, "an incident opens")
    story.show("Server down: incident at PagerDuty after (hold time 5 s)", _seconds(since))
    story.tell(f"    “{pagerduty.state()['events'][-1]['payload']['summary']}”")
    since = time.monotonic()
    lab.openvpn.start()
    lab.reachable_within(DATACENTRE_WEB, 40)
    story.show("Server back: answers again after", _seconds(since))
    eventually(lambda: not pagerduty.open(), 30, "the incident is resolved")
    story.show("Server back: incident resolved after (hold time 2 s)", _seconds(since))


def _look_at_metrics(story: Story, lab: Lab, daemon: LabDaemon, pagerduty: LabPagerDuty) -> None:
    found = re.findall(r"^facilitator_tunnel_reconnects_total\{(.*)\} (\d+)", daemon.metrics(), re.MULTILINE)
    assert found, "no reconnects in the metrics"
    for labels, value in found:
        story.tell(f"    facilitator_tunnel_reconnects_total{{{labels}}} {value}")
    story.show("Reconnects in /metrics:", sum(int(value) for _, value in found))


def _clean_up(story: Story, daemon: LabDaemon) -> None:
    story.tell("stop the facilitator ...")
    since = time.monotonic()
    code = daemon.stop()
    assert code == 0, f"the daemon exited with {code}"
    stopped = _seconds(since)
    daemon.cli("cleanup")
    assert daemon.leftovers() == {}, daemon.leftovers()
    story.show("Stopped; processes, routes, rules, tables, devices left:", f"0, after {stopped}")


def _seconds(since: float) -> str:
    return f"{time.monotonic() - since:.1f} s"


def play(picture: str, act: Callable[[Story], None], bad: str, good: str) -> int:
    """Exit code 0: all went well; 1: something did not, or this machine is unfit; 130: Ctrl-C."""
    end_on_signals()
    console = Console() if sys.stdout.isatty() else Console(width=120)
    if reasons := unfit():
        console.print("\n".join(reasons), soft_wrap=True)
        return 1
    story = Story(console, picture)
    try:
        with story.live():
            act(story)
    except KeyboardInterrupt:
        console.print("interrupted; nothing is left behind", style="yellow")
        return 130
    except AssertionError as error:
        console.print(f"{bad}: {error}", style="red", markup=False)
        return 1
    finally:
        if story.shown:
            console.print(story.summary())
    console.print(f"{good} {time.monotonic() - story.started:.0f} s in all.", style="bold green")
    return 0


def main() -> int:
    """The exit code."""
    return play(PICTURE, _demo, "NOT HEALED", "All healed.")


if __name__ == "__main__":
    sys.exit(main())
