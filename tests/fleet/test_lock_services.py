"""What a lock service promises, asked of real servers: the same questions to etcd and to Consul."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from supervisor.core.fleet.lease import call_budget
from supervisor.fleet.consul import ConsulLock
from supervisor.fleet.etcd import EtcdLock
from supervisor.fleet.examining import examined
from supervisor.fleet.lock_service import LockService, LockServiceAway, LockServiceDenied
from supervisor.http_connections import HttpConnections, HttpRequest
from tests.lab.lock_engines import ConsulAgent, EngineTls, LoopbackEtcd, free_ports, program
from tests.lab.pki import Authority
from tests.lab.wait import eventually

pytestmark = pytest.mark.slow
TTL = 2.0
KEY = "facilitator/emea/locks/acme"
NO_CONSUL = "Consul is not on this machine, and .ci/consul could not have it from Debian's bullseye"


@pytest.fixture(scope="module", params=["etcd", "consul"])
def address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a running engine, with its name before it."""
    directory = tmp_path_factory.mktemp(request.param)
    if request.param == "etcd":
        if program("etcd") is None:
            pytest.skip("etcd is not on this machine: apt-get install etcd-server")
        cluster = LoopbackEtcd.local(directory)
        cluster.start()
        yield f"etcd {cluster.endpoints[0]}"
        cluster.stop()
        return
    if program("consul") is None:
        pytest.skip(NO_CONSUL)
    agent = ConsulAgent(directory, free_ports(1)[0])
    agent.start()
    yield f"consul {agent.address}"
    agent.stop()


def connected(address: str, ttl: float = TTL) -> LockService:
    engine, url = address.split()
    http = HttpConnections([url], lambda: None, call_budget(ttl))
    return EtcdLock(http, ttl) if engine == "etcd" else ConsulLock(http, ttl, "vpn1")


@pytest.fixture
async def service(address: str) -> AsyncIterator[LockService]:
    found = connected(address)
    for each in await found.list("facilitator/"):
        await found.delete(each.key)
    yield found
    await found.close()


async def test_only_one_lease_holds_a_lock(service: LockService) -> None:
    mine, theirs = await service.open_lease(), await service.open_lease()
    first = await service.acquire(KEY, "vpn1", mine.id)
    second = await service.acquire(KEY, "vpn2", theirs.id)
    again = await service.acquire(KEY, "vpn1", mine.id)
    assert first.held
    assert not second.held
    assert again.held  # as after an answer that was lost
    assert first.entry is not None
    assert second.entry is not None
    assert (second.entry.value, second.entry.lease) == ("vpn1", mine.id)
    assert second.entry.token == first.entry.token
    await service.release(KEY, theirs.id)  # not theirs
    assert not (await service.acquire(KEY, "vpn2", theirs.id)).held
    await service.release(KEY, mine.id)
    assert await service.get(KEY) is None
    third = await service.acquire(KEY, "vpn2", theirs.id)
    assert third.held  # at once, without any delay
    assert third.entry is not None
    assert third.entry.token > first.entry.token  # tokens order the holders


async def test_a_lease_that_nobody_renews_ends_with_its_keys(service: LockService) -> None:
    begun = time.monotonic()
    lease, other = await service.open_lease(), await service.open_lease()
    await service.acquire(KEY, "vpn1", lease.id)
    await service.put("facilitator/emea/nodes/vpn1", "{}", lease.id)
    while not (await service.acquire(KEY, "vpn2", other.id)).held:
        assert await service.renew(other.id)
        await asyncio.sleep(0.1)
    assert time.monotonic() - begun >= TTL  # never earlier
    assert not await service.renew(lease.id)
    assert await service.get("facilitator/emea/nodes/vpn1") is None


