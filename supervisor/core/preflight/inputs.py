"""Preflight checks: programs, Python packages, secrets, directories and ports."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from supervisor.core.preflight.facts import DirectoryFacts, HostFacts, PackageFacts, ProgramFacts, SecretFile
from supervisor.core.preflight.finding import Finding, info, ok, problem, warning

# The oldest version whose options we use.
_OLDEST: Mapping[str, str] = MappingProxyType({"openvpn": "2.4", "ssh": "8.0"})
_SPECIFIER = re.compile(r"(>=|<=|==|!=|<|>)\s*([0-9][0-9.]*)")
_FORBIDDEN_MODE_BITS = 0o027  # beyond rw-r-----
_LOW_SPACE_BYTES = 100_000_000
_DISTRIBUTION = "vpn-facilitator"


def programs(facts: HostFacts) -> Iterator[Finding]:
    """Is each client there, runnable and new enough?"""
    return (_program(program) for program in facts.programs)


def _program(program: ProgramFacts) -> Finding:
    names = ", ".join(program.tunnels)
    oldest = _OLDEST.get(program.name)
    if program.missing is not None:
        sentence, _, hint = program.missing.partition(" (Debian and Ubuntu: ")
        hint = hint.removesuffix(")") or f"install {program.name}"
        return problem("programs", f"{sentence}: these tunnels cannot start: {names}", hint)
    if program.error is not None:
        text = (
            f"{program.name} is there and does not run ({program.error}): these tunnels cannot start: {names}"
        )
        return problem("programs", text, f"{program.name} --version   # see what it says, then reinstall it")
    if program.version is None:
        return info("programs", f"{program.name} is there; it does not tell its version")
    if oldest is not None and numbers(program.version) < numbers(oldest):
        text = f"{program.name} {program.version} is older than {oldest}, whose options are needed ({names})"
        return problem(
            "programs", text, f"apt install {program.name}   # from a newer release or its maker's repository"
        )
    return ok("programs", f"{program.name} {program.version}")


def packages(facts: HostFacts) -> Iterator[Finding]:
    """Are the Python packages of the required versions?"""
    if facts.supervisord:
        text = (
            "PyPI's supervisor (supervisord) is installed in this Python environment: its package has "
            "the same name as facilitator's"
        )
        yield problem(
            "packages",
            text,
            f"python3 -m venv /opt/facilitator && /opt/facilitator/bin/pip install {_DISTRIBUTION}",
        )
    if not facts.packages:
        yield info(
            "packages",
            f"{_DISTRIBUTION} is not installed as a package, so what it requires cannot be compared",
        )
        return
    wrong = [package for package in facts.packages if not fits(package)]
    for package in wrong:
        found = f"is {package.version}" if package.version else "is missing"
        yield problem(
            "packages",
            f"the Python package {package.name} {found}; it must be {package.wanted or 'there'}",
            f"/opt/facilitator/bin/pip install '{package.name}{package.wanted}'   # the pip of the "
            f"facilitator's environment",
        )
    if not wrong:
        sshuttle = next(
            (f", sshuttle {p.version} among them" for p in facts.packages if p.name == "sshuttle"), ""
        )
        yield ok("packages", f"all {len(facts.packages)} Python packages have the locked versions{sshuttle}")


def fits(package: PackageFacts) -> bool:
    """Is it there, in the wanted range?"""
    if package.version is None:
        return False
    have = numbers(package.version)
    return all(_holds(have, sign, numbers(bound)) for sign, bound in _SPECIFIER.findall(package.wanted))


def _holds(have: tuple[int, ...], sign: str, bound: tuple[int, ...]) -> bool:
    return {
        ">=": have >= bound,
        "<=": have <= bound,
        ">": have > bound,
        "<": have < bound,
        "==": have == bound,
        "!=": have != bound,
    }[sign]


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, without zeros at the end, so that they compare."""
    leading = re.match(r"\d+(?:\.\d+)*", version)
    parts = [int(part) for part in leading[0].split(".")] if leading else []
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def secrets(facts: HostFacts) -> Iterator[Finding]:
    """Can all secrets be read, and by nobody else?"""
    found = [finding for secret in facts.secrets if (finding := _secret(secret)) is not None]
    yield from found
    sound = len(facts.secrets) - len(found)
    if sound:
        yield ok(
            "secrets",
            f"{sound} of {len(facts.secrets)} secrets and files of clients can be read, and only by those "
            f"who should",
        )


