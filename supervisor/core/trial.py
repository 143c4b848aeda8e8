"""The steps of `facilitator try`, and which one failed: pure.

moments of one session (lines of its client, its transitions) -> TrialSteps -> one TrialStep for each line
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from tunnels.base import Connected, Failed, Question, Reason, Wanted


class TrialStage(enum.StrEnum):
    """A step of one login, in order."""

    NAME = "name"
    SERVER = "server"
    TLS = "tls"
    LOGIN = "login"
    CODE = "code"
    ADDRESS = "address"
    PROBE = "probe"


ORDER = tuple(TrialStage)
TITLES: Mapping[TrialStage, str] = MappingProxyType(
    {
        TrialStage.NAME: "name resolved",
        TrialStage.SERVER: "server answered",
        TrialStage.TLS: "TLS and certificate",
        TrialStage.LOGIN: "login",
        TrialStage.CODE: "one-time password",
        TrialStage.ADDRESS: "address",
        TrialStage.PROBE: "probe",
    }
)
# what a failure with this reason is about, wherever it is found
_STAGE_OF: Mapping[Reason, TrialStage] = MappingProxyType(
    {
        Reason.DNS: TrialStage.NAME,
        Reason.NETWORK: TrialStage.SERVER,
        Reason.CERTIFICATE: TrialStage.TLS,
        Reason.OUR_CERTIFICATE: TrialStage.TLS,
        Reason.KEY: TrialStage.TLS,
        Reason.AUTH: TrialStage.LOGIN,
        Reason.BANNED: TrialStage.LOGIN,
        Reason.CHALLENGE: TrialStage.CODE,
    }
)
# lines of clients that show how far a session has come
_SERVER_LINES = re.compile(r"TLS: Initial packet from |Connected to \S+:\d+$|Handshake|handshake with")
_TLS_LINES = re.compile(r"Control Channel: TLS|Connected to HTTPS on |Authenticated to ")
_LOGIN_LINES = re.compile(r"PUSH: Received control message: 'PUSH_REPLY|Got CONNECT response: HTTP/1\.1 200")
_CODE_LINES = re.compile(r"AUTH_FAILED,CRV1:|CR_TEXT:")
_RESOLVERS = re.compile(r"dhcp-option DNS6? ([0-9A-Fa-f.:]+)")


@dataclass(frozen=True, slots=True)
class TrialStep:
    """One step that is done."""

    stage: TrialStage
    ok: bool
    seconds: float  # since the step before
    text: str


@dataclass(slots=True)
class TrialSteps:
    """How far one session has come."""

    uses_login: bool  # with a user name and a password
    uses_code: bool  # the client may be asked for a one-time password
    last: float  # monotonic seconds of the latest step
    done: list[TrialStep] = field(default_factory=list)
    resolvers: tuple[str, ...] = ()
    _asked: bool = False  # for a code, which was given

    @property
    def failed(self) -> TrialStep | None:
        """The step at which it ended."""
        return next((each for each in self.done if not each.ok), None)

    def reached(self, stage: TrialStage, now: float, text: str = "") -> Iterator[TrialStep]:
        """This step and those before it are done."""
        for each in ORDER[: ORDER.index(stage) + 1]:
            if self.has(each) or not self._applies(each):
                continue
            yield self._add(each, now, text if each is stage else "", ok=True)

    def has(self, stage: TrialStage) -> bool:
        """Whether it was reached."""
        return any(each.stage is stage for each in self.done)

    def saw_line(self, line: str, now: float) -> Iterator[TrialStep]:
        """Take a line of the client."""
        self.resolvers += tuple(each for each in _RESOLVERS.findall(line) if each not in self.resolvers)
        if _CODE_LINES.search(line):
            yield from self._asks_code(now)
        elif _SERVER_LINES.search(line):
            yield from self.reached(TrialStage.SERVER, now)
        elif _TLS_LINES.search(line):
            yield from self.reached(TrialStage.TLS, now)
        elif _LOGIN_LINES.search(line):
            yield from self.reached(TrialStage.CODE if self._asked else TrialStage.LOGIN, now)

    def saw(self, what: object, now: float) -> Iterator[TrialStep]:
        """Take an observation of the client."""
        if isinstance(what, Question) and what.wanted is Wanted.CODE:
            yield from self._asks_code(now)
        elif isinstance(what, Connected):
            yield from self.reached(TrialStage.ADDRESS, now, _connected(what, self.resolvers))

    def _asks_code(self, now: float) -> Iterator[TrialStep]:
        yield from self.reached(
            TrialStage.LOGIN, now, "the password is right; a one-time password is asked for"
        )
        self._asked = True

    def ended(self, failure: Failed, now: float) -> TrialStep:
        """The session is over for this reason: the step that failed."""
        stage = _STAGE_OF.get(failure.reason)
        following = next(
            (each for each in ORDER if not self.has(each) and self._applies(each)), TrialStage.PROBE
        )
        if stage is None or ORDER.index(stage) < ORDER.index(following):
            stage = following
        text = f"{failure.reason}: {failure.text}"
        if stage is TrialStage.LOGIN and failure.reason is Reason.AUTH and self.uses_code and not self._asked:
            text += " (password and one-time password went together: either may be wrong)"
        elif stage is TrialStage.SERVER:
            text += "; it does not answer from here: wrong address, dead, or a firewall on the way"
        return self._add(stage, now, text, ok=False)

    def _applies(self, stage: TrialStage) -> bool:
        if stage is TrialStage.LOGIN:
            return self.uses_login
        return stage is not TrialStage.CODE or self._asked

    def _add(self, stage: TrialStage, now: float, text: str, *, ok: bool) -> TrialStep:
        step = TrialStep(stage, ok, now - self.last, text)
        self.last = now
        self.done.append(step)
        return step


def _connected(what: Connected, resolvers: tuple[str, ...]) -> str:
    parts = [each for each in (what.address, what.address6) if each]
    parts += [f"MTU {what.mtu}"] if what.mtu is not None else []
    parts.append(f"pushed routes: {', '.join(map(str, what.routes)) or 'none'}")
    parts += [f"pushed DNS: {', '.join(resolvers)}"] if resolvers else []
    return "; ".join(parts)
