"""The configuration file: text in, `Config` or all mistakes with line and column out. Pure: reads no file."""

from supervisor.config.difference import ConfigDifference, difference
from supervisor.config.model import Config
from supervisor.config.parse import parse
from supervisor.config.problems import ConfigErrors, Problem
from supervisor.config.resolved import changes, chosen
from supervisor.config.secrets import candidates

__all__ = [
    "Config",
    "ConfigDifference",
    "ConfigErrors",
    "Problem",
    "candidates",
    "changes",
    "chosen",
    "difference",
    "parse",
]
