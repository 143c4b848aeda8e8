"""The version of what is built is that of the checkout (`supervisor/version.py`), and the built package
reports the same; everything else stands in setup.cfg.
"""

import re
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

sys.path.insert(0, str(Path(__file__).parent))  # an isolated build does not have it there

from supervisor.version import version


def write_version(package: Path) -> None:
    """Write the version into `package`/__init__.py, as a new file: setuptools may have linked the old one."""
    file = package / "__init__.py"
    text = re.sub(r'^__version__ = ".*"$', f'__version__ = "{version()}"', file.read_text(), flags=re.M)
    file.unlink()
    file.write_text(text)


class BuildWithVersion(build_py):
    """Copies the packages; the copy holds the version that is built."""

    def run(self) -> None:
        """Copy, then write."""
        super().run()
        if not self.editable_mode:  # which copies nothing
            write_version(Path(self.build_lib) / "supervisor")


class SourcesWithVersion(sdist):
    """Collects the sources; without git they still know their version."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """Collect, then write."""
        super().make_release_tree(base_dir, files)
        write_version(Path(base_dir) / "supervisor")


setup(version=version(), cmdclass={"build_py": BuildWithVersion, "sdist": SourcesWithVersion})
