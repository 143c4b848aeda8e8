"""Makes the line handler of each session, and keeps what outlives sessions: the log of each tunnel, and the
secrets that spare the next login.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Mapping

from supervisor.clients.client import LineHandler
from supervisor.clients.launch import unusable
from supervisor.clients.lines import Masker
from supervisor.clients.log import Log
from supervisor.clients.questions import Questions
from supervisor.clients.totp import Codes
from supervisor.core.events import Event, Kept
from tunnels.base import AnyKind, Tunnel, inputs_of

Answer = Callable[[str, int, str], None]  # tunnel, session, text: send it to the client, if it still runs


class LineHandlers:
    """The line handlers of all sessions. What their clients say is posted as events."""

    def __init__(
        self,
        post: Callable[[Event], None],
        codes: Codes,
        kept: Mapping[str, str],
        on_line: Callable[[str, str], None],
        answer: Answer,
    ) -> None:
        """`kept`: secrets by slot name, as an earlier daemon had them. `on_line(tunnel, text)` gets the lines
        that pass the rate limit. `answer` gets one-time codes.
        """
        self._post, self._codes, self._kept, self._on_line, self._answer = (
            post,
            codes,
            dict(kept),
            on_line,
            answer,
        )
        self._logs: dict[str, Log] = {}
        self._ages: dict[str, float] = {}  # see `Questions`

    @property
    def kept(self) -> dict[str, str]:
        """Secrets that spare the next login, by slot name."""
        return {slot: secret for slot, secret in self._kept.items() if secret}

    def forget(self, slot: str) -> None:
        """Drop what would spare the next login of this slot."""
        self._kept.pop(slot, None)

    def with_kept(self, slot: str, inputs: Mapping[str, bytes]) -> dict[str, bytes]:
        """The inputs, with the input `kept` if the slot's last session left something for the next login."""
        kept = {"kept": self._kept[slot].encode()} if slot in self._kept else {}
        return {**inputs, **kept}

    def make(
        self, kind: AnyKind, tunnel: Tunnel, session: int, slot: str, inputs: Mapping[str, bytes]
    ) -> LineHandler:
        """The line handler of a session that starts with these inputs. SpawnError: they cannot be used."""
        try:
            dialogue = kind.dialogue(tunnel, inputs)
        except ValueError as error:
            raise unusable(error) from error
        items = (*inputs_of(kind, tunnel), *kind.referenced_inputs(tunnel, inputs))
        names = {item.name for item in items if item.secret}
        secrets = [
            content
            for name, content in inputs.items()
            if name in names or name.rpartition("/")[0] in names  # a file of a folder
        ]
        masker = Masker([*secrets, inputs["kept"]] if "kept" in inputs else secrets)
        questions = Questions(
            tunnel.name, session, inputs.get("totp"), self._codes, self._post, self._answer, self._ages
        )
        keep = functools.partial(self._keep, tunnel.name, session, slot, masker)
        log = self.log(tunnel.name)
        return LineHandler(tunnel.name, session, dialogue, masker, log, self._post, keep, questions)

    def log(self, tunnel: str) -> Log:
        """The log of the tunnel's clients, over all sessions."""
        if tunnel not in self._logs:
            self._logs[tunnel] = Log(functools.partial(self._on_line, tunnel))
        return self._logs[tunnel]

    def tail(self, tunnel: str, count: int) -> list[str]:
        """The last lines of the tunnel's clients, secrets masked, oldest first; at most 200."""
        return self._logs[tunnel].tail(count) if tunnel in self._logs else []

    def follow(self, tunnel: str) -> AsyncIterator[str]:
        """Lines of the tunnel's clients as they come, over all sessions, until `close`."""
        return self.log(tunnel).follow()

    def close(self) -> None:
        """End every `follow`."""
        for log in self._logs.values():
            log.close()

    def _keep(self, tunnel: str, session: int, slot: str, masker: Masker, secret: str) -> None:
        masker.add(secret.encode())
        self._kept[slot] = secret
        self._post(Kept(tunnel, session, bool(secret)))
