"""The worst alerts go out although the database takes no commits: whoever fills the disk must not silence them."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Final

import msgspec

from watchdogd.entities import Alert, AlertState
from watchdogd.errors import DeliveryError
from watchdogd.grouping import GroupTable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from watchdogd.grouping import Facts
    from watchdogd.ports import Sink
    from watchdogd.telemetry import Counters

REASON: Final = "sent before it could be stored: the database takes no commits"
"""What an alert that is sent so has among its reasons."""

ATTEMPTS: Final = 3
SEND_S: Final = 30.0
REMEMBERED: Final = 2_000
"""Alerts that are told only once, however often they are handed in."""
WAITING: Final = 500
"""For each sink; beyond that the oldest are left to the commit."""
_log = logging.getLogger(__name__)


class _Item(msgspec.Struct, frozen=True):
    """What waits for a sink: an alert, and the group that it leads."""

    alert: Alert
    group: str | None


class Emergency:
    """Sends alerts past the outbox, each once to each of its sinks; a repeat of one that was sent is only counted.

    They are in no database: what is not taken here is delivered after the commit, under the same id. What is taken is
    remembered until then, of the latest 2,000 alerts. Counters: `write_emergency_total`,
    `write_emergency_folded_total`, `write_emergency_errors_total`.
    """

    def __init__(self, find_sink: Callable[[str], Sink | None], counters: Counters, *, pause_s: float = 2.0) -> None:
        self._find_sink = find_sink
        self._counters = counters
        self._pause_s = pause_s
        self._told: OrderedDict[str, tuple[str, ...]] = OrderedDict()
        """What was taken, and by which sinks."""
        self._groups = GroupTable(limit=REMEMBERED)
        self._lanes: dict[str, deque[_Item]] = {}
        self._busy: set[str] = set()
        self._arrived = asyncio.Event()
        for name in ("write_emergency_total", "write_emergency_folded_total", "write_emergency_errors_total"):
            counters.add(name, 0)

    def take(self, alert: Alert, sinks: Iterable[str], facts: Facts | None = None) -> None:
        """Have it sent soon; never waits. Neither what was taken before nor what repeats it is sent.

        `facts` say what it repeats, as they do in the database; without them it repeats nothing.
        """
        if alert.id in self._told:
            return
        self._told[alert.id] = ()
        if len(self._told) > REMEMBERED:
            self._told.popitem(last=False)
        names = tuple(sinks)
        if facts is not None and self._groups.take(alert, facts, names).state is not AlertState.ACTIVE:
            self._counters.add("write_emergency_folded_total", len(names) > 0)
            return
        marked = msgspec.structs.replace(alert, reasons=(*alert.reasons, REASON))
        for name in names:
            lane = self._lanes.setdefault(name, deque(maxlen=WAITING))
            lane.append(_Item(marked, None if facts is None else facts.key))
        self._arrived.set()

    def list_told(self, alert_id: str) -> tuple[str, ...]:
        """The sinks that have taken it."""
        return self._told.get(alert_id, ())

    def settle(self, alert_ids: Iterable[str]) -> None:
        """These are stored: what is not sent yet is left to the outbox, and repeats are counted there."""
        stored = {alert_id for alert_id in alert_ids if alert_id in self._told}
        if not stored:
            return
        for name, lane in self._lanes.items():
            self._lanes[name] = deque((item for item in lane if item.alert.id not in stored), maxlen=WAITING)
        self._groups = GroupTable(limit=REMEMBERED)

    async def run(self) -> None:
        """Send what was taken, one at a time to each sink, until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._arrived.wait()
                self._arrived.clear()
                for name, lane in self._lanes.items():
                    if lane and name not in self._busy:
                        self._busy.add(name)
                        group.create_task(self._empty(name), name=f"emergency to {name}")

    async def _empty(self, name: str) -> None:
        try:
            while self._lanes[name]:
                item = self._lanes[name].popleft()
                if not await self._send(name, item.alert) and item.group is not None:
                    self._groups.end(item.group, item.alert.id)
        finally:
            self._busy.discard(name)

    async def _send(self, name: str, alert: Alert) -> bool:
        """Whether it was taken."""
        problem = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(self._pause_s * attempt)
            sink = self._find_sink(name)
            if sink is None:
                return False
            try:
                async with asyncio.timeout(SEND_S):
                    await sink.send(alert, kind="alert", delivery_id=f"alert_{alert.id}")
            except (DeliveryError, TimeoutError) as error:
                problem = str(error) or "it took too long"
                if isinstance(error, DeliveryError) and not error.recoverable:
                    break
            except Exception as error:  # noqa: BLE001 - a sink's bug must not stop the others
                self._counters.add("write_sink_errors_total")
                _log.exception("sink %s failed in a way it should not", name)
                problem = type(error).__name__
                break
            else:
                self._counters.add("write_emergency_total")
                if alert.id in self._told:
                    self._told[alert.id] += (name,)
                return True
        self._counters.add("write_emergency_errors_total")
        _log.error("%s did not take alert %s, which waits for the database now: %s", name, alert.id, problem)
        return False
