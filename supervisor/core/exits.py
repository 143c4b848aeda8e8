"""Exit codes of every command (contract, section 2; 75, 77 and 78 are those of sysexits.h)."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """What a command's end means."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_UP = 3  # `status`, `why`: a tunnel is not up
    NO_DAEMON = 4  # the daemon does not answer
    RUNNING = 75  # another one is running
    NO_RIGHT = 77  # a privilege is missing
    CONFIG = 78  # the configuration is wrong


class CannotStart(Exception):
    """Why the daemon cannot run: an exit code and one sentence."""

    def __init__(self, code: Exit, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code
