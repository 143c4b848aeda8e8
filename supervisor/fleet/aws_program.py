"""Keeps routes of VPC route tables at this host's network interface: a program of its own, so that boto3
(66 MB) is only loaded where `fleet.announce.aws` is configured, and a slow API holds up nothing else.

    first line of stdin:  {"tables": [...], "interface": "auto", "endpoint": null, "region": null}
    each further line:    {"networks": [...]}    what this member owns now; with the end of stdin it ends
    lines of stdout:      {"wrong": [...], "written": N, "problem": null}    when that changes

boto3 comes from the optional extra `vpn-facilitator[aws]`. Permissions come from the instance's role
(IMDSv2).
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import select
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from supervisor.core.fleet.cloud_routes import CloudMemory, CloudRoute, RouteTarget, RouteWrite, decide

LOOK_SECONDS = 5.0  # between two readings while everything is as it should be
AGAIN_SECONDS = 0.5  # between two readings while something is not
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 30.0  # after an error of the API, doubled each time
# Parts of the codes of errors that the next call would meet as well.
_OF_ALL = ("RequestLimit", "Throttl", "Auth", "Expired", "Unavailable", "InternalError", "OptInRequired")
_METADATA = "169.254.169.254"
_API_SECONDS = 5.0
_TRIAL = {"DestinationCidrBlock": "192.0.2.0/24", "DryRun": True}  # RFC 5737: nobody's network


@dataclass(frozen=True, slots=True)
class AwsSettings:
    """`fleet.announce.aws`."""

    tables: tuple[str, ...]
    interface: str
    endpoint: str | None
    region: str | None


class AwsProblem(Exception):
    """The routes could not be looked at, or not be written; why, in one sentence."""

    def __init__(self, text: str, *, of_one: bool = False) -> None:
        """`of_one`: only this call was refused, others may be accepted."""
        super().__init__(text)
        self.of_one = of_one


class RouteKeeper:
    """The routes at one EC2 API."""

    def __init__(self, ec2: Any, tables: Sequence[str], interface: str) -> None:
        """`ec2`: a client of boto3."""
        self._ec2, self._tables, self._interface = ec2, tables, interface
        self._memory = CloudMemory()
        self.written = 0

    def turn(self, networks: Sequence[str]) -> list[str]:
        """Read, and write what is wrong. Returns what does not show yet. AwsProblem: why some could not be
        written; one that is refused does not hold up the others.
        """
        wanted = [CloudRoute(table, network) for table in self._tables for network in networks]
        with explained():
            seen = self._seen()
        writes, memory = decide(wanted, self._interface, seen, self._memory, time.monotonic())
        written = {route: at for route, at in memory.written.items() if route not in writes}
        self._memory = replace(memory, written=written)
        refused: list[str] = []
        for route, how in writes.items():
            try:
                with explained():
                    self._write(route, how)
            except AwsProblem as problem:
                if not problem.of_one:
                    raise
                refused.append(str(problem))
                continue
            self.written += 1
            written[route] = memory.written[route]
        if refused:
            more = f"; so are {len(refused) - 1} more" if len(refused) > 1 else ""
            raise AwsProblem(refused[0] + more)
        return sorted(f"{route.table} {route.network}" for route in (*memory.written, *memory.doubted))

    def dry_run(self) -> Iterator[str]:
        """What would not be possible, a sentence each. It changes nothing (DryRun)."""
        try:
            with explained():
                self._ec2.describe_route_tables(RouteTableIds=list(self._tables))
        except AwsProblem as problem:
            yield f"the route tables cannot be read: {problem}"
        for table in self._tables:
            for call in (self._ec2.create_route, self._ec2.replace_route):
                try:
                    with explained():
                        call(RouteTableId=table, NetworkInterfaceId=self._interface, **_TRIAL)
                except AwsProblem as problem:
                    if "DryRunOperation" not in str(problem):
                        yield f"routes of {table} cannot be written: {problem}"

    def _seen(self) -> Mapping[CloudRoute, RouteTarget]:
        answer = self._ec2.describe_route_tables(RouteTableIds=list(self._tables))
        return {
            CloudRoute(table["RouteTableId"], network): RouteTarget(
                route.get("NetworkInterfaceId"), route.get("State") == "active"
            )
            for table in answer["RouteTables"]
            for route in table["Routes"]
            if (network := route.get("DestinationCidrBlock") or route.get("DestinationIpv6CidrBlock"))
        }

    def _write(self, route: CloudRoute, how: RouteWrite) -> None:
        key = "DestinationIpv6CidrBlock" if ":" in route.network else "DestinationCidrBlock"
        call = self._ec2.create_route if how is RouteWrite.CREATE else self._ec2.replace_route
        call(RouteTableId=route.table, NetworkInterfaceId=self._interface, **{key: route.network})


class OrderLines:
    """Lines of a pipe, without a buffer that select(2) does not see."""

    def __init__(self, pipe: int) -> None:
        self._pipe, self._rest = pipe, b""

    def next(self, seconds: float | None) -> str | None:
        """The next line, within so many seconds (None: any time); None: there is none. EOFError."""
        while b"\n" not in self._rest:
            if not select.select([self._pipe], [], [], seconds)[0]:
                return None
            data = os.read(self._pipe, 1 << 16)
            if not data:
                raise EOFError
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()


def metadata(path: str) -> str:
    """An answer of the instance's metadata service, version 2. OSError."""
    life = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    token = _asked("PUT", "/latest/api/token", life)
    return _asked("GET", f"/latest/meta-data/{path}", {"X-aws-ec2-metadata-token": token})


