"""Why Nomad ends this task: asked of its task API, the Unix socket `api.sock` in the task's secrets directory
(https://developer.hashicorp.com/nomad/api-docs/task-api).

A SIGTERM looks the same for `alloc restart`, a new version of the job, a node drain and `job stop`. The
allocation and the job tell them apart. Asking needs the job's `identity` block and, with ACLs, a policy with
the capability read-job.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from supervisor.control.stop_reason import StopReason, StopVerdict

TIMEOUT_SECONDS = 1.0  # for all questions together
MAX_ANSWER_BYTES = 8 << 20
_SOCKET, _TOKEN = "api.sock", "nomad_token"
_OK, _FORBIDDEN, _NOT_FOUND = 200, 403, 404
_STAYS_ON_ITS_NODE = ("system", "sysbatch", None)  # types of jobs whose next allocation is on this node
IDENTITY = "in the task of the job file: identity { file = true }"
POLICY = 'namespace "{namespace}" {{ capabilities = ["read-job"] }}'


@dataclass(frozen=True, slots=True)
class Task:
    """The Nomad task that this process is."""

    allocation: str  # id
    job: str  # id
    namespace: str
    secrets: Path

    def __str__(self) -> str:
        return f"job {self.job} (namespace {self.namespace}), allocation {self.allocation}"

    def token(self, environ: Mapping[str, str] = os.environ) -> str | None:
        """The workload identity. The file is renewed before it expires, the variable is not."""
        try:
            return (self.secrets / _TOKEN).read_text().strip() or None
        except (OSError, ValueError):
            return environ.get("NOMAD_TOKEN") or None


def task(environ: Mapping[str, str] = os.environ) -> Task | None:
    """None: Nomad has not started this process."""
    allocation, job = (
        environ.get("NOMAD_ALLOC_ID"),
        environ.get("NOMAD_JOB_ID") or environ.get("NOMAD_JOB_NAME"),
    )
    secrets = environ.get("NOMAD_SECRETS_DIR")
    if not allocation or not job or not secrets:
        return None
    return Task(allocation, job, environ.get("NOMAD_NAMESPACE") or "default", Path(secrets))


class NotAnswered(Exception):
    """The task API gave no usable answer; the text says why, `remedy` is what to paste ("": nothing)."""

    def __init__(self, text: str, remedy: str = "") -> None:
        super().__init__(text)
        self.text, self.remedy = text, remedy

    def __str__(self) -> str:
        return f"{self.text}; {self.remedy}" if self.remedy else self.text


async def ask(about: Task, environ: Mapping[str, str] = os.environ) -> StopVerdict:
    """Why this task is being ended. Never raises; takes at most `TIMEOUT_SECONDS`."""
    try:
        return await _in_time(about, environ)
    except NotAnswered as error:
        return StopVerdict(StopReason.UNKNOWN, str(error))


async def _in_time(about: Task, environ: Mapping[str, str]) -> StopVerdict:
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            return await _asked(about, environ)
    except TimeoutError:
        raise NotAnswered(f"Nomad's task API did not answer within {TIMEOUT_SECONDS:g} s") from None


async def _asked(about: Task, environ: Mapping[str, str]) -> StopVerdict:
    token = about.token(environ)
    if token is None:
        raise NotAnswered("Nomad's task API cannot be asked: the task has no identity", IDENTITY)
    socket = about.secrets / _SOCKET
    path = f"/v1/job/{quote(about.job, safe='')}?namespace={quote(about.namespace, safe='')}"
    allocation, job = await asyncio.gather(
        _allocation(socket, token, about, about.allocation), _get(socket, token, about, path)
    )
    if job is not None and job.get("ID", about.job) != about.job:
        raise NotAnswered(f"Nomad's task API answered about another job: {job.get('ID')}")
    found = judged(allocation, job)
    if (
        found.reason in (StopReason.UPDATE, StopReason.LOST)
        and (job or {}).get("Type") not in _STAYS_ON_ITS_NODE
    ):
        following = await _allocation(socket, token, about, str(allocation["NextAllocation"]))
        if following.get("NodeID") != allocation.get("NodeID"):
            return StopVerdict(StopReason.STOP, "Nomad replaces the allocation on another node")
    return found


async def _allocation(socket: Path, token: str, about: Task, allocation: str) -> dict[str, Any]:
    answer = await _get(socket, token, about, f"/v1/allocation/{quote(allocation, safe='')}")
    if answer is None:
        raise NotAnswered("Nomad does not know this allocation any more")
    if answer.get("ID") != allocation:
        raise NotAnswered(f"Nomad's task API answered about another allocation: {answer.get('ID')}")
    return answer


def judged(allocation: Mapping[str, Any], job: Mapping[str, Any] | None) -> StopVerdict:
    """What the documents of the allocation and of its job (None: there is no such job) say about the end."""
    said, desired = str(allocation.get("DesiredDescription") or ""), allocation.get("DesiredStatus")
    if job is not None and job.get("Stop") is not True and desired == "run":
        return StopVerdict(StopReason.RESTART, "Nomad: the allocation is restarted")
    reason, text = _of_stopped(allocation, said)
    if job is None or job.get("Stop") is True:
        reason, text = StopReason.STOP, "the job is stopped"
    elif desired not in ("stop", "evict"):
        return StopVerdict(StopReason.UNKNOWN, f"Nomad's answer is not understood: DesiredStatus {desired!r}")
    return StopVerdict(reason, f"Nomad: {text}{f' ({said})' if said else ''}")


def _of_stopped(allocation: Mapping[str, Any], said: str) -> tuple[StopReason, str]:
    """What becomes of an allocation that should stop, although its job goes on."""
    transition = allocation.get("DesiredTransition")
    if isinstance(transition, Mapping) and transition.get("Migrate") is True:
        return StopReason.DRAIN, "the allocation leaves this node"
    if not allocation.get("NextAllocation"):
        return StopReason.STOP, "the allocation is stopped"
    if allocation.get("ClientStatus") == "lost" or "lost" in said:
        return StopReason.LOST, "the allocation was called lost and is replaced"
    return StopReason.UPDATE, "the allocation is replaced"


async def may_ask(about: Task, environ: Mapping[str, str] = os.environ) -> NotAnswered | None:
    """Why the task API cannot be asked, with the command that helps; None: it can."""
    try:
        found = await _in_time(about, environ)
    except NotAnswered as error:
        return error
    return NotAnswered(found.text) if found.reason is StopReason.UNKNOWN else None


async def _get(socket: Path, token: str, about: Task, path: str) -> dict[str, Any] | None:
    """The JSON object of one GET; None: there is no such thing (404). NotAnswered.

    HTTP/1.0, so that the answer ends with the connection and is never chunked.
    """
    try:
        reader, writer = await asyncio.open_unix_connection(str(socket))
    except OSError as error:
        raise NotAnswered(f"Nomad's task API cannot be asked: {socket}: {error.strerror}") from error
    try:
        writer.write(f"GET {path} HTTP/1.0\r\nHost: nomad\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
        answer = await _all_of(reader)
    except OSError as error:
        raise NotAnswered(f"Nomad's task API broke off: {error.strerror or error}") from error
    finally:
        writer.close()
    status, body = _parsed(answer)
    if status == _NOT_FOUND:
        return None
    if status != _OK:
        raise _refusal(status, body, about)
    try:
        document = json.loads(body)
    except ValueError as error:
        raise NotAnswered("Nomad's task API gave half an answer, or something that is not JSON") from error
    if not isinstance(document, dict):
        raise NotAnswered("Nomad's task API answered something else than an object")
    return document


async def _all_of(reader: asyncio.StreamReader) -> bytes:
    answer = bytearray()
    while piece := await reader.read(1 << 16):
        answer += piece
        if len(answer) > MAX_ANSWER_BYTES:
            raise NotAnswered(f"Nomad's task API answered more than {MAX_ANSWER_BYTES >> 20} MiB")
    return bytes(answer)


def _parsed(answer: bytes) -> tuple[int, bytes]:
    """The status and the body. NotAnswered: this is no HTTP, or not all of it."""
    head, end, body = answer.partition(b"\r\n\r\n")
    first, *headers = head.decode("latin-1").split("\r\n")
    words = first.split()
    if not end or len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdecimal():
        raise NotAnswered("Nomad's task API gave half an answer, or something that is not HTTP")
    lengths = [
        value
        for name, _, value in (line.partition(":") for line in headers)
        if name.lower() == "content-length"
    ]
    if lengths and lengths[0].strip() != str(len(body)):
        raise NotAnswered("Nomad's task API gave half an answer")
    return int(words[1]), body


def _refusal(status: int, body: bytes, about: Task) -> NotAnswered:
    said = body.decode(errors="replace").strip()[:200]
    text = f"Nomad's task API refused ({status}{f': {said}' if said else ''})"
    if status == _FORBIDDEN or "Unknown allocation" in said or "Permission denied" in said:
        rule = POLICY.format(namespace=about.namespace)
        return NotAnswered(
            f"{text}: the job may not read itself",
            f"echo '{rule}' | nomad acl policy apply -namespace {about.namespace} -job {about.job} "
            "facilitator-read-job -",
        )
    return NotAnswered(text)