async def test_a_lease_that_is_renewed_goes_on_and_ends_when_it_is_revoked(service: LockService) -> None:
    lease = await service.open_lease()
    await service.put("facilitator/emea/nodes/vpn1", "{}", lease.id)
    end = time.monotonic() + 2 * TTL
    while time.monotonic() < end:
        assert await service.renew(lease.id)
        await asyncio.sleep(TTL / 3)
    assert await service.get("facilitator/emea/nodes/vpn1") is not None
    await service.revoke(lease.id)
    assert await service.get("facilitator/emea/nodes/vpn1") is None
    assert not await service.renew(lease.id)
    await service.revoke(lease.id)  # twice is once


async def test_values_are_written_listed_and_deleted(service: LockService) -> None:
    names = [f"facilitator/emea/orders/{n:02}" for n in range(3)]
    for name in reversed(names):
        await service.put(name, f"ümlaut {name}")
    await service.put("facilitator/emea/ordersX", "not below")
    listed = await service.list("facilitator/emea/orders/")
    assert [(each.key, each.value, each.lease) for each in listed] == [
        (name, f"ümlaut {name}", None) for name in names
    ]
    await service.put(names[0], "new")
    found = await service.get(names[0])
    assert found is not None
    assert found.value == "new"
    assert found.token > listed[0].token
    await service.delete(names[1])
    await service.delete(names[1])
    assert await service.get(names[1]) is None
    assert await service.list("facilitator/none/") == []
    large = "x" * 400_000
    await service.put(names[2], large)
    assert (await service.list("facilitator/emea/orders/"))[-1].value == large


async def test_a_key_of_an_ended_lease_can_be_written_with_the_next_one(service: LockService) -> None:
    """A member that was restarted writes its status again, although the lease before may still live."""
    before, after = await service.open_lease(), await service.open_lease()
    await service.put("facilitator/emea/nodes/vpn2", "before", before.id)
    await service.put("facilitator/emea/nodes/vpn2", "after", after.id)
    await service.put("facilitator/emea/nodes/vpn2", "later", after.id)
    await service.revoke(before.id)
    found = await service.get("facilitator/emea/nodes/vpn2")
    assert found is not None
    assert (found.value, found.lease) == ("later", after.id)


async def test_the_doctor_uses_it_and_leaves_nothing(service: LockService) -> None:
    found = await examined(service, "emea", "vpn1", locks=True)
    assert (found.away, found.denied) == ("", ())
    assert found.seconds > 0
    assert await service.list("facilitator/") == []


