"""What the service is to be told, in order and at least once: kept in the journal until it is accepted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from hub.core import api
from hub.core.sidecar.clients import Report, ReportEnd, ReportUp
from hub.core.sidecar.journal import UnsentReport, report_line, told_line
from hub.sidecar.service import ServiceAway, ServiceLink, ServiceRefused

_RETRY_SECONDS = 0.5
_BATCH = 200  # ends that are told at once


class ReportOutbox:
    """`journal` takes a line; `refused` hears what the service will never accept."""

    def __init__(
        self,
        node: str,
        service: ServiceLink,
        journal: Callable[[str], None],
        refused: Callable[[str], None],
        unsent: Iterable[UnsentReport] = (),
    ) -> None:
        self._node, self._service, self._journal, self._refused = node, service, journal, refused
        self.unsent = {each.number: each for each in unsent}
        self._next = max(self.unsent, default=0) + 1
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()
        self._note()

    def put(self, run: str, report: Report) -> None:
        """Tell this, about a client of this run of the server."""
        unsent = UnsentReport(self._next, run, report)
        self._next += 1
        self.unsent[unsent.number] = unsent
        self._journal(report_line(unsent))
        self._note()

    async def emptied(self, within: float) -> bool:
        """Wait so long until the service has accepted everything."""
        try:
            async with asyncio.timeout(within):
                await self._emptied.wait()
        except TimeoutError:
            return False
        return True

    async def deliver(self) -> None:
        """For ever."""
        while True:
            await self._filled.wait()
            batch = self._batch()
            try:
                await self._tell(batch)
            except ServiceAway:
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            except ServiceRefused as error:
                self._refused(str(error))
            for each in batch:
                del self.unsent[each.number]
                self._journal(told_line(each.number))
            self._note()

    def _batch(self) -> list[UnsentReport]:
        """The first report, and the ends of the same run that follow it at once."""
        first, *rest = self.unsent.values()
        batch = [first]
        if isinstance(first.report, ReportEnd):
            for each in rest[: _BATCH - 1]:
                if each.run != first.run or not isinstance(each.report, ReportEnd):
                    break
                batch.append(each)
        return batch

    async def _tell(self, batch: list[UnsentReport]) -> None:
        run, report = batch[0].run, batch[0].report
        if isinstance(report, ReportUp):
            up = {"node": self._node, "boot": run, "session": report.session, "address": report.address}
            await self._service.up(api.SessionUp.model_validate(up))
            return
        ended = tuple(_end(each.report) for each in batch if isinstance(each.report, ReportEnd))
        await self._service.ended(api.SessionEnds(node=self._node, boot=run, ended=ended))

    def _note(self) -> None:
        waiting, empty = (self._filled, self._emptied) if self.unsent else (self._emptied, self._filled)
        waiting.set()
        empty.clear()


def _end(report: ReportEnd) -> api.SessionEnd:
    return api.SessionEnd(
        session=report.session, reason=report.reason, received_bytes=report.received, sent_bytes=report.sent
    )
