"""From the durable outbox to the sinks: a few deliveries in flight per sink, retries with backoff, dead letters."""

from __future__ import annotations

import asyncio
import logging
import random
from functools import partial
from typing import TYPE_CHECKING, Final

from watchdogd.errors import DeliveryError, StoreError
from watchdogd.write.lanes import MIN_FAILURES, Backoff, Lane, Terms

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from collections.abc import Set as AbstractSet

    from watchdogd.entities import Alert, Delivery
    from watchdogd.ports import Clock, Outbox, Sink
    from watchdogd.telemetry import Counters

_IDLE_S: Final = 60.0
_LEAST_SLEEP_S: Final = 0.05
_log = logging.getLogger(__name__)


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

    def __init__(  # noqa: PLR0913 - what tests replace is named
        self,
        outbox: Outbox,
        sinks: Mapping[str, Sink],
        counters: Counters,
        clock: Clock,
        *,
        terms: Mapping[str, Terms] | None = None,
        backoff: Backoff | None = None,
        chance: Callable[[], float] = random.random,
        wait: Callable[[asyncio.Event, float], Awaitable[None]] = wait_for_event,
        on_given_up: Callable[[], None] = lambda: None,
    ) -> None:
        """`terms` by sink; one that is not named there has the default. `on_given_up` hears of each dead letter."""
        self._outbox = outbox
        self._counters = counters
        self._clock = clock
        self._backoff = backoff or Backoff()
        self._chance = chance
        self._wait = wait
        self._on_given_up = on_given_up
        self._lanes = {name: Lane(sink, (terms or {}).get(name, Terms())) for name, sink in sinks.items()}
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._running = False
        self._is_loaded = False
        self._retired: list[Sink] = []
        self._pulses: list[asyncio.Event] = []

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

    async def pulse(self) -> None:
        """Return when `run` has looked for what is due: where it is stuck, never. Sinks that hang do not hold it up."""
        pulse = asyncio.Event()
        self._pulses.append(pulse)
        self._wake.set()
        await pulse.wait()

    async def replace_sinks(
        self, sinks: Mapping[str, Sink], terms: Mapping[str, Terms], unchanged: AbstractSet[str] = frozenset()
    ) -> None:
        """Use these from now on (reload) and close the old ones, each once its deliveries are done.

        Sinks in `unchanged` stay paused where they are; the others are tried at once.
        """
        old = [lane.sink for lane in self._lanes.values() if lane.sink is not None]
        for name in self._lanes.keys() | sinks.keys():
            lane = self._lanes.setdefault(name, Lane(None, Terms()))
            lane.sink, lane.terms = sinks.get(name), terms.get(name, Terms())
            if name not in unchanged:
                lane.resume()
        self._wake.set()
        kept = {id(lane.sink) for lane in self._lanes.values()}
        gone = [sink for sink in old if id(sink) not in kept]
        self._retired.extend(sink for sink in gone if self._is_used(sink))
        for sink in gone:
            if not self._is_used(sink):
                await self._close_sink(sink)

    def find_sink(self, name: str) -> Sink | None:
        """The sink that is in use under this name now."""
        lane = self._lanes.get(name)
        return None if lane is None else lane.sink

    def name_sinks(self) -> frozenset[str]:
        """Names of all sinks that are in use now."""
        return frozenset(name for name, lane in self._lanes.items() if lane.sink is not None)

    def resume(self, sinks: AbstractSet[str]) -> None:
        """Try these sinks at once, and look again at what is due: the operator says so."""
        for name in sinks & self._lanes.keys():
            self._lanes[name].resume()
        self._wake.set()

    async def close(self) -> None:
        """Close every sink. Call it when neither `run` nor `drain` is at work."""
        for sink in [*self._retired, *(lane.sink for lane in self._lanes.values())]:
            if sink is not None:
                await self._close_sink(sink)

    def _is_used(self, sink: Sink) -> bool:
        return any(sink is used for lane in self._lanes.values() for used in lane.using)

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
        async with asyncio.TaskGroup() as group:
            while not self._idle.is_set():
                await self._pass(group)

    async def _pass(self, group: asyncio.TaskGroup) -> None:
        """Start everything that is due and has room, then wait for the next reason to look."""
        self._wake.clear()
        pulses, self._pulses = self._pulses, []
        pause_s = await self._start_due(group)
        for pulse in pulses:
            pulse.set()
        if pause_s is not None:
            await self._wait(self._wake, pause_s)

    async def _start_due(self, group: asyncio.TaskGroup) -> float | None:
        """Start what is due and has room. For how long nothing more will be; None where `drain` waits no longer."""
        now_ms, now_s = self._clock.now_ms(), self._clock.monotonic_s()
        try:
            await self._load(now_ms, now_s)
            room = {name: lane.room(now_s) for name, lane in self._lanes.items()}
            was_busy = self._is_busy()
            due_ms = None
            if not room or any(room.values()):  # else nobody is free: what waits may be long
                for delivery, alert in await self._outbox.take_due(now_ms, room):
                    lane = self._lanes.setdefault(delivery.sink, Lane(None, Terms()))
                    if not lane.room(self._clock.monotonic_s()):  # it began to fail while the outbox was read
                        await self._outbox.give_back(delivery)
                        continue
                    lane.using.append(lane.sink)
                    work = self._deliver(lane, lane.sink, lane.failures, delivery, alert)
                    group.create_task(work, name=f"deliver to {delivery.sink}")
            if not (was_busy or self._is_busy()):  # what was busy when we looked had no room for what is due
                self._idle.set()
                if not self._running:
                    return None
            room = {name: lane.room(now_s) for name, lane in self._lanes.items()}
            if not room or any(room.values()):
                due_ms = await self._outbox.next_due_ms(now_ms, room)
        except StoreError as error:
            self._counters.add("write_store_errors_total")
            _log.warning("the outbox cannot be read, trying again: %s", error)
            return self._backoff.first_s
        return self._sleep_s(due_ms)

    def _is_busy(self) -> bool:
        return any(lane.using for lane in self._lanes.values())

    async def _load(self, now_ms: int, now_s: float) -> None:
        """Once, leave alone whom an earlier life was told to leave alone."""
        if self._is_loaded:
            return
        for trouble in await self._outbox.load_troubles():
            lane = self._lanes.get(trouble.sink)
            if lane is not None:
                down_s = None if trouble.down_since_ms is None else (now_ms - trouble.down_since_ms) / 1000
                lane.remember(now_s, (trouble.paused_until_ms - now_ms) / 1000, down_s)
        self._is_loaded = True

    def _sleep_s(self, due_ms: int | None) -> float:
        """Until the next delivery falls due or a paused sink is free again; a finished delivery wakes us anyway."""
        moments = [_IDLE_S]
        if due_ms is not None:
            moments.append((due_ms - self._clock.now_ms()) / 1000)
        now_s = self._clock.monotonic_s()
        moments.extend(lane.paused_until_s - now_s for lane in self._lanes.values() if lane.paused_until_s > now_s)
        return max(_LEAST_SLEEP_S, min(moments))

    async def _deliver(self, lane: Lane, sink: Sink | None, begun: int, delivery: Delivery, alert: Alert) -> None:
        try:
            error = await self._attempt(sink, delivery, alert)
            if error is None:
                is_well = lane.succeed(begun)
                await self._record(lambda: self._outbox.mark_delivered(delivery, is_well=is_well))
                self._counters.add("write_sent_total")
                self._counters.add("write_updates_total", delivery.kind == "update")
            else:
                await self._record_failure(lane, begun, delivery, error)
        finally:
            lane.using.remove(sink)
            self._wake.set()
            if sink is not None and sink in self._retired and not self._is_used(sink):
                await self._close_sink(sink)

    async def _attempt(self, sink: Sink | None, delivery: Delivery, alert: Alert) -> DeliveryError | None:
        if sink is None:
            return DeliveryError("no sink of that name is configured any more", recoverable=False)
        began_s = self._clock.monotonic_s()
        try:
            await sink.send(alert, kind=delivery.kind, delivery_id=delivery.message_id)
        except DeliveryError as error:
            return error
        except Exception as error:  # noqa: BLE001 (a sink's bug must not stop the others, nor lose the alert)
            self._counters.add("write_sink_errors_total")
            _log.exception("sink %s failed in a way it should not", delivery.sink)
            return DeliveryError(f"internal error: {type(error).__name__}", recoverable=True)
        finally:
            self._counters.observe("stage_seconds", ("deliver",), self._clock.monotonic_s() - began_s)
        return None

    async def _record_failure(self, lane: Lane, begun: int, delivery: Delivery, error: DeliveryError) -> None:
        now_ms, now_s = self._clock.now_ms(), self._clock.monotonic_s()
        paused_until_ms, next_try_ms = 0, None
        if error.recoverable:
            chance, least_s = self._chance(), error.retry_after_s or 0.0
            pause_s = lane.fail(begun, now_s, self._backoff, chance, least_s)
            paused_until_ms = now_ms + int(pause_s * 1000)
            attempts, age_s = delivery.attempts + 1, (now_ms - delivery.created_ms) / 1000
            if attempts < MIN_FAILURES or age_s < lane.terms.give_up_s:
                next_try_ms = now_ms + int(max(self._backoff.delay_s(attempts, chance), least_s) * 1000)
        lane.is_noted = True
        if next_try_ms is None:
            _log.error("gave up on %s %s to %s: %s", delivery.kind, delivery.alert_id, delivery.sink, error)
        else:
            self._counters.add("write_retries_total")
            _log.warning("%s of %s to %s failed: %s", delivery.kind, delivery.alert_id, delivery.sink, error)
        mark = partial(self._outbox.mark_failed, delivery, str(error), next_try_ms, paused_until_ms)
        await self._record(mark)
        if next_try_ms is None:
            self._counters.add("write_dead_letters_total")
            self._on_given_up()
        if lane.sink is None or lane.is_hopeless(now_s):
            oldest_s = 0.0 if lane.sink is None else lane.terms.give_up_s
            await self._give_up(delivery.sink, now_ms - int(oldest_s * 1000), str(error))

    async def _give_up(self, sink: str, created_ms: int, error: str) -> None:
        """Everything that waits for a sink since then, so that what never arrives does not pile up."""
        given_up: list[int] = []

        async def mark() -> None:
            given_up.append(await self._outbox.give_up(sink, created_ms, error))

        await self._record(mark)
        if given_up[-1]:
            self._counters.add("write_dead_letters_total", given_up[-1])
            _log.error("gave up on %d more deliveries to %s: %s", given_up[-1], sink, error)
            self._on_given_up()

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
