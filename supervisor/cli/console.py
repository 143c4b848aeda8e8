"""The rich console on which tables are printed, with control characters removed."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from tunnels.text import clean

_NO_TERMINAL_WIDTH = 200  # characters


class Screen(Console):
    """Removes control characters from all text; colours are styles, and are added after that."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of a renderable, clean."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=clean(segment.text))


def screen(width: int = _NO_TERMINAL_WIDTH) -> Screen:
    """As wide as the terminal, or `width` if the output is no terminal."""
    terminal = Screen()
    return terminal if terminal.is_terminal else Screen(width=width)
