"""What a person needs to know about each condition: the second part of docs/reasons.md. The part of a
condition's name before the colon is the anchor of its page: `degraded:acme-dc` -> `#degraded`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from supervisor.core.session.runbook_page import RunbookPage

_DOCTOR = "The sentence has the command; `facilitator doctor` checks again."

CONDITION_PAGES: Mapping[str, RunbookPage] = MappingProxyType(
    {
        "degraded": RunbookPage(
            "A tunnel works, but too many probes are lost or slow (`probe.degraded`), or its client accepts no more "
            "connections (`full`). Nothing is restarted for that.",
            "`facilitator status TUNNEL`; compare with other tunnels of this host. All degraded: check the uplink; one: the "
            "remote gateway and the path to it (`mtr`). `full`: raise `workers`, or find who holds the connections.",
        ),
        "silent-target": RunbookPage(
            "One probe target does not answer, while another one behind the same tunnel does.",
            "Check that host and the firewalls on the path, or change `probe.targets`.",
        ),
        "not-carried": RunbookPage(
            "An IPsec gateway agreed to carry less than `destinations`: packets to the rest are dropped.",
            "Have the traffic selectors changed at the gateway, or change `destinations`.",
        ),
        "files": RunbookPage(
            "A file of a running tunnel is invalid: the session is kept, but no new one could start.",
            "`facilitator check` names file and line. Fix the file; it is applied by itself.",
        ),
        "certificate": RunbookPage(
            "A client certificate expires within 14 days, or has expired.",
            "Ask its issuer for a new one and replace the file; the next session uses it. Do not restart the tunnel before.",
        ),
        "hook-up": RunbookPage(
            "The `up` hook of a tunnel failed: exit code, signal, timeout, or it cannot be run.",
            "`facilitator logs TUNNEL` has its output. The condition ends with the next successful run.",
        ),
        "hook-down": RunbookPage(
            "The `down` hook of a tunnel failed: exit code, signal, timeout, or it cannot be run.",
            "`facilitator logs TUNNEL` has its output. The condition ends with the next successful run.",
        ),
        "hook-changed": RunbookPage(
            "The `changed` hook of a tunnel failed: exit code, signal, timeout, or it cannot be run.",
            "`facilitator logs TUNNEL` has its output. The condition ends with the next successful run.",
        ),
        "configuration-refused": RunbookPage(
            "The configuration file is invalid; the daemon keeps running with the previous one.",
            "`facilitator check` shows every error with line and column. Fix it before the daemon is restarted.",
        ),
        "http-certificate": RunbookPage(
            "The certificate, key or client CA under `http.tls` cannot be used; the previous ones stay in use.",
            "The sentence names the file. It is read again by itself when it changes.",
        ),
        "http-not-listening": RunbookPage(
            "Another program holds the port of `http.listen`: no metrics, no status page, no health checks. The tunnels "
            "are not affected.",
            "`ss -ltnp` shows the program. The daemon retries every 5 s.",
        ),
        "audit": RunbookPage(
            "Audit records cannot be written to `audit.file`; the missing ones will appear as a gap.",
            "Check space, mode and owner of the file and its directory; `facilitator audit` shows the error.",
        ),
        "event-loop-stuck": RunbookPage(
            "The previous daemon hung and was killed by its watchdog; the tunnels were kept.",
            "The log has the stacks of all threads: please report them. Is the host short of CPU or memory?",
        ),
        "internal-error": RunbookPage(
            "A bug in a part of the daemon; the other parts and tunnels keep running.",
            "`journalctl -u facilitator -g 'internal error'`: please report error and line of code. `facilitator upgrade` "
            "restarts the part without dropping a tunnel.",
        ),
        "kernel": RunbookPage(
            "Another program keeps removing or changing facilitator's routes, rules or addresses.",
            "`ip monitor all` or `nft monitor` shows it; suspects are NetworkManager, systemd-networkd, firewalld, "
            "configuration management, a second facilitator.",
        ),
        "clock": RunbookPage(
            "The system clock is no longer NTP-synchronised: certificates, one-time passwords and times depend on it.",
            "`timedatectl`, `chronyc tracking`.",
        ),
        "third-party-firewall": RunbookPage(
            "A firewall of another program drops packets of tunnels.", _DOCTOR
        ),
        "third-party-rule": RunbookPage(
            "A policy rule of another program diverts packets of tunnels.", _DOCTOR
        ),
        "third-party-listener": RunbookPage(
            "Another program listens on a port that facilitator needs.", _DOCTOR
        ),
        "address-collision": RunbookPage("An address of this host lies inside a destination.", _DOCTOR),
        "gateway-inside-destination": RunbookPage(
            "A remote gateway's address lies inside a destination: its packets would enter a tunnel.",
            "Exclude the address from `destinations`, or use another address of the gateway.",
        ),
        "kernel-settings": RunbookPage("A kernel setting stops traffic of tunnels.", _DOCTOR),
        "conntrack-table": RunbookPage(
            "The connection tracking table is nearly full: new flows fail.", _DOCTOR
        ),
        "tun-device": RunbookPage("/dev/net/tun is missing, or the daemon may not open it.", _DOCTOR),
        "missing-device": RunbookPage(
            "A special file that a client needs, such as /dev/ppp, is missing.", _DOCTOR
        ),
        "full-directory": RunbookPage(
            "`runtime_dir` or `state_dir` is full: clients' output, incidents and history cannot be written.",
            "`df`; free space. Nothing has to be restarted.",
        ),
        "member": RunbookPage(
            "Another member of the fleet does not answer over the handover path: connections that it had are reset.",
            "Is that host up? Does the network pass `fleet.handover` packets between the members?",
        ),
        "fleet-engine": RunbookPage(
            "This member cannot use the lock engine: no status of other members, no new orders.",
            "`facilitator fleet status` and `facilitator doctor`; check etcd or Consul, network and certificates.",
        ),
        "fleet-lock": RunbookPage(
            "The lock engine does not answer: exclusive tunnels stop before their lease ends (`without_lock`).",
            "Check etcd or Consul; the tunnels start again by themselves.",
        ),
        "fleet-lock-access": RunbookPage(
            "The lock engine refuses access: certificate, password, token or rules.",
            "`facilitator doctor` names what is refused.",
        ),
        "fleet-clock": RunbookPage(
            "The clock jumped, so that exclusive tunnels had to log in again.",
            "Keep the clock in step (chrony), and do not suspend the machine.",
        ),
        "fleet-orders": RunbookPage(
            "An order in the lock engine is not understood: it has no effect, and lifts none.",
            "`facilitator fleet status` names it. Do members run different versions?",
        ),
        "fleet-routes": RunbookPage(
            "The EC2 API refuses or throttles changes of VPC routes, which may be out of date.",
            "The sentence has the API's answer; check the instance's role, and the route tables' quota.",
        ),
    }
)


def page_of_condition(name: str) -> str | None:
    """The anchor of the condition's page; None: it has none."""
    anchor = name.partition(":")[0]
    return anchor if anchor in CONDITION_PAGES else None


def conditions_page() -> Iterator[str]:
    """A part for each condition, with its name as the anchor."""
    for anchor, page in CONDITION_PAGES.items():
        yield from ("", f"## {anchor}", "", page.meaning, "", f"- **First:** {page.first}")
