"""Whether the files of each tunnel could start it, judged again at each change: a running client goes on with
what it has read, and nobody would know before its next start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from supervisor.app.engine_view import ReadableEngine
from supervisor.app.files import Files
from supervisor.app.profiles import start_problem
from supervisor.core.conditions import Condition
from supervisor.core.events import Event, InputsChanged, Noticed
from supervisor.core.faults import Faults
from supervisor.core.state import Phase
from tunnels.base import AnyKind, Tunnel


class ClientFiles:
    """Keeps the problem of each tunnel's files, and posts `Noticed` when one comes or goes."""

    def __init__(
        self,
        kinds: Mapping[str, AnyKind],
        files: Files,
        engine: ReadableEngine,
        post: Callable[[Event], None],
        faults: Faults,
    ) -> None:
        self._kinds, self._files, self._engine, self._post = kinds, files, engine, post
        self._faults = faults
        self._tunnels: Mapping[str, Tunnel] = {}
        self._usable: Callable[[str], None] = lambda tunnel: None
        self.problems: Mapping[str, str] = MappingProxyType({})  # by tunnel; replaced as a whole

    def watch(self, usable: Callable[[str], None]) -> None:
        """Call this with the tunnel whose files have changed and can be used."""
        self._usable = usable

    def set(self, tunnels: Mapping[str, Tunnel]) -> None:
        """Judge the files of these tunnels from now on: at once those of new and changed ones."""
        before, self._tunnels = self._tunnels, tunnels
        for name, tunnel in tunnels.items():
            if before.get(name) != tunnel:
                self.look(name)
        self._keep({name: text for name, text in self.problems.items() if name in tunnels})

    def look(self, name: str) -> str | None:
        """Judge them now: why the tunnel could not start with them; None: it could."""
        tunnel = self._tunnels.get(name)
        if tunnel is None:
            return None
        part = f"kind:{tunnel.kind}"  # whose code reads them
        problem = self._faults.ask(part, None, start_problem, tunnel, self._kinds[tunnel.kind], self._files)
        others = {each: text for each, text in self.problems.items() if each != name}
        self._keep(others if problem is None else others | {name: problem})
        return problem

    def changed(self, event: Event) -> Event:
        """An input of a tunnel has changed. The event to post: a session is not ended for a file that cannot
        be used.
        """
        problem = self.look(event.tunnel)
        if problem is None:
            self._usable(event.tunnel)
        return InputsChanged(event.tunnel, usable=problem is None)

    @property
    def not_to_be_ended(self) -> frozenset[str]:
        """Tunnels that are up and could not be started again."""
        return frozenset(name for name in self.problems if self._up(name))

    @property
    def conditions(self) -> Mapping[str, Condition]:
        """Of tunnels that are up and could not be started again."""
        return {f"files:{name}": _condition(name, self.problems[name]) for name in self.not_to_be_ended}

    def _up(self, name: str) -> bool:
        known = self._engine.snapshot.tunnels.get(name)
        return known is not None and known[1].phase is Phase.UP

    def _keep(self, problems: Mapping[str, str]) -> None:
        if problems != self.problems:
            self.problems = problems
            self._post(Noticed(""))


def _condition(name: str, problem: str) -> Condition:
    text = f"tunnel {name} is up and could not be started again: {problem}"
    return Condition(text, "warning", f"facilitator check; facilitator status {name}", tunnel=name)