def _asked(method: str, path: str, headers: Mapping[str, str]) -> str:
    connection = http.client.HTTPConnection(_METADATA, timeout=2.0)
    try:
        connection.request(method, path, headers=dict(headers))
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace").strip()
    except http.client.HTTPException as error:
        raise OSError(f"the metadata service does not speak HTTP: {error}") from error
    finally:
        connection.close()
    if answer.status != http.client.OK:
        raise OSError(f"the metadata service answers {path} with status {answer.status}")
    return text


def _keeper(settings: AwsSettings) -> RouteKeeper:
    import boto3
    from botocore.config import Config

    region = settings.region or metadata("placement/region")
    interface = settings.interface
    if interface == "auto":
        interface = metadata(f"network/interfaces/macs/{metadata('mac')}/interface-id")
    limits = Config(
        connect_timeout=_API_SECONDS, read_timeout=_API_SECONDS, retries={"total_max_attempts": 1}
    )
    ec2 = boto3.client("ec2", region_name=region, endpoint_url=settings.endpoint, config=limits)
    return RouteKeeper(ec2, settings.tables, interface)


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """A context in which whatever the API, its client or the network does becomes an AwsProblem."""
    try:
        import botocore.exceptions as aws
    except ImportError:
        text = "boto3 is not installed beside the facilitator: pip install 'vpn-facilitator[aws]'"
        raise AwsProblem(text) from None
    try:
        yield
    except aws.ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        raise AwsProblem(_sentence(error), of_one=not any(word in code for word in _OF_ALL)) from error
    except (aws.BotoCoreError, OSError, LookupError, TypeError, ValueError) as error:
        raise AwsProblem(_sentence(error)) from error


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _settings(line: str) -> AwsSettings:
    raw = json.loads(line)
    return AwsSettings(tuple(raw["tables"]), raw["interface"], raw["endpoint"], raw["region"])


def _dry_run(settings: AwsSettings) -> int:
    try:
        with explained():
            keeper = _keeper(settings)
        problems = list(keeper.dry_run())
    except AwsProblem as problem:
        problems = [str(problem)]
    print(json.dumps({"problems": problems}))
    return 0


def main() -> int:
    """Until stdin ends. With `--dry-run`: one line on stdout, `{"problems": [...]}`."""
    if sys.argv[1:] == ["--dry-run"]:
        return _dry_run(_settings(sys.stdin.read()))
    orders = OrderLines(sys.stdin.fileno())
    settings = _settings(orders.next(None) or "{}")
    keeper: RouteKeeper | None = None
    networks: list[str] = []
    chance = random.SystemRandom().random
    pause, wait, said = FIRST_PAUSE_SECONDS, 0.0, ""
    while True:
        try:
            while (line := orders.next(wait)) is not None:
                networks, wait = json.loads(line)["networks"], 0.0
        except EOFError:
            return 0
        wrong, problem, written = networks, None, 0
        try:
            if networks:
                with explained():
                    keeper = keeper or _keeper(settings)
                wrong = keeper.turn(networks)
                written = keeper.written
            wait, pause = AGAIN_SECONDS if wrong else LOOK_SECONDS, FIRST_PAUSE_SECONDS
        except AwsProblem as error:  # again, later
            problem = str(error)
            wait = pause * (0.5 + chance() / 2)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        text = json.dumps({"wrong": list(wrong), "written": written, "problem": problem})
        if text != said:
            said = text
            print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
