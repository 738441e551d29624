"""The ledger's amounts gathered from where they are: counters, what is in hand, and the database's own tallies."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

import msgspec

from watchdogd.errors import StoreError
from watchdogd.ledger import LedgerReport, balance_ledger
from watchdogd.store.tally import read_tallies

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from watchdogd.reports import StatusReport
    from watchdogd.store.database import Store
    from watchdogd.telemetry import Counters

CHECK_EVERY_S: Final = 60.0
LOOKS: Final = 3
"""Of a ledger that does not add up: what was just on its way from one count to the next is there at the next look."""
LOOK_AGAIN_S: Final = 0.05

_CARRIED: Final = {
    "alerts_carried": "alerts_stored",
    "questions_carried": "questions_waiting",
    "deliveries_carried": "deliveries_pending",
}
_NOW: Final = frozenset(_CARRIED.values())

log = logging.getLogger("watchdogd.service")


class LedgerDesk:
    """One per daemon, made before anything is committed."""

    def __init__(
        self,
        store: Store,
        counters: Counters,
        count_in_flight: Callable[[], Mapping[str, int]],
        carried: Mapping[str, int],
    ) -> None:
        """`count_in_flight` says what is in hand now; `carried` are the tallies that the daemon found."""
        self._store = store
        self._counters = counters
        self._count_in_flight = count_in_flight
        self.carried = carried
        """What the daemon found, by name."""
        self._complained = False

    @classmethod
    async def open(
        cls, store: Store, counters: Counters, count_in_flight: Callable[[], Mapping[str, int]]
    ) -> LedgerDesk:
        """Note what is in the database now. Raises StoreError."""
        return cls(store, counters, count_in_flight, await store.read(read_tallies))

    def loops(self) -> list[tuple[str, Coroutine[None, None, None]]]:
        """What the service runs as tasks, each with a name."""
        return [("ledger", self.run())]

    async def complete(self, report: StatusReport) -> StatusReport:
        """Status with the ledger, and counters as they were when it was made."""
        ledger = await self.report()
        return msgspec.structs.replace(
            report, ledger=ledger, counters=self._counters.snapshot(), gauges=self._counters.gauges()
        )

    async def report(self) -> LedgerReport:
        """The ledger as it is now. Never raises: where the database cannot be read, it says which parts it lacks."""
        report = await self._look()
        for _ in range(LOOKS - 1):
            if report.complete:
                break
            await asyncio.sleep(LOOK_AGAIN_S)
            report = await self._look()
        self._counters.set_gauge("ledger_complete", int(report.complete))
        return report

    async def run(self) -> None:
        """Look at the ledger once a minute, for ever; what does not add up is logged once."""
        while True:
            await asyncio.sleep(CHECK_EVERY_S)
            report = await self.report()
            if not report.complete and not self._complained:
                log.error("the ledger does not add up: %s (watchdogd status)", "; ".join(report.unaccounted))
            self._complained = not report.complete

    async def _look(self) -> LedgerReport:
        """All counts of one moment: nothing is awaited between the tallies and the counters."""
        try:
            tallies = await self._store.read(read_tallies)
        except StoreError as error:
            log.warning("%s", error)
            unread = frozenset({*_CARRIED, *self.carried})
            return balance_ledger(self._counters.snapshot() | dict(self._count_in_flight()), unread)
        amounts = self._counters.snapshot() | dict(self._count_in_flight())
        for name, count in tallies.items():
            amounts[name] = count if name in _NOW else count - self.carried[name]
        for name, kept in _CARRIED.items():
            amounts[name] = self.carried[kept]
        return balance_ledger(amounts)
