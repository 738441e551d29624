"""What the control socket answers about alerts of the past; and what keeps their database within its limits."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from watchdogd.control import Takes
from watchdogd.errors import StoreError
from watchdogd.listings import AlertRequest, AlertsRequest, SilencesRequest
from watchdogd.quantities import read_keep_ms, read_max_bytes
from watchdogd.silence_desk import SilenceDesk
from watchdogd.store.history import History
from watchdogd.store.retention import Retention

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from watchdogd.config import StoreSettings
    from watchdogd.control import Handler
    from watchdogd.listings import AlertReport, AlertsReport
    from watchdogd.ports import Clock
    from watchdogd.reports import StatusReport
    from watchdogd.store.database import Store
    from watchdogd.telemetry import Counters

log = logging.getLogger("watchdogd.service")


class HistoryDesk:
    """One per daemon. Its loops are tasks."""

    def __init__(self, settings: StoreSettings, store: Store, counters: Counters, clock: Clock) -> None:
        keep_ms, max_bytes = read_keep_ms(settings.keep), read_max_bytes(settings.max_size)
        self._history = History(Path(settings.path), counters, clock, keep_ms=keep_ms, max_bytes=max_bytes)
        self._retention = Retention(store, counters, clock, keep_ms=keep_ms, max_bytes=max_bytes)
        self.silences = SilenceDesk(store, self._history, clock)

    @classmethod
    async def open(cls, settings: StoreSettings, store: Store, counters: Counters, clock: Clock) -> HistoryDesk:
        """The desk, with the silences that are in the database. Raises StoreError."""
        desk = cls(settings, store, counters, clock)
        await desk.silences.restore()
        return desk

    def loops(self) -> list[tuple[str, Coroutine[None, None, None]]]:
        """What the service runs as tasks, each with a name."""
        return [("retention", self._retention.run()), ("silences", self.silences.run())]

    def handlers(self) -> dict[str, Handler]:
        """For the control socket, by what is asked."""
        return {
            "alerts": Takes(AlertsRequest, self._history.search),
            "alert": Takes(AlertRequest, self.show),
            **self.silences.handlers(),
        }

    async def search(self, wanted: AlertsRequest) -> AlertsReport:
        """A page of alerts, the newest first. Raises StoreError."""
        return await self._history.search(wanted)

    async def show(self, wanted: AlertRequest) -> AlertReport:
        """Everything about one alert. Raises StoreError."""
        report = await self._history.show(wanted.alert_id)
        if report.alert.silence is None:
            return report
        return msgspec.structs.replace(report, silence=await self.silences.describe(report.alert.silence))

    async def complete(self, report: StatusReport) -> StatusReport:
        """Status with what the database knows; without, where it cannot be read now, which is logged."""
        try:
            history = await self._history.summarize()
            silences = await self.silences.list_silences(SilencesRequest())
        except StoreError as error:
            log.warning("%s", error)
            return report
        return msgspec.structs.replace(report, history=history, silences=silences.silences)
