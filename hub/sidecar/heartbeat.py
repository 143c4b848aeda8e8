"""Heartbeats: what the server has, told to the session service again and again, and what it wants done."""

from __future__ import annotations

import asyncio
import time

import structlog

from hub.sidecar.service import ServiceAway, ServiceLink, ServiceRefused
from hub.sidecar.sidecar import Sidecar

_REPORTS_SECONDS = 1.0  # for reports that are under way: a heartbeat would say the same with fewer words
_PAUSE_SECONDS = 0.1  # at least, between two heartbeats
_RETRY_SECONDS = 1.0
_COUNT_SECONDS = 60.0  # between two looks at the bytes of all sessions


async def heartbeats(sidecar: Sidecar, service: ServiceLink, interval: float) -> None:
    """For ever. The service may hold its answer back for `interval` seconds, so that it can give an order at
    any time.
    """
    log = structlog.get_logger()
    counted = -_COUNT_SECONDS
    away = False
    while True:
        await sidecar.ready.wait()
        await sidecar.outbox.emptied(_REPORTS_SECONDS)
        if time.monotonic() - counted >= _COUNT_SECONDS:
            counted = time.monotonic()
            sidecar.count()
        said = sidecar.heartbeat(interval)
        if said is None:
            continue
        beat, asked = said
        try:
            answer = await service.heartbeat(beat)
        except (ServiceAway, ServiceRefused) as error:
            if not away:
                log.warning("the session service does not answer", why=str(error))
            away = True
            await asyncio.sleep(min(_RETRY_SECONDS, interval))
            continue
        if away:
            log.info("the session service answers again")
        away = False
        sidecar.take_orders(beat.boot, asked, answer)
        await asyncio.sleep(_PAUSE_SECONDS)
