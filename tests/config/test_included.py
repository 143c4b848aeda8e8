"""`include: conf.d/*.yaml`: more files with tunnels, and mistakes by file and line."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest

from common.configuration.sources import SourceFile, include_pattern, join, split
from supervisor import early_close
from supervisor.app.files import load, text_of
from supervisor.app.stores.last_configuration import ConfigurationReader, LastConfiguration, in_force
from supervisor.config import Config, ConfigErrors
from supervisor.config.parse import parse
from supervisor.core.exits import CannotStart
from supervisor.included import readable, watched
from supervisor.validation import Validator
from tunnels.registry import KINDS

MAIN = """\
staff: {networks: [10.8.0.0/16]}
include: conf.d/*.yaml   # one for each customer
defaults: {priority: 7}
tunnels:
  own: {kind: wireguard, destinations: [10.1.0.0/16], config: own.conf}
"""
ACME = "tunnels:\n  acme: {kind: openvpn, destinations: [10.77.0.0/24], config: customers/acme.ovpn}\n"


def written(directory: Path, main: str = MAIN, **included: str) -> Path:
    """The main file, beside a folder with these files."""
    (directory / "conf.d").mkdir(exist_ok=True)
    for name, text in included.items():
        (directory / "conf.d" / f"{name}.yaml").write_text(text)
    (directory / "config.yaml").write_text(main)
    return directory / "config.yaml"


def mistakes(path: Path) -> list[str]:
    """With the paths of files below the main file's directory."""
    with pytest.raises(ConfigErrors) as found:
        load(path, KINDS)
    return [str(problem).replace(f"{path.parent}/", "") for problem in found.value]


def test_tunnels_of_all_files_with_the_defaults_and_names_beside_the_main_file(tmp_path: Path) -> None:
    path = written(tmp_path, acme=ACME, empty="tunnels: {}\n")
    (tmp_path / "conf.d/.hidden.yaml").write_text("nonsense")
    (tmp_path / "conf.d/acme.yaml~").write_text("nonsense")
    config = load(path, KINDS)
    assert list(config.tunnels) == ["own", "acme"]
    assert config.tunnels["acme"].priority == 7
    assert getattr(config.tunnels["acme"], "config") == tmp_path / "customers/acme.ovpn"


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
@pytest.mark.root
def test_a_folder_that_the_daemon_may_not_list_is_an_error_in_words() -> None:
    with tempfile.TemporaryDirectory() as name:  # whose directories all users may pass through
        directory = Path(name)
        directory.chmod(0o755)
        path = written(directory, acme=ACME)
        load(path, KINDS)  # imports what it needs: the checkout may be closed to others
        (directory / "conf.d").chmod(0o700)
        os.seteuid(65534)
        try:
            with pytest.raises(CannotStart, match=f"do: chgrp facilitator {name}/conf.d && chmod 0750"):
                text_of(path)
            assert readable(path).startswith(MAIN)
            assert directory / "conf.d" in watched(path)
            closed = early_close.run(path, directory, lambda text, name: parse(text, name, KINDS))
        finally:
            os.seteuid(0)
    assert any("conf.d" in problem for problem in closed.problems)


def test_a_main_file_without_tunnels_of_its_own(tmp_path: Path) -> None:
    main = "include: conf.d/*.yaml\nstaff: {networks: [10.8.0.0/16]}\n"
    assert not load(written(tmp_path, main), KINDS).tunnels
    assert list(load(written(tmp_path, main, acme=ACME), KINDS).tunnels) == ["acme"]


def test_mistakes_name_file_and_line(tmp_path: Path) -> None:
    globex = ACME.replace("acme:", "globex:").replace("10.77.0.0/24", "10.77.0.5/24").replace("kind", "kimd")
    initech = ACME.replace("acme:", "initech:").replace("10.77.0.0/24", "10.77.0.0/25")
    assert mistakes(
        written(
            tmp_path,
            MAIN.replace("10.1.0.0/16", "10.1.0.5/16"),
            acme=ACME,
            broken="tunnels:\n  x: [\n",
            globex=globex,
            initech=initech,
            more="staff: {}\n" + ACME,
        )
    ) == [
        "config.yaml:5:41: tunnels.own.destinations.0: '10.1.0.5/16' has host bits set; the network is "
        "probably 10.1.0.0/16",
        "conf.d/broken.yaml:3:1: not YAML: this does not fit what stands before it; check indentation, colons "
        "and quotes",
        "conf.d/globex.yaml:2:3: tunnels.globex: kind is missing: one of command, openconnect, openfortivpn, "
        "openvpn, sshuttle, strongswan, vpnc, wireguard",
        "conf.d/globex.yaml:2:42: tunnels.globex.destinations.0: '10.77.0.5/24' has host bits set; the "
        "network is probably 10.77.0.0/24",
        "conf.d/initech.yaml:2:43: tunnels.initech.destinations.0: 10.77.0.0/25 lies inside 10.77.0.0/24, "
        "which is tunnels.acme.destinations.0 in line 2 of conf.d/acme.yaml",
        "conf.d/more.yaml:1:1: staff: an included file holds only tunnels:; this belongs into the main file",
        "conf.d/more.yaml:3:3: tunnels.acme: this tunnel stands here a second time; the first is in "
        "line 2 of conf.d/acme.yaml",
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("include: >-\n  conf.d/*.yaml", "must be one line at the left edge"),
        ("include: co*.d/*.yaml", "is not a pattern of files in one folder"),
        ("include: conf.d/", "is not a pattern of files in one folder"),
        ("include: [a.yaml]", "a text is expected here"),
    ],
)
def test_patterns_that_are_refused(tmp_path: Path, line: str, said: str) -> None:
    [found] = mistakes(written(tmp_path, f"{line}\nstaff: {{networks: [10.8.0.0/16]}}\ntunnels: {{}}\n"))
    assert said in found


@pytest.mark.parametrize(
    "text", ["include: 'a/*.yaml'", 'x: 1\ninclude: "a/*.yaml" # why', "include:  a/*.yaml "]
)
def test_the_pattern_is_found_without_yaml(text: str) -> None:
    assert include_pattern(text) == "a/*.yaml"


def test_a_file_with_the_mark_of_another_file_adds_none() -> None:
    text = join("a: 1\n", [SourceFile("b", "x\x1cincluded file evil\ntunnels: {}\n"), SourceFile("c", "")])
    assert [each.name for each in split(text)[1]] == ["b", "c"]


def test_an_included_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = written(tmp_path)
    (tmp_path / "conf.d/acme.yaml").write_bytes(b"\xff")
    with pytest.raises(CannotStart, match=r"conf\.d/acme\.yaml is not text in UTF-8"):
        text_of(path)


class CountingTexts:
    """Counts what it parses."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, text: str, name: str) -> Config:
        self.count += 1
        return parse(text, name, KINDS)


def test_an_included_file_counts_for_what_is_kept_closed_and_in_force(tmp_path: Path) -> None:
    state, parsed = tmp_path / "state", CountingTexts()
    state.mkdir()
    path = written(tmp_path, f"facilitator: {{state_dir: {state}}}\n{MAIN}", acme=ACME)
    reader = ConfigurationReader(path, KINDS, parsed)
    good = reader.load()
    LastConfiguration(path, state).keep(good.text, good.config)
    assert in_force(path, state)
    assert reader.load().config == good.config
    assert parsed.count == 1, "what was kept is not parsed again"
    assert "10.77.0.0/24" in json.loads((state / early_close.NAME).read_text())["destinations"]
    written(tmp_path, path.read_text(), acme=ACME.replace("10.77", "10.78"))
    assert not in_force(path, state)
    assert str(reader.load().config.tunnels["acme"].destinations[0].network) == "10.78.0.0/24"
    assert parsed.count == 2


def test_another_process_reads_all_files(tmp_path: Path) -> None:
    path = written(tmp_path, acme=ACME)
    assert Validator()(text_of(path), str(path)) == load(path, KINDS)


def test_files_and_folder_are_watched(tmp_path: Path) -> None:
    path = written(tmp_path, acme=ACME)
    assert set(watched(path)) == {path, tmp_path / "conf.d", tmp_path / "conf.d/acme.yaml"}
