"""The installed sshuttle fits our changes, and one that does not is refused with a sentence that says what is
missing.
"""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tunnels.driver import explained
from tunnels.base import Reason
from tunnels.drivers.cli import Unfit
from tunnels.kinds.sshuttle import ssnet_patch
from tunnels.kinds.sshuttle.compatibility import ATTRIBUTES, NAMES, VERSIONS, check
from tunnels.kinds.sshuttle.kind import PROGRAM, SshuttleDialogue
from tunnels.kinds.sshuttle.package import remote_source

PACKAGE = Path(importlib.import_module("sshuttle").__file__ or "").parent
VERSION = importlib.import_module("sshuttle").__version__
SSNET = (PACKAGE / "ssnet.py").read_text()
# Names of ssnet.py that are no words of anything else in it, so that renaming one is renaming that one alone.
NOT_RENAMED = {
    "log",
    "ssh",
    "send",
    "setup",
    "check",
    "ok",
    "done",
    "start",
    "bind",
    "connect",
    "main",
    "Fatal",
}


def ssnet(source: str) -> types.ModuleType:
    """A module of its own with this source: nothing of ours is left in it for the next test."""
    module = types.ModuleType("sshuttle.ssnet")
    exec(compile(source, "ssnet.py", "exec"), vars(module))
    return module


def modules(**changed: types.ModuleType) -> dict[str, Any]:
    """The modules of the installed package, with a fresh ssnet, and these in the place of others."""
    installed = {name: importlib.import_module(f"sshuttle.{name}") for name in NAMES}
    return {**installed, "ssnet": ssnet(SSNET), **changed}


def renamed(source: str, name: str) -> str:
    return re.sub(rf"\b{name}\b", f"{name}_of_another_version", source)


def test_the_installed_one_fits() -> None:
    check(modules(), VERSION)


def test_a_frame_really_goes_through() -> None:
    """An end whose data never arrives is found, although it has every name."""
    mute = SSNET.replace("wrote = _nb_clean(self.wfile.write, self.outbuf[0])", "wrote = len(self.outbuf[0])")
    assert mute != SSNET
    with pytest.raises(Unfit, match=r"cannot be used: it carries nothing \(.*did not arrive.*; install"):
        check(modules(ssnet=ssnet(mute)), VERSION)


def test_a_frame_arrives_unchanged() -> None:
    shout = SSNET.replace(
        "data = self.inbuf[HDR_LEN:self.want]", "data = self.inbuf[HDR_LEN:self.want].upper()"
    )
    assert shout != SSNET
    with pytest.raises(Unfit, match=r"it carries nothing \(.*arrived changed"):
        check(modules(ssnet=ssnet(shout)), VERSION)


def attributes() -> Iterator[tuple[str, str]]:
    for owner, names in ATTRIBUTES.items():
        for name in names:
            if name not in NOT_RENAMED:
                yield owner, name


@pytest.mark.parametrize(("owner", "name"), list(attributes()))
def test_a_renamed_attribute_is_named(owner: str, name: str) -> None:
    """Whatever our changes use of an object: one sentence, which says the name."""
    with pytest.raises(Unfit) as unfit:
        check(modules(ssnet=ssnet(renamed(SSNET, name))), VERSION)
    text = str(unfit.value)
    assert text.startswith("this version of sshuttle cannot be used: it has no sshuttle.ssnet."), text
    assert text.endswith(f"; install {VERSIONS}")
    assert f".{name}" in text.partition(";")[0]
    assert "\n" not in text


@pytest.mark.parametrize("name", [n for n in NAMES["ssnet"] if n not in NOT_RENAMED])
def test_a_renamed_name_of_the_module_is_named(name: str) -> None:
    with pytest.raises(Unfit, match=rf"it has no (.*, )?sshuttle\.ssnet\.{name}[,;]"):
        check(modules(ssnet=ssnet(renamed(SSNET, name))), VERSION)