async def test_a_watch_tells_soon_after_each_change(service: LockService) -> None:
    seen: asyncio.Queue[float] = asyncio.Queue()

    async def watching() -> None:
        async for _ in service.watch("facilitator/emea/orders/"):
            seen.put_nowait(time.monotonic())

    task = asyncio.create_task(watching())
    await asyncio.wait_for(seen.get(), 10.0)  # it stands
    lease = await service.open_lease()
    for change in (
        service.put("facilitator/emea/orders/1", "a"),
        service.put("facilitator/emea/orders/1", "b", lease.id),
        service.delete("facilitator/emea/orders/1"),
    ):
        while not seen.empty():
            seen.get_nowait()
        await change
        await asyncio.wait_for(seen.get(), 10.0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_what_is_away_is_said_within_the_budget(address: str) -> None:
    engine = address.split(maxsplit=1)[0]
    service = connected(f"{engine} http://127.0.0.1:{free_ports(1)[0]}")
    begun = time.monotonic()
    with pytest.raises(LockServiceAway, match="refused"):
        await service.renew("1")
    with pytest.raises(LockServiceAway):
        async for _ in service.watch("facilitator/"):
            pass
    assert time.monotonic() - begun < 2 * call_budget(TTL) + 2.0


# --- etcd alone
# ----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(program("etcd") is None, reason="etcd is not on this machine")
async def test_with_tls_only_those_with_a_certificate_enter(tmp_path: Path) -> None:
    authority, strangers = Authority(tmp_path), tmp_path / "strangers"
    strangers.mkdir()
    stranger = Authority(strangers).issue("mallory", "clientAuth")
    server, ours = (
        authority.issue("127.0.0.1", "serverAuth,clientAuth"),
        authority.issue("vpn1", "clientAuth"),
    )

    def context(pair: object, ca: Path) -> ssl.SSLContext:
        made = ssl.create_default_context(cafile=ca)
        made.check_hostname = False
        if pair is not None:
            made.load_cert_chain(pair.certificate, pair.key)  # type: ignore[attr-defined]
        return made

    cluster = LoopbackEtcd.local(tmp_path, tls=EngineTls(server, authority.root.certificate))
    cluster.start()
    try:

        async def renewed(pair: object, ca: Path) -> bool:
            http = HttpConnections(cluster.endpoints, lambda: context(pair, ca), 5.0)
            service = EtcdLock(http, 5.0)
            try:
                return await service.renew((await service.open_lease()).id)
            finally:
                await service.close()

        assert await renewed(ours, authority.root.certificate)
        with pytest.raises(LockServiceAway, match="(?i)certificate"):  # an alert, or a reset
            await renewed(None, authority.root.certificate)
        with pytest.raises(LockServiceAway, match="(?i)certificate"):
            await renewed(stranger, authority.root.certificate)
        with pytest.raises(LockServiceDenied, match="certificate is not accepted"):
            await renewed(ours, strangers / "ca.crt")
    finally:
        cluster.stop()


@pytest.mark.skipif(program("etcd") is None, reason="etcd is not on this machine")
async def test_etcd_asks_for_a_password_and_its_tokens_end(tmp_path: Path) -> None:
    cluster = LoopbackEtcd.local(tmp_path)
    cluster.start()

    def service(password: str) -> EtcdLock:
        http = HttpConnections(cluster.endpoints, lambda: None, 5.0)
        return EtcdLock(http, 5.0, lambda: ("root", password))

    try:
        anonymous = HttpConnections(cluster.endpoints, lambda: None, 5.0)
        for path, document in (
            ("auth/user/add", {"name": "root", "password": "right"}),
            ("auth/user/grant", {"user": "root", "role": "root"}),
            ("auth/enable", {}),
        ):
            body = json.dumps(document).encode()
            answer = await anonymous.ask(HttpRequest("POST", f"/v3/{path}", body))
            assert answer.status == 200, answer.text
        with pytest.raises(LockServiceDenied):
            await EtcdLock(anonymous, 5.0).get(KEY)
        with pytest.raises(LockServiceDenied):
            await service("wrong").get(KEY)
        assert (await examined(service("wrong"), "emea", "vpn1", locks=True)).denied
        right = service("right")
        lease = await right.open_lease()
        assert (await right.acquire(KEY, "vpn1", lease.id)).held
        cluster.kill(0)
        cluster.launch(0)  # which forgets the tokens, and keeps the lease
        eventually(lambda: cluster.leader() is not None, 30.0, "it is back")
        assert await right.get(KEY) is not None
        assert await right.renew(lease.id)
        await right.close()
        await anonymous.close()
    finally:
        cluster.stop()


@pytest.mark.skipif(program("consul") is None, reason=NO_CONSUL)
async def test_consul_asks_for_a_token(tmp_path: Path) -> None:
    agent = ConsulAgent(tmp_path, free_ports(1)[0], token="11111111-2222-3333-4444-555555555555")  # noqa: S106
    agent.start()

    def service(token: str | None) -> ConsulLock:
        http = HttpConnections([agent.address], lambda: None, 5.0)
        return ConsulLock(http, TTL, "vpn1", None if token is None else lambda: token)

    try:
        for token in (None, "00000000-2222-3333-4444-555555555555"):
            with pytest.raises(LockServiceDenied):
                await service(token).open_lease()
        right = service(agent.token)
        lease = await right.open_lease()
        assert (await right.acquire(KEY, "vpn1", lease.id)).held
        await right.close()
    finally:
        agent.stop()
