"""The lock engine and the members' HTTP servers, connected as the configuration says."""

from __future__ import annotations

import ssl

from supervisor.app.files import Files
from supervisor.config.fleet import ClientTls, FleetSettings, LockEngine
from supervisor.core.fleet.lease import call_budget
from supervisor.fleet.consul import ConsulLock
from supervisor.fleet.etcd import EtcdLock
from supervisor.fleet.lock_service import LockService
from supervisor.fleet.member_api import MemberApis
from supervisor.http_connections import HttpConnections


def client_tls(tls: ClientTls) -> ssl.SSLContext:
    """How a server is asked. OSError or ValueError: a file cannot be used; reread each time, so that
    renewed files count.
    """
    context = ssl.create_default_context(cafile=None if tls.ca is None else str(tls.ca))
    if tls.certificate is not None and tls.key is not None:
        context.load_cert_chain(tls.certificate, tls.key)
    return context


def lock_service(engine: LockEngine, member: str, files: Files) -> LockService:
    """The engine, not yet asked anything."""
    if (etcd := engine.etcd) is not None:
        http = HttpConnections(etcd.endpoints, lambda: client_tls(etcd.tls), call_budget(etcd.ttl))
        name, password = etcd.username, etcd.password

        def user() -> tuple[str, str]:
            return name or "", "" if password is None else files.secret_text(password)

        return EtcdLock(http, etcd.ttl, None if name is None else user)
    consul = engine.consul
    assert consul is not None, "the configuration names one engine"
    token = consul.token
    http = HttpConnections([consul.address], lambda: client_tls(consul.tls), call_budget(consul.ttl))
    return ConsulLock(http, consul.ttl, member, None if token is None else lambda: files.secret_text(token))


def member_apis(fleet: FleetSettings, member: str | None) -> MemberApis:
    """The HTTP servers of the other members."""
    urls = {name: each.api for name, each in fleet.members.items() if name != member}
    return MemberApis(urls, lambda: client_tls(fleet.tls))


def members_of(fleet: FleetSettings, member: str | None) -> tuple[str, ...]:
    """All members that the configuration names, this one included."""
    return tuple(sorted({*fleet.members, *(() if member is None else (member,))}))
