"""Keeps parts of libraries that a daemon never uses out of its memory. `apply` comes before everything else.

A package imports in its `__init__` all that it offers: aiohttp its client, prometheus_client its HTTP
servers. structlog takes rich where it is installed, for tracebacks that we do not print. pydantic looks for
plugins in every installed distribution. frozenlist, which aiohttp uses, brings the C++ library.
Together these were a quarter of the daemon's memory. docs/decisions/016-weight.md says what else was done.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import threading
from types import ModuleType

DEFERRED = ("aiohttp", "prometheus_client")


class DeferredPackage(ModuleType):
    """A package whose modules can be imported without its `__init__`, which runs as soon as anything else of
    it is asked for.
    """

    _loading = threading.RLock()
    _loaded = False

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        if importlib.util.find_spec(f"{self.__name__}.{name}") is not None:
            return importlib.import_module(f"{self.__name__}.{name}")
        with self._loading:
            if self._loaded or self.__spec__ is None or self.__spec__.loader is None:
                raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
            self._loaded = True
            self.__spec__.loader.exec_module(self)
        return getattr(self, name)


def defer(package: str) -> None:
    """From now on importing a module of the package runs that module alone. Does nothing where the package
    is loaded or not installed.
    """
    spec = None if package in sys.modules else importlib.util.find_spec(package)
    if spec is not None:
        module = importlib.util.module_from_spec(spec)
        module.__class__ = DeferredPackage
        module.__dict__["__version__"] = ""  # aiohttp's Server header, in place of which we send our own
        sys.modules[package] = module


def import_without(absent: str, package: str) -> None:
    """Load the package as if the other one, which is optional to it, were not installed."""
    if absent not in sys.modules:
        sys.modules[absent] = None  # type: ignore[assignment] # the documented way to say so
        try:
            importlib.import_module(package)
        finally:
            del sys.modules[absent]


def replace_plugin_search() -> None:
    """Let pydantic find no plugins without looking for any."""
    loader = ModuleType("pydantic.plugin._loader")
    loader.__dict__["get_plugins"] = tuple
    sys.modules.setdefault(loader.__name__, loader)


def import_in_python(package: str, switch: str) -> None:
    """Load the package without its C++ part. `switch`: the environment variable by which it offers that."""
    os.environ[switch] = "1"
    try:
        importlib.import_module(package)
    finally:
        del os.environ[switch]


def apply() -> None:
    """All of it. Called before everything else is imported."""
    for each in DEFERRED:
        defer(each)
    import_in_python("frozenlist", "FROZENLIST_NO_EXTENSIONS")
    import_without("rich", "structlog")
    replace_plugin_search()
