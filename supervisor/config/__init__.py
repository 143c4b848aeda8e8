"""The configuration file: text in, `Config` or all errors with line and column out. Pure: reads no file.

`parse` is imported from its own module: it brings pydantic and YAML, which the daemon does without.
"""

from common.configuration.problems import ConfigErrors, Problem
from common.secrets import candidates
from supervisor.config.difference import ConfigDifference, difference
from supervisor.config.model import Config
from supervisor.config.resolved import changes, chosen

__all__ = [
    "Config",
    "ConfigDifference",
    "ConfigErrors",
    "Problem",
    "candidates",
    "changes",
    "chosen",
    "difference",
]
