"""What a person needs to know about each failure: docs/reasons.md is made of this, of
`condition_pages` and of the retry policies.

Log, status and incidents name the page of a reason (`runbook_url`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from supervisor.core.session.condition_pages import conditions_page, page_of_condition
from supervisor.core.session.policy_table import next_attempt, pages
from supervisor.core.session.reasons import is_failure
from supervisor.core.session.retry import POLICIES
from supervisor.core.session.runbook_page import RunbookPage
from tunnels.base import Reason

PAGE = "docs/reasons.md"  # where `facilitator.runbook_url` names no address


_LOGS = "`facilitator logs TUNNEL` has the client's last lines"
_GATEWAY = "Ask the remote gateway's operator"

REASON_PAGES: Mapping[Reason, RunbookPage] = MappingProxyType(
    {
        Reason.EXITED: RunbookPage(
            "The client has ended and gave no reason that is understood.",
            f"{_LOGS}: the last one is in the incident. Look there for the cause.",
        ),
        Reason.KILLED: RunbookPage(
            "A signal has ended the client: somebody killed it, it crashed, or memory ran out.",
            "`journalctl -k` for an OOM kill or a segmentation fault; then who may kill processes on this host.",
        ),
        Reason.START_TIMEOUT: RunbookPage(
            "The client did not come up in time: something on the way, or the remote gateway, does not answer.",
            f"{_LOGS}. Try whether this host reaches the remote gateway's address and port.",
        ),
        Reason.UNHEALTHY: RunbookPage(
            "The client is connected, but no probe was answered for several rounds.",
            "`facilitator status TUNNEL` names the failed path segment; `facilitator why ADDRESS` with the "
            "address of a probe target.",
        ),
        Reason.DESTINATION: RunbookPage(
            "The tunnel works, but no probe target behind it answers.",
            "Ask the customer whether the targets run and may be reached from here; other hosts there may be "
            "well. Change `probe.targets` if they are gone.",
        ),
        Reason.DEVICE_LOST: RunbookPage(
            "The tunnel's network interface has vanished: its client died, or another program removed it.",
            "`ip -d link`, and `journalctl` for programs that manage interfaces, such as NetworkManager or "
            "systemd-networkd.",
        ),
        Reason.ADDRESS_CONFLICT: RunbookPage(
            "The remote gateway assigned an address that is in use elsewhere.",
            f"{_GATEWAY} for another address, or end what uses the address here (`ip address`).",
        ),
        Reason.NETWORK: RunbookPage(
            "The remote gateway cannot be reached: no route, refused, or no answer.",
            "Try its address and port from this host and from elsewhere. If only this host fails, look at its "
            "firewall and routes (`facilitator doctor`); else ask the gateway's operator.",
        ),
        Reason.DNS: RunbookPage(
            "The remote gateway's name cannot be resolved.",
            "`getent ahosts NAME` on this host; then its resolvers (`/etc/resolv.conf`), then the name's own zone.",
        ),
        Reason.PEER_TIMEOUT: RunbookPage(
            "The remote gateway stopped answering while the tunnel was up.",
            "Whether the gateway answers from elsewhere. If it happens again and again after the same time, "
            "something on the way forgets idle flows.",
        ),
        Reason.PEER_CLOSED: RunbookPage(
            "The remote gateway ended the session.",
            f"Nothing, if it is rare. {_GATEWAY} if it comes back: the account may be in use twice.",
        ),
        Reason.HANDSHAKE: RunbookPage(
            "The handshake failed without an explanation: mostly keys or settings that do not fit.",
            f"If the tunnel has never worked: compare keys, ciphers and the clock with the other side. {_LOGS}.",
        ),
        Reason.LOCK: RunbookPage(
            "An exclusive tunnel has no lock of its account: another facilitator of the fleet is logged in with "
            "it, or the lock engine does not answer.",
            "`facilitator status TUNNEL` says who holds the lock, or what is wrong with the engine. Nothing, if "
            "another member holds it: that one carries.",
        ),
        Reason.UPLINK: RunbookPage(
            "This host has no Internet connection; no tunnel is blamed and nothing is restarted.",
            "`ip route`, `ip neighbour`, `ip -s link`: the way out of this host.",
        ),
        Reason.LOCAL: RunbookPage(
            "Something on this host is busy or missing for the moment: a port, a directory, a program that hangs.",
            "The sentence names it. `facilitator doctor` looks at the rest of the host.",
        ),
        Reason.SESSION_EXPIRED: RunbookPage(
            "The session's time limit was reached, or the remote gateway no longer accepts a kept session.",
            "Nothing: the next session begins at once. `reconnect.planned` moves it to a quiet moment.",
        ),
        Reason.PROTOCOL: RunbookPage(
            "The remote gateway violates the protocol, or floods the client.",
            f"{_GATEWAY} what was changed there, such as its version. {_LOGS}.",
        ),
        Reason.FAR_END_FULL: RunbookPage(
            "The remote gateway has no room for another session: its licences, or sessions of this account.",
            f"{_GATEWAY} to end old sessions of this account, or for more room. Is the account in use elsewhere?",
        ),
        Reason.BANNED: RunbookPage(
            "The remote gateway locks this host out for a while; every attempt may make that longer.",
            f"{_GATEWAY} to remove the ban, and find the cause in `facilitator history TUNNEL` before.",
        ),
        Reason.AUTH: RunbookPage(
            "The remote gateway refused the account: name, password or one-time password (OTP).",
            "Check the account with the customer before anything else: it may be locked or expired. Then put the "
            "new secret into its file; the tunnel starts by itself. With TOTP, check this host's clock.",
        ),
        Reason.KICKED: RunbookPage(
            "An administrator of the remote gateway ended the session for good.",
            f"{_GATEWAY} why. Only then: `facilitator start TUNNEL`.",
        ),
        Reason.CHALLENGE: RunbookPage(
            "The remote gateway prompted for something, such as a one-time password (OTP), and nobody answered.",
            "`facilitator start TUNNEL`, then `facilitator answer TUNNEL`. With `login.totp` the daemon answers by "
            "itself.",
        ),
        Reason.CERTIFICATE: RunbookPage(
            "The remote gateway's certificate or host key is not trusted: renewed, expired, or somebody else's.",
            f"{_GATEWAY} for the new certificate or fingerprint, by telephone. Never accept it unseen: this is "
            "what an attack looks like. Check this host's clock.",
        ),
        Reason.OUR_CERTIFICATE: RunbookPage(
            "The remote gateway rejects the client certificate, or it has expired.",
            "Ask its issuer for a new one and replace the file; the tunnel starts by itself.",
        ),
        Reason.KEY: RunbookPage(
            "The client key was rejected or cannot be used: wrong format, a passphrase, not known there.",
            f"The sentence names the file. {_GATEWAY} whether they have the current public key.",
        ),
        Reason.CLIENT_CONFIG: RunbookPage(
            "The client refuses its configuration, or the daemon refuses the file before the client starts.",
            "`facilitator check` names file, line and what to do.",
        ),
        Reason.SECRET: RunbookPage(
            "A secret is missing or empty.",
            "Put it where the sentence says; the tunnel starts by itself. `facilitator doctor` lists all places.",
        ),
        Reason.MISSING_INPUT: RunbookPage(
            "A file of the tunnel cannot be read.",
            "Put it where the sentence says, readable for the daemon's user; the tunnel starts by itself.",
        ),
        Reason.MISSING_BINARY: RunbookPage(
            "The client is not installed on this host.",
            "Install the package that the sentence names. `facilitator doctor` lists all programs.",
        ),
        Reason.MISSING_RIGHT: RunbookPage(
            "The daemon lacks a privilege, such as a capability, /dev/net/tun or a file's execute bit.",
            "`facilitator doctor` names it, and how to grant it.",
        ),
    }
)


def runbook_url(base: str, reason: str) -> str | None:
    """The page of a reason, or of a condition by its name; None: it is no failure, or not known to this
    version. `base`: the address of the whole page, or "" for its place in this distribution.
    """
    known = reason in REASON_PAGES and is_failure(reason)
    anchor = reason if known else page_of_condition(reason)
    return None if anchor is None else f"{base or PAGE}#{anchor}"


def reasons_page() -> Iterator[str]:
    """A part for each reason that is a failure, with its name as the anchor."""
    for reason, policy in POLICIES.items():
        if is_failure(reason):
            page = REASON_PAGES[reason]
            spent = " An attempt that ends so has spent a login." if policy.login else ""
            yield from ("", f"## {reason}", "", page.meaning, "", f"- **First:** {page.first}")
            yield f"- **Meanwhile:** next attempt: {next_attempt(policy)}.{spent} Pages {pages(policy)}."
    yield from ("", "# Conditions: what is wrong beside the state of a tunnel")
    yield from conditions_page()
