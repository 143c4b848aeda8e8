"""What a daemon loads: only what its configuration needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.run_arguments import RunArguments, run_arguments

REPOSITORY = Path(__file__).parents[2]
# Libraries and parts of libraries, each with what would bring it in.
HEAVY = {
    "aiohttp.client": "`import aiohttp`",
    "charset_normalizer": "requests, aiohttp's client",
    "click": "the command line",
    "cryptography": "TLS, and tunnels with a certificate",
    "frozenlist._frozenlist": "aiohttp, with the C++ library",
    "google": "re2, protobuf",
    "jinja2": "the status page, when it is looked at",
    "prometheus_client.exposition": "a scrape",
    "psutil": "the preflight checks, a second after the start",
    "pydantic_core": "a configuration that is validated; that is done in another process",
    "pyotp": "a tunnel with one-time codes",
    "re2": "a tunnel with patterns",
    "requests": "an incident that is sent",
    "rich": "structlog",
    "sshuttle": "a tunnel's own process",
    "supervisor.config.parse": "a configuration that is validated",
    "supervisor.app.api.explain": "`facilitator why`",
    "supervisor.core.preflight.checklist": "`facilitator doctor`",
    "supervisor.core.preflight.live": "the preflight checks, a second after the start",
    "tenacity": "a client's management socket",
    "urllib3": "requests",
    "yaml": "a configuration that is parsed",
}
LOAD = """
import sys
sys.argv = ["facilitator", "run", "-c", sys.argv[1]]
from supervisor.__main__ import main
try:
    main()
except SystemExit as ended:
    assert ended.code == 78, ended.code
import supervisor.app.http_app
print(*sys.modules)
"""


def loaded(tmp_path: Path, *extra: str) -> set[str]:
    """The modules of a daemon that has read a wrong configuration, and of its API."""
    config = tmp_path / "config.yaml"
    config.write_text("tunnels: wrong\n")  # a right one would start a daemon here
    done = subprocess.run(
        [sys.executable, "-c", LOAD + "\n".join(extra), str(config)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return set(done.stdout.split())


@pytest.mark.slow
def test_nothing_heavy_is_loaded_for_a_small_configuration(tmp_path: Path) -> None:
    modules = loaded(tmp_path)
    assert {"supervisor.app.daemon", "aiohttp.web"} <= modules
    brought = {name: HEAVY[name] for name in HEAVY if name in modules}
    assert not brought, "these were loaded, for something that this configuration does not ask for"


@pytest.mark.slow
def test_the_rest_of_a_deferred_library_is_there_when_it_is_asked_for(tmp_path: Path) -> None:
    modules = loaded(
        tmp_path,
        "import aiohttp, prometheus_client",
        "assert aiohttp.web and 'aiohttp.client' not in sys.modules",
        "assert aiohttp.ClientSession and aiohttp.__version__ and prometheus_client.generate_latest",
        "assert not hasattr(aiohttp, 'nonsense')",
        "import rich.console",
        "print(*sys.modules)",
    )
    assert {"aiohttp.client", "prometheus_client.exposition", "rich.console"} <= modules


@pytest.mark.parametrize(
    ("arguments", "config"),
    [
        (["run"], "/from/environment"),
        (["run", "-c", "a.yaml"], "a.yaml"),
        (["run", "--config", "a.yaml"], "a.yaml"),
        (["run", "--config=a.yaml"], "a.yaml"),
        (["run", "--help"], None),
        (["run", "-c"], None),
        (["run", "-c", "-x"], None),
        (["run", "--config="], None),
        (["run", "-c", "a.yaml", "more"], None),
        (["status"], None),
        ([], None),
    ],
)
def test_the_command_line_of_the_daemon(arguments: list[str], config: str | None) -> None:
    environment = {"FACILITATOR_CONFIG": "/from/environment"}
    found = run_arguments(arguments, environment)
    assert found == (None if config is None else RunArguments(Path(config)))
    watching = run_arguments([*arguments[:1], "--watch", *arguments[1:]], environment)
    assert watching == (None if config is None else RunArguments(Path(config), watch=True))
    assert run_arguments(["run"], {}) == RunArguments(Path("/etc/facilitator/config.yaml"))
