"""Deliveries beyond the ordinary: what was given up is told once, and the operator may send it again or drop it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from watchdogd.entities import Level, Rule
from watchdogd.errors import StoreError, WatchdogdError
from watchdogd.own_alerts import OwnEvent, build_own_alert
from watchdogd.reports import OutboxChange
from watchdogd.store.batch import NewAlert
from watchdogd.telemetry import count_own_alerts

if TYPE_CHECKING:
    from collections.abc import Callable

    from watchdogd.entities import Alert, GivenUp
    from watchdogd.ports import Clock
    from watchdogd.reports import OutboxDrop, OutboxReport, OutboxRequest, OutboxRetry
    from watchdogd.store.outbox import Outbox
    from watchdogd.store.outbox_table import OutboxTable
    from watchdogd.telemetry import Counters
    from watchdogd.write.deliver import Deliverer

TRY_AGAIN_S = 5.0

GIVEN_UP_RULE = Rule(
    id="fffaefb4-c8ca-4236-9218-733a9b38eb56",
    title="Deliveries to a receiver are given up",
    level=Level.HIGH,
    description=(
        "A receiver of alerts refused them for good, or took none for so long that they were given up. Whoever reads "
        "alerts there does not know of them. They are kept: `watchdogd outbox list --state dead` shows them, "
        "`watchdogd outbox retry` sends them again."
    ),
    falsepositives=("A receiver that was taken away or given another address",),
    path="watchdogd/delivery_desk.py",
    triage="never",
)
"""Built in: only the writer knows it."""

log = logging.getLogger("watchdogd.service")


class DeliveryDesk:
    """One per daemon. The handlers raise StoreError where the database refuses."""

    def __init__(
        self,
        outbox: Outbox,
        table: OutboxTable,
        deliverer: Deliverer,
        choose_sinks: Callable[[Alert], tuple[str, ...]],
        wanted: asyncio.Event,
        counters: Counters,
        clock: Clock,
        host: str,
    ) -> None:
        """`choose_sinks` says who is told of an alert; `wanted` is set when something was given up."""
        self._outbox = outbox
        self._table = table
        self._deliverer = deliverer
        self._choose_sinks = choose_sinks
        self._wanted = wanted
        self._counters = counters
        self._clock = clock
        self._host = host

    async def run(self) -> None:
        """Tell of what was given up whenever the event is set, and of what an earlier life did not tell; for ever.

        Everybody is told but the sink itself and those to which deliveries are given up, too: no alert about a sink
        can come of an alert about it.
        """
        while True:
            self._wanted.clear()
            try:
                for given_up in await self._outbox.find_untold():
                    await self._tell(given_up)
            except StoreError as error:
                self._counters.add("write_store_errors_total")
                log.warning("what was given up cannot be told yet: %s", error)
                await asyncio.sleep(TRY_AGAIN_S)
            else:
                await self._wanted.wait()

    async def list(self, wanted: OutboxRequest) -> OutboxReport:
        """What is in the outbox."""
        return await self._table.list(wanted)

    async def retry(self, wanted: OutboxRetry) -> OutboxChange:
        """Send it again now, under the same ids. Raises WatchdogdError for a sink that is not configured."""
        sinks = self._deliverer.name_sinks()
        if wanted.sink is not None and wanted.sink not in sinks:
            raise WatchdogdError(f"no sink {wanted.sink!r} is configured: {', '.join(sorted(sinks)) or 'none is'}")
        count, touched = await self._table.retry(wanted, sinks)
        self._deliverer.resume(touched)
        return OutboxChange(count)

    async def drop(self, wanted: OutboxDrop) -> OutboxChange:
        """Never send it; it is counted as lost."""
        count = await self._table.drop(wanted)
        self._counters.add("write_dropped_total", count)
        log.warning("the operator dropped %d deliveries: %s", count, wanted.reason)
        return OutboxChange(count)

    async def _tell(self, given_up: GivenUp) -> None:
        troubles = await self._outbox.load_troubles()
        down = {trouble.sink for trouble in troubles if trouble.gave_up_ms is not None}
        alert = build_given_up_alert(given_up, self._host)
        sinks = tuple(sink for sink in self._choose_sinks(alert) if sink not in down)
        if await self._outbox.tell(given_up, NewAlert(alert, sinks, self._clock.now_ms(), triage=False)):
            count_own_alerts(self._counters, 1)
        log.error("deliveries to %s are given up: %s", given_up.sink, given_up.error)
        self._deliverer.resume(frozenset())


def build_given_up_alert(given_up: GivenUp, host: str) -> Alert:
    """What everybody else is told of a sink. Of one outage it is always the same alert."""
    sink, since_ms = given_up.sink, given_up.since_ms
    found = OwnEvent(
        rule=GIVEN_UP_RULE,
        action="deliveries_given_up",
        outcome="failure",
        time_ms=since_ms,
        began_ms=since_ms,
        about=sink,
        reason=f"deliveries to {sink} are given up: {given_up.error}",
        fields={"Sink": sink, "Error": given_up.error},
        matched=("Sink",),
        group=sink,
    )
    return build_own_alert(found, host)
