"""Known hosts: the host keys that ssh accepts (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT)."""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import hmac
import re
from collections.abc import Iterator

from tunnels.kinds.sshuttle.keys import text_of_key
from tunnels.profiles import ProfileError

_KEY_TYPE = re.compile(r"(?:ssh|ecdsa|sk-ssh|sk-ecdsa)-\S+")
_MARKERS = ("@cert-authority", "@revoked")
_HASHED = "|1|"


def read_known_hosts(data: bytes) -> tuple[str, ...]:
    """The patterns of hosts for which the file has keys. ProfileError: a line is none."""
    return tuple(
        pattern
        for number, line in enumerate(text_of_key(data).split("\n"), 1)
        if line.strip() and not line.lstrip().startswith("#")
        for pattern in _patterns(number, line.split())
    )


def _patterns(number: int, words: list[str]) -> Iterator[str]:
    marker = words.pop(0) if words[0] in _MARKERS else ""
    if words and _KEY_TYPE.fullmatch(words[0]):
        raise ProfileError("the host's name is missing before the key; write HOST before it", number)
    if len(words) < 3 or not _is_base64(words[2]):
        raise ProfileError("not of the form HOST TYPE KEY, as ssh-keyscan prints it", number)
    if marker != "@revoked":
        yield words[0]


def _is_base64(text: str) -> bool:
    try:
        return bool(base64.b64decode(text, validate=True))
    except ValueError:
        return False


def knows(patterns: tuple[str, ...], host: str, port: int) -> bool:
    """Some line is about this host. ssh looks for [HOST]:PORT first, and for HOST alone then."""
    names = (f"[{host}]:{port}".lower(), host.lower())
    return any(_is_about(pattern, name) for pattern in patterns for name in names)


def _is_about(pattern: str, name: str) -> bool:
    if pattern.startswith(_HASHED):
        return _is_hash_of(pattern, name)
    each = pattern.lower().split(",")
    if any(part.startswith("!") and _fits(part[1:], name) for part in each):
        return False
    return any(_fits(part, name) for part in each)


def _fits(pattern: str, name: str) -> bool:
    """`*` and `?` are wildcards; brackets are not."""
    return fnmatch.fnmatchcase(name, pattern.replace("[", "[[]"))


def _is_hash_of(pattern: str, name: str) -> bool:
    """|1|SALT|HASH: HMAC-SHA1 of the name."""
    try:
        salt, digest = (base64.b64decode(part) for part in pattern.removeprefix(_HASHED).split("|"))
    except ValueError:
        return False
    return hmac.compare_digest(hmac.new(salt, name.encode(), hashlib.sha1).digest(), digest)
