"""From the durable outbox to the sinks: one delivery in flight per sink, retries with backoff, dead letters."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Final

import msgspec

from watchdogd.errors import DeliveryError, StoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from watchdogd.entities import Alert, Delivery
    from watchdogd.ports import Clock, Outbox, Sink
    from watchdogd.telemetry import Counters

GIVE_UP_S: Final = 86_400.0
_MIN_ATTEMPTS: Final = 5
"""After a long downtime everything is old: nothing is given up before it was really tried."""
_IDLE_S: Final = 60.0
_LEAST_SLEEP_S: Final = 0.05
_log = logging.getLogger(__name__)


class Backoff(msgspec.Struct, frozen=True):
    """Exponential waiting: `first_s` doubles with each attempt up to `most_s`; jitter takes off up to a half."""

    first_s: float = 1.0
    most_s: float = 300.0

    def delay_s(self, attempts: int, chance: float) -> float:
        """Wait after so many failed attempts (1 or more); `chance` is 0 to 1."""
        full = min(self.most_s, self.first_s * 2.0 ** min(max(attempts, 1) - 1, 30))
        return full * (1.0 - 0.5 * chance)


async def wait_for_event(event: asyncio.Event, timeout_s: float) -> None:
    """Return when the event is set or the time is over."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return