def _secret(secret: SecretFile) -> Finding | None:
    if secret.credential:
        return info(
            "secrets", f"{secret.what}: systemd gives it to the daemon as a credential when it starts it"
        )
    if secret.unseen:
        return info(
            "secrets",
            f"{secret.what}: this user may not read it; whether the daemon can is not known",
            "sudo facilitator doctor",
        )
    if secret.error is not None:
        return problem("secrets", f"{secret.what}: {secret.error}", _mended(secret, secret.error))
    if secret.mode is not None and secret.mode & _FORBIDDEN_MODE_BITS:
        text = f"{secret.what}: {secret.path} has mode {secret.mode:04o}, wider than 0640"
        return warning("secrets", text, f"chmod 0640 {secret.path}")
    return None


def _mended(secret: SecretFile, error: str) -> str:
    """What to do about an input that cannot be read."""
    if secret.path is None:
        return "Environment= in the unit, env in the Nomad task"
    if "Permission denied" in error:
        return f"chgrp facilitator {secret.path} && chmod 0640 {secret.path}   # and 0755 for its directories"
    if " of the unit)" in error:
        return f"put it into /etc/facilitator instead of {secret.path}"
    return f"install -m 0640 -g facilitator /dev/stdin {secret.path}   # paste it, Ctrl-D"


def directories(facts: HostFacts) -> Iterator[Finding]:
    """Can the daemon write where it must?"""
    return (_directory(directory) for directory in facts.directories)


def _directory(directory: DirectoryFacts) -> Finding:
    if directory.unseen:
        text = f"{directory.path}: this user may not write there; whether the daemon can is not known"
        return info("directories", text, "sudo facilitator doctor")
    if directory.error is not None:
        text = f"{directory.path} cannot be written ({directory.error}); see {directory.setting}"
        hint = (
            f"install -d -m 0700 -o facilitator -g facilitator {directory.path}   # or "
            f"StateDirectory=, RuntimeDirectory=, LogsDirectory= in the unit"
        )
        if "ProtectSystem=" in directory.error:
            hint = f"systemctl edit facilitator, [Service]: ReadWritePaths={directory.path}; or /var/log/facilitator"
        return problem("directories", text, hint)
    if directory.free is not None and directory.free < _LOW_SPACE_BYTES:
        text = (
            f"{directory.path} has only {directory.free // 1_000_000} MB left; incidents that cannot "
            f"be written down are not sent"
        )
        return warning("directories", text, f"df -h {directory.path}")
    return ok("directories", f"{directory.path} can be written ({directory.setting})")


def full(facts: HostFacts) -> Iterator[Finding]:
    """Directories into which a running daemon can write nothing any more."""
    for setting, path in facts.full:
        text = f"{path} ({setting}) is full: what clients say, incidents and what outlives a crash cannot be written"
        yield problem("full-directory", text, f"df -h {path}; df -i {path}   # and make room")


def ports(facts: HostFacts) -> Iterator[Finding]:
    """Does another program listen on a port that we need?"""
    free = True
    for listener in facts.listeners:
        program = listener.program or "a program that cannot be seen from here"
        look = f"ss -ltnp 'sport = :{listener.port}'"
        if listener.port == facts.requirements.http_port:
            free = False
            text = f"{program} listens on port {listener.port}, which http.listen names"
            yield problem("ports", text, f"{look}   # end it, or change http.listen")
        elif facts.requirements.proxies:
            free = False
            text = (
                f"{program} listens on port {listener.port}; the ports of the proxies (17300 to 18299) "
                f"are closed to the network, "
                "so nobody will reach it"
            )
            yield warning("ports", text, f"{look}   # then give it another port")
    if free:
        yield ok("ports", "ports are free")
