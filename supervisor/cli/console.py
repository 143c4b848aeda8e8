"""Where tables are printed: a rich console that cleans whatever stands in them."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from tunnels.text import clean

_WIDE = 200


class Screen(Console):
    """Lets no character of a text control the terminal; colours are styles, and come after."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of anything that is to be printed, clean."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=clean(segment.text))


def screen(wide: int = _WIDE) -> Screen:
    """As wide as the terminal, or as `wide` where nobody looks at one."""
    terminal = Screen()
    return terminal if terminal.is_terminal else Screen(width=wide)