class Deliverer:
    """Empties the outbox into the sinks. A sink that hangs, fails or lies holds up nobody but itself.

    Counters: `write_sent_total`, `write_retries_total`, `write_dead_letters_total` (loss), `write_sink_errors_total`
    (a sink raised something it should not), `write_store_errors_total`.
    """

    def __init__(
        self,
        outbox: Outbox,
        sinks: Mapping[str, Sink],
        counters: Counters,
        clock: Clock,
        *,
        give_up_s: Mapping[str, float] | None = None,
        backoff: Backoff | None = None,
        chance: Callable[[], float] = random.random,
        wait: Callable[[asyncio.Event, float], Awaitable[None]] = wait_for_event,
    ) -> None:
        """`give_up_s` by sink, `math.inf` for never; a sink that is not named there has a day."""
        self._outbox = outbox
        self._sinks = dict(sinks)
        self._counters = counters
        self._clock = clock
        self._give_up_s = dict(give_up_s or {})
        self._backoff = backoff or Backoff()
        self._chance = chance
        self._wait = wait
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._running = False
        self._in_flight: dict[str, Sink | None] = {}
        self._retired: list[Sink] = []
        self._failures: dict[str, int] = {}
        self._paused_until_s: dict[str, float] = {}

    async def run(self, wake: asyncio.Event) -> None:
        """Deliver until cancelled; `wake` says that something new may be due. At most one may run."""
        self._wake = wake
        self._running = True
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    await self._pass(group)
        finally:
            self._running = False
            self._in_flight.clear()

    async def drain(self, deadline_s: float) -> bool:
        """Send what is due now; True when nothing of it is left, False when the time ran out.

        Works beside a `run` and without one. What fails keeps its place in the outbox.
        """
        try:
            async with asyncio.timeout(deadline_s):
                if self._running:
                    self._idle.clear()
                    self._wake.set()
                    await self._idle.wait()
                else:
                    await self._run_until_idle()
        except TimeoutError:
            return False
        return True

    async def replace_sinks(self, sinks: Mapping[str, Sink], give_up_s: Mapping[str, float]) -> None:
        """Use these from now on (reload) and close the old ones, each once its delivery is done."""
        old, self._sinks = self._sinks, dict(sinks)
        self._give_up_s = dict(give_up_s)
        self._failures.clear()
        self._paused_until_s.clear()
        self._wake.set()
        kept = {id(sink) for sink in self._sinks.values()}
        in_flight = {id(sink) for sink in self._in_flight.values()}
        gone = [sink for sink in old.values() if id(sink) not in kept]
        self._retired.extend(sink for sink in gone if id(sink) in in_flight)
        for sink in gone:
            if id(sink) not in in_flight:
                await self._close_sink(sink)

    def find_sink(self, name: str) -> Sink | None:
        """The sink that is in use under this name now."""
        return self._sinks.get(name)

    async def close(self) -> None:
        """Close every sink. Call it when neither `run` nor `drain` is at work."""
        for sink in [*self._retired, *self._sinks.values()]:
            await self._close_sink(sink)

    async def _close_sink(self, sink: Sink) -> None:
        if sink in self._retired:
            self._retired.remove(sink)
        try:
            await sink.close()
        except Exception:  # noqa: BLE001 (a sink that cannot be closed must not hold up the service's own stop)
            self._counters.add("write_sink_errors_total")
            _log.exception("sink %s could not be closed", sink.name)

    async def _run_until_idle(self) -> None:
        self._wake.clear()
        self._idle.clear()
        try:
            async with asyncio.TaskGroup() as group:
                while not self._idle.is_set():
                    await self._pass(group)
        finally:
            self._in_flight.clear()

    async def _pass(self, group: asyncio.TaskGroup) -> None:
        """Start everything that is due on free sinks, then wait for the next reason to look."""
        self._wake.clear()
        if self._sinks and self._sinks.keys() <= self._in_flight.keys():  # nobody is free: what waits may be long
            await self._wait(self._wake, self._sleep_s(None))
            return
        try:
            while taken := await self._outbox.take_due(self._clock.now_ms(), 1, self._busy()):
                for delivery, alert in taken:
                    self._in_flight[delivery.sink] = self._sinks.get(delivery.sink)
                    group.create_task(self._deliver(delivery, alert), name=f"deliver to {delivery.sink}")
            if not self._in_flight:
                self._idle.set()
                if not self._running:
                    return
            due_ms = await self._outbox.next_due_ms(self._busy())
        except StoreError as error:
            self._counters.add("write_store_errors_total")
            _log.warning("the outbox cannot be read, trying again: %s", error)
            await self._wait(self._wake, self._backoff.first_s)
            return
        await self._wait(self._wake, self._sleep_s(due_ms))

    def _busy(self) -> frozenset[str]:
        now_s = self._clock.monotonic_s()
        for name in [name for name, until_s in self._paused_until_s.items() if until_s <= now_s]:
            del self._paused_until_s[name]
        return frozenset(self._in_flight.keys() | self._paused_until_s.keys())

    def _sleep_s(self, due_ms: int | None) -> float:
        """Until the next delivery falls due or a paused sink is free again; a finished delivery wakes us anyway."""
        moments = [_IDLE_S]
        if due_ms is not None:
            moments.append((due_ms - self._clock.now_ms()) / 1000)
        now_s = self._clock.monotonic_s()
        moments.extend(until_s - now_s for until_s in self._paused_until_s.values())
        return max(_LEAST_SLEEP_S, min(moments))

    async def _deliver(self, delivery: Delivery, alert: Alert) -> None:
        try:
            error = await self._attempt(delivery, alert)
            if error is None:
                self._failures.pop(delivery.sink, None)
                await self._record(lambda: self._outbox.mark_delivered(delivery))
                self._counters.add("write_sent_total")
            else:
                await self._record_failure(delivery, error)
        finally:
            sink = self._in_flight.pop(delivery.sink, None)
            self._wake.set()
            if sink is not None and sink in self._retired:
                await self._close_sink(sink)

    async def _attempt(self, delivery: Delivery, alert: Alert) -> DeliveryError | None:
        sink = self._in_flight[delivery.sink]
        if sink is None:
            return DeliveryError("no sink of that name is configured any more", recoverable=False)
        try:
            await sink.send(alert, kind=delivery.kind, delivery_id=f"{delivery.kind}_{delivery.alert_id}")
        except DeliveryError as error:
            return error
        except Exception as error:  # noqa: BLE001 (a sink's bug must not stop the others, nor lose the alert)
            self._counters.add("write_sink_errors_total")
            _log.exception("sink %s failed in a way it should not", delivery.sink)
            return DeliveryError(f"internal error: {type(error).__name__}", recoverable=True)
        return None

    async def _record_failure(self, delivery: Delivery, error: DeliveryError) -> None:
        next_try_ms = self._next_try_ms(delivery, error)
        if next_try_ms is None:
            self._counters.add("write_dead_letters_total")
            _log.error("gave up on %s %s to %s: %s", delivery.kind, delivery.alert_id, delivery.sink, error)
        else:
            self._counters.add("write_retries_total")
            _log.warning("%s of %s to %s failed: %s", delivery.kind, delivery.alert_id, delivery.sink, error)
        await self._record(lambda: self._outbox.mark_failed(delivery, str(error), next_try_ms))

    def _next_try_ms(self, delivery: Delivery, error: DeliveryError) -> int | None:
        """When to try again, None to give up. A sink that fails is left alone as a whole for that long."""
        if not error.recoverable:
            return None
        now_ms = self._clock.now_ms()
        attempts = delivery.attempts + 1
        age_s = (now_ms - delivery.created_ms) / 1000
        failures = self._failures[delivery.sink] = self._failures.get(delivery.sink, 0) + 1
        chance = self._chance()
        least_s = error.retry_after_s or 0.0
        pause_s = max(self._backoff.delay_s(failures, chance), least_s)
        self._paused_until_s[delivery.sink] = self._clock.monotonic_s() + pause_s
        if attempts >= _MIN_ATTEMPTS and age_s >= self._give_up_s.get(delivery.sink, GIVE_UP_S):
            return None
        return now_ms + int(max(self._backoff.delay_s(attempts, chance), least_s) * 1000)

    async def _record(self, write: Callable[[], Awaitable[None]]) -> None:
        """Tell the outbox, however long it refuses: else a delivery that was made would be made again."""
        failures = 0
        while True:
            try:
                await write()
            except StoreError as error:
                failures += 1
                self._counters.add("write_store_errors_total")
                _log.warning("the outbox cannot be written, trying again: %s", error)
                await self._wait(asyncio.Event(), self._backoff.delay_s(failures, self._chance()))
            else:
                return