@pytest.mark.parametrize("module", [module for module in NAMES if module != "ssnet"])
def test_a_missing_name_of_another_module_is_named(module: str) -> None:
    for name in NAMES[module]:
        owner, _, member = name.partition(".")
        whole = importlib.import_module(f"sshuttle.{module}")
        members = {key: value for key, value in vars(whole).items() if key != owner}
        if member:
            kept = {
                key: getattr(getattr(whole, owner), key)
                for key in dir(getattr(whole, owner))
                if key != member
            }
            members[owner] = types.SimpleNamespace(
                **{k: v for k, v in kept.items() if not k.startswith("__")}
            )
        with pytest.raises(Unfit, match=rf"it has no (.*, )?sshuttle\.{module}\.{re.escape(name)}[,;]"):
            check(modules(**{module: types.SimpleNamespace(**members)}), VERSION)  # type: ignore[arg-type]


def test_what_a_newer_one_must_have_an_older_one_may_lack() -> None:
    without = renamed(SSNET, "dispose")
    check(modules(ssnet=ssnet(without)), "1.3.2")
    with pytest.raises(
        Unfit, match=r"it has no sshuttle\.ssnet\.Handler\.dispose, sshuttle\.ssnet\.Proxy\.dispose;"
    ):
        check(modules(ssnet=ssnet(without)), "2.0.0")


def test_everything_that_our_changes_use_of_the_module_is_checked() -> None:
    """By reading them: what they take from the namespace of ssnet stands in the list."""
    tree = ast.parse(Path(ssnet_patch.__file__).read_text())
    taken = {
        node.slice.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript)
        and isinstance(node.value, ast.Name)
        and node.value.id == "ssnet"
        and isinstance(node.slice, ast.Constant)
    }
    assert {"Mux", "Fatal", "CMD_TCP_DATA"} <= taken
    assert taken <= set(NAMES["ssnet"])


def test_everything_that_our_changes_use_of_an_object_is_checked() -> None:
    """By reading them: each attribute of a value that comes from sshuttle stands in a list."""
    known = {name for names in ATTRIBUTES.values() for name in names}
    ours = {"paused"}
    objects = {
        "mux_class",
        "mux_wrapper",
        "sock_wrapper",
        "proxy_class",
        "mux",
        "wrapper",
        "each",
        "one",
        "two",
    }
    used = {
        node.attr
        for function in ast.walk(ast.parse(Path(ssnet_patch.__file__).read_text()))
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in objects
    }
    assert {"connect_to", "outbuf", "rfile", "wfile", "socks", "channel"} <= used
    assert used - ours <= known


def test_the_remote_end_changes_itself() -> None:
    """The source that sshuttle sends: an end made of it understands large frames and pauses like this one."""
    module = types.ModuleType("sshuttle.ssnet")
    source = remote_source((PACKAGE / "ssnet.py").read_bytes())
    # of this process, which runs the tests
    without_limit = source.replace(b"_patch['limit_descriptors']()", b"")
    assert without_limit != source
    exec(compile(without_limit, "ssnet.py", "exec"), vars(module))
    assert vars(module)["cmd_to_name"][ssnet_patch.CMD_TCP_PAUSE] == "TCP_PAUSE"
    assert vars(module)["runonce"].__code__.co_filename == "ssnet_patch.py"


def test_an_old_python_can_run_what_is_sent() -> None:
    ast.parse(Path(ssnet_patch.__file__).read_text(), feature_version=(3, 6))


def test_the_program_ends_with_that_sentence_and_the_daemon_knows_the_reason(tmp_path: Path) -> None:
    copy = tmp_path / "sshuttle"
    subprocess.run(["cp", "-r", str(PACKAGE), str(copy)], check=True)
    (copy / "ssnet.py").write_text(renamed(SSNET, "shut_write"))
    run = "import sys, runpy; sys.path.insert(0, sys.argv.pop(1)); runpy.run_path(sys.argv[0], run_name='__main__')"
    code = run.replace("sys.argv[0]", repr(str(PROGRAM)))
    options = ("--port", "1", "--remote", "a@b", "--identity", "0", "--known-hosts", "0")
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(tmp_path), *options], capture_output=True, text=True
    )
    assert done.returncode == 99
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert "sshuttle.ssnet.SockWrapper.shut_write" in lines[0]
    [failed] = explained(SshuttleDialogue("host"), lines[0])
    assert (failed.reason, failed.text) == (Reason.MISSING_BINARY, lines[0].removeprefix("facilitator: "))
