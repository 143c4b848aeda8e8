"""A client that gives up root gets a user of its own, that its programs can look up."""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path

import pytest

from supervisor.clients import users
from supervisor.clients.sandbox import boundary, confined
from supervisor.clients.users import NUMBERS, Users
from tunnels.base import Launch

pytestmark = pytest.mark.root


def directory(tmp_path: Path, name: str) -> Path:
    path = tmp_path / name
    path.mkdir()
    return path


def test_each_has_its_own_and_nobody_else_has_it(tmp_path: Path) -> None:
    picked = [Users().pick(directory(tmp_path, name)) for name in ("acme", "globex", "initech")]
    assert len({user.uid for user in picked if user is not None}) == 3
    for user in picked:
        assert user is not None
        assert user.uid in NUMBERS
        assert user.uid == user.gid
        with pytest.raises(KeyError):
            pwd.getpwuid(user.uid)


def test_a_number_that_somebody_has_is_not_given(tmp_path: Path) -> None:
    place, ours = directory(tmp_path, "acme"), Users()
    first = ours.pick(place)
    assert first is not None
    assert ours.pick(place) == first, "the next session has the same one"
    with subprocess.Popen(["setpriv", f"--reuid={first.uid}", "--clear-groups", "sleep", "1000"]) as sleep:
        while os.stat(f"/proc/{sleep.pid}").st_uid != first.uid:
            assert sleep.poll() is None
        second = Users().pick(place)
        assert second is not None
        assert second.uid != first.uid
        sleep.kill()


def test_its_programs_find_an_account_and_the_host_stays_as_it_is(tmp_path: Path) -> None:
    place = directory(tmp_path, "acme")
    user = Users().pick(place)
    assert user is not None
    before = Path("/etc/passwd").read_bytes()
    sandbox = boundary(Launch(("sh",), capabilities=("setuid", "setgid")), place, (), user)
    argv = [
        "setpriv",
        f"--reuid={user.uid}",
        f"--regid={user.gid}",
        "--clear-groups",
        "sh",
        "-c",
        "id -un; getent passwd root",
    ]
    process = confined(sandbox, lambda: subprocess.Popen(argv, stdout=subprocess.PIPE, text=True))
    assert process.communicate()[0].splitlines()[0] == "facilitator-client"
    assert Path("/etc/passwd").read_bytes() == before
    assert str(place / "passwd") not in Path("/proc/self/mountinfo").read_text()


def test_without_mount_namespaces_it_is_the_user_facilitator_or_nobody_at_all() -> None:
    try:
        account = pwd.getpwnam(users.NAME)
    except KeyError:
        with pytest.raises(LookupError, match="useradd --system --no-create-home facilitator"):
            users.shared_user()
    else:
        assert users.shared_user().uid == account.pw_uid
