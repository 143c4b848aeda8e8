"""What ssh, sshuttle and our driver print when a session fails, as reasons and sentences.

Each row: pattern, reason, sentence ({0} is the match, {1} a group); the first match counts. ssh prints before
sshuttle does, and knows more. If neither explains why the remote host did not answer, the driver's last line
does: exit code 255 is ssh's own failure, any other comes from the remote shell.
"""

from __future__ import annotations

import re

from tunnels.base import Failed, Reason
from tunnels.failure_patterns import Table, line_explanation, table
from tunnels.kinds.sshuttle.limits import JUMP, REMOTE

# output of the remote host, whatever it looks like; output of one worker of several, as long as others are
# ready
_NO_NEWS = re.compile(rf"{REMOTE}|worker \d+: ")
_OWN = re.compile(r"c : |facilitator: |sshuttle: |fatal: ")  # of sshuttle and of our driver


def _ssh_table(who: str) -> Table:
    """What ssh says of a login at this host."""
    return table(
        (
            r"REMOTE HOST IDENTIFICATION HAS CHANGED",
            Reason.CERTIFICATE,
            f"{who}'s host key is not the known one",
        ),
        (r"^No \S+ host key is known for \S+", Reason.CERTIFICATE, "{0}"),
        (
            r"^Host key verification failed|^Certificate invalid: .*",
            Reason.CERTIFICATE,
            f"{who}'s host key is not known",
        ),
        (r"^Load key .*incorrect passphrase.*", Reason.KEY, "the private key has a passphrase"),
        (r"^Load key .*", Reason.KEY, "the private key cannot be used"),
        (
            r"^Authenticated using \S+ with partial success",
            Reason.CHALLENGE,
            f"{who} accepted our key and requires a second factor, which nobody is there to give; let the account "
            "log in with the key alone (AuthenticationMethods publickey)",
        ),
        (
            r"Permission denied \((?!.*publickey)(.*)\)",
            Reason.KEY,
            f"{who} lets nobody in with a key here, only with {{1}}; let the account use one "
            "(PubkeyAuthentication)",
        ),
        (r"Permission denied \(.*\)", Reason.KEY, f"{who} refused our key"),
        (r"^No user exists for uid \d+", Reason.MISSING_RIGHT, "{0} on this host, which ssh insists on"),
        (r"Too many authentication failures", Reason.KEY, f"{who} refused our key"),
        (r"Could not resolve hostname .*", Reason.DNS, "{0}"),
        (r"^ssh: connect to host \S+ port \d+: .*", Reason.NETWORK, "{0}"),
        (r"^Connection timed out during banner exchange", Reason.NETWORK, "{0}"),
        (r"^Unable to negotiate with .*", Reason.CLIENT_CONFIG, "{0}"),
        (
            r"Bad configuration option: .*|command-line:? line \d+: .*|keyword \S+ extra arguments.*",
            Reason.CLIENT_CONFIG,
            "ssh: {0}",
        ),
        (r"^Timeout, server \S+ not responding", Reason.PEER_TIMEOUT, "{0}"),
        (
            r"^kex_exchange_identification: .*|^Connection (?:closed|reset) by \S+ port \d+",
            Reason.HANDSHAKE,
            "{0}",
        ),
        (r"^Connection to \S+ closed by remote host", Reason.PEER_CLOSED, "{0}"),
        (r"^client_loop: send disconnect: .*|^Received disconnect from .*", Reason.PEER_CLOSED, "{0}"),
    )


_SSH_LINES = _ssh_table("the remote host")
_JUMP_LINES = (
    *table(
        (
            r"^channel \d+: open failed: administratively prohibited.*",
            Reason.CLIENT_CONFIG,
            "the jump host may not forward connections to the remote host (AllowTcpForwarding, PermitOpen)",
        ),
        (
            r"^channel \d+: open failed: (?:connect failed: )?(.*)",
            Reason.NETWORK,
            "the jump host cannot reach the remote host: {1}",
        ),
    ),
    *_ssh_table("the jump host"),
)
_OWN_LINES = table(
    (
        r"expected server init string .* got b(?:'.+'|\".+\")|(?:server died with error|facilitator: ssh ended "
        r"with) code (?!255)\d+",
        Reason.CLIENT_CONFIG,
        "the remote host cannot run Python 3: is it installed, and does the account have a shell?",
    ),
    (
        r"facilitator: the Python package sshuttle is missing.*|fatal: Failed to find .*",
        Reason.MISSING_BINARY,
        "{0}",
    ),
    (r"^facilitator: (this version of sshuttle .*)", Reason.MISSING_BINARY, "{1}"),
    (
        r"^facilitator: ((?:started as root|cannot become|cannot give up|cannot mark).*)",
        Reason.MISSING_RIGHT,
        "{1}",
    ),
    (r"fatal: (the other end (?:floods|breaks) .*)", Reason.PROTOCOL, "{1}"),
    (r"fatal: (the other end has ended the session)", Reason.PEER_CLOSED, "{1}"),
    (r"cannot listen on port .*|^facilitator: NOTIFY_SOCKET.*", Reason.LOCAL, "{0}"),
    (r"^sshuttle: error: .*|^facilitator: ssh refuses its options.*", Reason.CLIENT_CONFIG, "{0}"),
    (
        r"SSH connection lost|(?:server died with error|facilitator: ssh ended with) code (?:255|-\d+)",
        Reason.HANDSHAKE,
        "ssh ended before the remote host answered",
    ),
    (r"^facilitator: sshuttle ended: (?!Broken pipe|Connection reset).*", Reason.LOCAL, "{0}"),
    (
        r"ssh connection to server \(pid \d+\) exited|fatal: ssh is gone|facilitator: (?:ssh is "
        r"gone|sshuttle ended)",
        Reason.PEER_CLOSED,
        "ssh ended",
    ),
)


def ended(line: str) -> bool:
    """Whether sshuttle's client says with this line why it ends: whatever is read later, it has ended."""
    return line.startswith("c : fatal: ")


def explained(line: str) -> Failed | None:
    """What a line of the output says about a failure; None: nothing."""
    if _NO_NEWS.match(line):
        return None
    if line.startswith(JUMP):
        return line_explanation(_JUMP_LINES, line.removeprefix(JUMP))
    return line_explanation(_OWN_LINES if _OWN.match(line) else _SSH_LINES, line)
