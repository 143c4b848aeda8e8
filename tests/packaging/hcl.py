"""HashiCorp's own HCL parser, so that the job's syntax is judged by the real thing: its Go code as
WebAssembly (npm @cdktf/hcl2json).
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
_INSTALLED = HERE / "node_modules" / ".package-lock.json"  # npm writes it last


@dataclass(frozen=True)
class Parsed:
    """What the parser made of one text: a tree, or a complaint."""

    tree: dict[str, Any] | None = None
    error: str | None = None


def unavailable() -> str | None:
    """Why there is no parser here; None: there is one, or it can be installed."""
    missing = [program for program in ("node", "npm") if shutil.which(program) is None]
    return f"HashiCorp's parser needs {' and '.join(missing)}" if missing else None


def parse(texts: Sequence[str]) -> list[Parsed]:
    """Parse them all, in one start of the parser, which is installed at the first call."""
    if not _INSTALLED.exists() or _INSTALLED.stat().st_mtime < (HERE / "package-lock.json").stat().st_mtime:
        _run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], "")
        _INSTALLED.touch()
    return [Parsed(**result) for result in json.loads(_run(["node", "hcl2json.js"], json.dumps(texts)))]


def _run(command: list[str], text: str) -> str:
    done = subprocess.run(command, cwd=HERE, input=text, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout
