"""The worst alerts go out although the database takes no commits: whoever fills the disk must not silence them."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Final

import msgspec

from watchdogd.errors import DeliveryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from watchdogd.entities import Alert
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


class Emergency:
    """Sends alerts past the outbox, each once to each of its sinks.

    They are in no database: what is not taken here, or was taken and is found again, is delivered after the commit,
    under the same ids. Counters: `write_emergency_total`, `write_emergency_errors_total`.
    """

    def __init__(self, find_sink: Callable[[str], Sink | None], counters: Counters, *, pause_s: float = 2.0) -> None:
        self._find_sink = find_sink
        self._counters = counters
        self._pause_s = pause_s
        self._told: OrderedDict[str, None] = OrderedDict()
        self._lanes: dict[str, deque[Alert]] = {}
        self._busy: set[str] = set()
        self._arrived = asyncio.Event()
        for name in ("write_emergency_total", "write_emergency_errors_total"):
            counters.add(name, 0)

    def take(self, alert: Alert, sinks: Iterable[str]) -> None:
        """Have it sent soon; never waits. An alert that was taken before is not sent again."""
        if alert.id in self._told:
            return
        self._told[alert.id] = None
        if len(self._told) > REMEMBERED:
            self._told.popitem(last=False)
        marked = msgspec.structs.replace(alert, reasons=(*alert.reasons, REASON))
        for name in sinks:
            self._lanes.setdefault(name, deque(maxlen=WAITING)).append(marked)
        self._arrived.set()

    async def run(self) -> None:
        """Send what was taken, one at a time to each sink, until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._arrived.wait()
                self._arrived.clear()
                for name, lane in self._lanes.items():
                    if lane and name not in self._busy:
                        self._busy.add(name)
                        group.create_task(self._empty(name, lane), name=f"emergency to {name}")

    async def _empty(self, name: str, lane: deque[Alert]) -> None:
        try:
            while lane:
                await self._send(name, lane.popleft())
        finally:
            self._busy.discard(name)

    async def _send(self, name: str, alert: Alert) -> None:
        problem = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(self._pause_s * attempt)
            sink = self._find_sink(name)
            if sink is None:
                return
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
                return
        self._counters.add("write_emergency_errors_total")
        _log.error("%s did not take alert %s, which waits for the database now: %s", name, alert.id, problem)
