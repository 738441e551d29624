"""The deliverer in simulated time: nothing lost, nobody delayed by another, everything given up is counted."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.write.conftest import build_alert
from watchdogd.entities import Delivery, SinkTrouble
from watchdogd.errors import DeliveryError, StoreError
from watchdogd.telemetry import Counters
from watchdogd.write.deliver import Deliverer
from watchdogd.write.lanes import Backoff, Terms

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from watchdogd.entities import Alert

T0_MS = 1_753_000_000_000


class SimulatedTime:
    """A clock that only `wait` moves: to the time asked for, once nothing else can run."""

    def __init__(self) -> None:
        self.ms = T0_MS

    def now_ms(self) -> int:
        return self.ms

    def monotonic_s(self) -> float:
        return (self.ms - T0_MS) / 1000

    async def wait(self, event: asyncio.Event, timeout_s: float) -> None:
        for _ in range(12):  # let every sink that can finish do so
            await asyncio.sleep(0)
            if event.is_set():
                return
        self.ms += math.ceil(timeout_s * 1000)


class MemoryOutbox:
    """The Outbox protocol over a list; `refusals` makes the next calls fail as a full disk would."""

    def __init__(self, clock: SimulatedTime) -> None:
        self._clock = clock
        self._alerts: dict[str, Alert] = {}
        self.waiting: list[tuple[int, Delivery]] = []
        self.taken: set[int] = set()
        self.delivered: list[Delivery] = []
        self.dead: list[tuple[Delivery, str]] = []
        self.errors: list[str] = []
        self.refusals = 0
        self.troubles: dict[str, SinkTrouble] = {}

    def put(self, alert: Alert, sink: str, kind: str = "alert", created_ms: int = T0_MS) -> None:
        number = len(self.waiting) + len(self.delivered) + len(self.dead) + len(self.taken)
        self._alerts[alert.id] = alert
        delivery = Delivery(id=number, alert_id=alert.id, sink=sink, kind=kind, attempts=0, created_ms=created_ms)
        self.waiting.append((self._clock.ms, delivery))

    def _refuse(self) -> None:
        if self.refusals:
            self.refusals -= 1
            raise StoreError("database or disk is full")

    async def take_due(self, now_ms: int, room: Mapping[str, int]) -> list[tuple[Delivery, Alert]]:
        self._refuse()
        due = [d for due_ms, d in sorted(self.waiting, key=lambda w: w[1].id) if due_ms <= now_ms]
        chosen: list[Delivery] = []
        for delivery in due:
            if sum(d.sink == delivery.sink for d in chosen) < room.get(delivery.sink, 1):
                chosen.append(delivery)
        self.waiting = [(due_ms, d) for due_ms, d in self.waiting if d not in chosen]
        self.taken |= {d.id for d in chosen}
        return [(d, self._alerts[d.alert_id]) for d in chosen]

    async def give_back(self, delivery: Delivery) -> None:
        self.taken.remove(delivery.id)
        self.waiting.append((self._clock.ms, delivery))

    async def mark_delivered(self, delivery: Delivery, *, is_well: bool = False) -> None:
        self._refuse()
        if is_well:
            self.troubles.pop(delivery.sink, None)
        self.taken.remove(delivery.id)
        self.delivered.append(delivery)

    async def mark_failed(
        self, delivery: Delivery, error: str, next_try_ms: int | None, paused_until_ms: int = 0
    ) -> None:
        self._refuse()
        if paused_until_ms:
            known = self.troubles.get(delivery.sink)
            since_ms = self._clock.ms if known is None else known.down_since_ms
            self.troubles[delivery.sink] = SinkTrouble(delivery.sink, paused_until_ms, since_ms, None)
        self.taken.remove(delivery.id)
        self.errors.append(error)
        again = msgspec.structs.replace(delivery, attempts=delivery.attempts + 1)
        if next_try_ms is None:
            self.dead.append((again, error))
        else:
            self.waiting.append((next_try_ms, again))

    async def give_up(self, sink: str, created_ms: int, error: str) -> int:
        self._refuse()
        old = [d for _, d in self.waiting if d.sink == sink and d.created_ms <= created_ms]
        self.waiting = [(due_ms, d) for due_ms, d in self.waiting if d not in old]
        self.dead += [(d, error) for d in old]
        return len(old)

    async def next_due_ms(self, now_ms: int, room: Mapping[str, int]) -> int | None:
        self._refuse()
        return min((due_ms for due_ms, d in self.waiting if due_ms > now_ms and room.get(d.sink, 1) > 0), default=None)

    async def load_troubles(self) -> list[SinkTrouble]:
        self._refuse()
        return list(self.troubles.values())


class ScriptedSink:
    """Takes alerts, or raises what its script says; `gate` holds it up."""

    def __init__(self, name: str, *script: Exception | None) -> None:
        self.name = name
        self.script = list(script)
        self.got: list[str] = []
        self.tries = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.at_once = 0
        self.most_at_once = 0
        self.closed = False

    async def send(self, alert: Alert, *, kind: str, delivery_id: str) -> None:
        assert delivery_id == f"{kind}_{alert.id}"
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            self.tries += 1
            await self.gate.wait()
            outcome = self.script.pop(0) if self.script else None
            if outcome is not None:
                raise outcome
            self.got.append(delivery_id)
        finally:
            self.at_once -= 1

    async def close(self) -> None:
        self.closed = True


class Bench:
    """A deliverer with everything around it."""

    def __init__(
        self, *sinks: ScriptedSink, terms: dict[str, Terms] | None = None, before: Bench | None = None
    ) -> None:
        """`before` is the bench of an earlier life: its time goes on, its outbox is found as it was left."""
        self.time: SimulatedTime = before.time if before is not None else SimulatedTime()
        self.outbox: MemoryOutbox = before.outbox if before is not None else MemoryOutbox(self.time)
        self.counters = Counters()
        self.wake = asyncio.Event()
        self.given_up = asyncio.Event()
        self.deliverer = Deliverer(
            self.outbox,
            {sink.name: sink for sink in sinks},
            self.counters,
            self.time,
            terms=terms,
            chance=random.Random(7).random,
            wait=self.time.wait,
            on_given_up=self.given_up.set,
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.deliverer.run(self.wake))
            try:
                yield
            finally:
                task.cancel()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let the deliverer work until the condition holds; it can always work, so this needs no clock."""
        for _ in range(200_000):
            if condition():
                return
            await asyncio.sleep(0)
        raise AssertionError(f"never came true; counters {self.counters.snapshot()}, dead {self.outbox.dead}")


def again(retry_after_s: float | None = None) -> DeliveryError:
    return DeliveryError("try again", recoverable=True, retry_after_s=retry_after_s)


async def test_each_sink_gets_everything_in_order(make_alert: Callable[..., Alert]) -> None:
    a, b = ScriptedSink("a"), ScriptedSink("b")
    bench = Bench(a, b)
    for number in range(20):
        for sink in "ab":
            bench.outbox.put(make_alert(id=f"{number:02}"), sink)
    async with bench.running():
        await bench.until(lambda: len(bench.outbox.delivered) == 40)
    assert a.got == b.got == [f"alert_{number:02}" for number in range(20)]
    assert a.most_at_once == b.most_at_once == 1
    assert bench.counters.get("write_sent_total") == 40


async def test_what_comes_later_is_seen_on_wake(make_alert: Callable[..., Alert]) -> None:
    sink = ScriptedSink("a")
    bench = Bench(sink)
    async with bench.running():
        await bench.until(lambda: bench.time.ms > T0_MS)
        bench.outbox.put(make_alert(id="x"), "a", kind="verdict")
        bench.wake.set()
        await bench.until(lambda: sink.got == ["verdict_x"])


async def test_a_stuck_sink_delays_nobody_else(make_alert: Callable[..., Alert]) -> None:
    stuck, free = ScriptedSink("stuck"), ScriptedSink("free")
    stuck.gate.clear()
    bench = Bench(stuck, free)
    for number in range(10):
        bench.outbox.put(make_alert(id=str(number)), "stuck")
        bench.outbox.put(make_alert(id=str(number)), "free")
    async with bench.running():
        await bench.until(lambda: len(free.got) == 10)
        assert stuck.tries == 1
        assert stuck.got == []
        stuck.gate.set()
        await bench.until(lambda: len(stuck.got) == 10)


async def test_failures_are_retried_with_growing_waits(make_alert: Callable[..., Alert]) -> None:
    sink = ScriptedSink("a", *[again() for _ in range(6)])
    bench = Bench(sink)
    bench.outbox.put(make_alert(id="x"), "a")
    async with bench.running():
        await bench.until(lambda: sink.got == ["alert_x"])
    waited_s = bench.time.monotonic_s()
    assert 31.5 <= waited_s <= 70  # halves of 1 + 2 + 4 + 8 + 16 + 32 s up to the whole
    assert bench.counters.get("write_retries_total") == 6
    assert bench.outbox.errors == ["try again"] * 6


async def test_retry_after_is_honoured_for_the_whole_sink(make_alert: Callable[..., Alert]) -> None:
    sink = ScriptedSink("a", again(retry_after_s=600))
    bench = Bench(sink)
    bench.outbox.put(make_alert(id="x"), "a")
    bench.outbox.put(make_alert(id="y"), "a")
    async with bench.running():
        await bench.until(lambda: bench.outbox.errors == ["try again"])
        bench.wake.set()
        await bench.until(lambda: bench.time.monotonic_s() > 500)
        assert sink.tries == 1
        await bench.until(lambda: len(sink.got) == 2)
    assert bench.time.monotonic_s() >= 600


async def test_unrecoverable_is_a_dead_letter_at_once(make_alert: Callable[..., Alert]) -> None:
    sink = ScriptedSink("a", DeliveryError("answered 404", recoverable=False))
    bench = Bench(sink)
    bench.outbox.put(make_alert(id="x"), "a")
    bench.outbox.put(make_alert(id="y"), "a")
    async with bench.running():
        await bench.until(lambda: sink.got == ["alert_y"])
    assert [(delivery.alert_id, error) for delivery, error in bench.outbox.dead] == [("x", "answered 404")]
    assert bench.counters.get("write_dead_letters_total") == 1


async def test_it_gives_up_after_its_time_and_not_before(make_alert: Callable[..., Alert]) -> None:
    sink = ScriptedSink("a", *[again() for _ in range(10_000)])
    bench = Bench(sink, terms={"a": Terms(give_up_s=7200.0)})
    bench.outbox.put(make_alert(id="x"), "a")
    async with bench.running():
        await bench.until(lambda: len(bench.outbox.dead) == 1)
    assert 7200 <= bench.time.monotonic_s() <= 7200 + 300
    assert bench.counters.get("write_dead_letters_total") == 1


async def test_after_long_downtime_old_deliveries_are_tried_all_the_same(make_alert: Callable[..., Alert]) -> None:
    sink = ScriptedSink("a", again(), again())
    bench = Bench(sink)
    bench.outbox.put(make_alert(id="x"), "a", created_ms=T0_MS - 30 * 86_400_000)
    async with bench.running():
        await bench.until(lambda: sink.got == ["alert_x"])
    assert bench.outbox.dead == []


async def test_a_sink_without_end_is_never_given_up(make_alert: Callable[..., Alert]) -> None:
    sink = ScriptedSink("journald", *[again() for _ in range(500)])
    bench = Bench(sink, terms={"journald": Terms(give_up_s=math.inf)})
    bench.outbox.put(make_alert(id="x"), "journald")
    async with bench.running():
        await bench.until(lambda: sink.got == ["alert_x"])
    assert bench.time.monotonic_s() > 86_400


async def test_a_sink_that_is_gone_from_the_configuration(make_alert: Callable[..., Alert]) -> None:
    bench = Bench(ScriptedSink("a"))
    bench.outbox.put(make_alert(id="x"), "removed")
    async with bench.running():
        await bench.until(lambda: len(bench.outbox.dead) == 1)
    assert "no sink of that name" in bench.outbox.dead[0][1]


async def test_a_sinks_bug_is_counted_and_tried_again(make_alert: Callable[..., Alert]) -> None:
    sink = ScriptedSink("a", KeyError("token-abc123"))
    bench = Bench(sink)
    bench.outbox.put(make_alert(id="x"), "a")
    async with bench.running():
        await bench.until(lambda: sink.got == ["alert_x"])
    assert bench.counters.get("write_sink_errors_total") == 1
    assert bench.outbox.errors == ["internal error: KeyError"]


@pytest.mark.parametrize("refusals", [1, 2, 5, 20])
async def test_a_full_disk_stops_nothing_for_good(make_alert: Callable[..., Alert], refusals: int) -> None:
    sink = ScriptedSink("a", again())
    bench = Bench(sink)
    bench.outbox.put(make_alert(id="x"), "a")
    async with bench.running():
        bench.outbox.refusals = refusals
        await bench.until(lambda: len(bench.outbox.delivered) == 1)
    assert sink.got == ["alert_x"]
    assert bench.counters.get("write_store_errors_total") == refusals


async def test_drain_beside_run_sends_what_is_due(make_alert: Callable[..., Alert]) -> None:
    sink = ScriptedSink("a")
    bench = Bench(sink)
    async with bench.running():
        await bench.until(lambda: bench.time.ms > T0_MS)
        bench.outbox.put(make_alert(id="x"), "a")
        assert await bench.deliverer.drain(30)
        assert sink.got == ["alert_x"]


async def test_drain_alone_sends_what_is_due_and_no_more(make_alert: Callable[..., Alert]) -> None:
    good, bad = ScriptedSink("good"), ScriptedSink("bad", again())
    bench = Bench(good, bad)
    for number in range(3):
        bench.outbox.put(make_alert(id=str(number)), "good")
    bench.outbox.put(make_alert(id="x"), "bad")
    assert await bench.deliverer.drain(30)
    assert len(good.got) == 3
    assert bad.tries == 1
    assert len(bench.outbox.waiting) == 1
    assert not bench.outbox.taken


async def test_drain_waits_for_what_had_no_room_while_the_outbox_was_read(
    make_alert: Callable[..., Alert], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sink is busy when it is asked what is due, and free when the answer comes: the next one is not forgotten."""
    busy = ScriptedSink("busy")
    busy.gate.clear()
    bench = Bench(busy, ScriptedSink("free"))
    take_due = bench.outbox.take_due

    async def take_slowly(now_ms: int, room: Mapping[str, int]) -> list[tuple[Delivery, Alert]]:
        taken = await take_due(now_ms, room)
        if not room["busy"]:
            busy.gate.set()
            for _ in range(8):
                await asyncio.sleep(0)
        return taken

    monkeypatch.setattr(bench.outbox, "take_due", take_slowly)
    for name in ("x", "y"):
        bench.outbox.put(make_alert(id=name), "busy")
    async with bench.running():
        await bench.until(lambda: busy.tries == 1)
        assert await bench.deliverer.drain(30)
        assert busy.got == ["alert_x", "alert_y"]


async def test_drain_ends_at_its_deadline(make_alert: Callable[..., Alert]) -> None:
    stuck = ScriptedSink("stuck")
    stuck.gate.clear()
    bench = Bench(stuck)
    bench.outbox.put(make_alert(id="x"), "stuck")
    assert not await bench.deliverer.drain(0.05)
    assert stuck.got == []


async def test_reload_swaps_sinks_and_closes_the_old_when_done(make_alert: Callable[..., Alert]) -> None:
    busy, idle = ScriptedSink("a"), ScriptedSink("b")
    busy.gate.clear()
    bench = Bench(busy, idle)
    bench.outbox.put(make_alert(id="x"), "a")
    async with bench.running():
        await bench.until(lambda: busy.tries == 1)
        fresh = ScriptedSink("a")
        await bench.deliverer.replace_sinks({"a": fresh}, {"a": Terms(give_up_s=60.0)})
        assert idle.closed
        assert not busy.closed
        busy.gate.set()
        await bench.until(lambda: busy.closed)
        assert busy.got == ["alert_x"]
        bench.outbox.put(make_alert(id="y"), "a")
        bench.wake.set()
        await bench.until(lambda: fresh.got == ["alert_y"])
    await bench.deliverer.close()
    assert fresh.closed


async def test_a_pause_outlives_the_daemon(make_alert: Callable[..., Alert]) -> None:
    first = Bench(ScriptedSink("a", again(retry_after_s=600)))
    for name in "xyz":
        first.outbox.put(make_alert(id=name), "a")
    async with first.running():
        await first.until(lambda: first.outbox.errors == ["try again"])
    second = Bench(sink := ScriptedSink("a"), before=first)
    async with second.running():
        second.wake.set()
        await second.until(lambda: second.time.monotonic_s() > 500)
        assert sink.tries == 0
        await second.until(lambda: len(sink.got) == 3)
    assert second.time.monotonic_s() >= 600
    assert second.outbox.troubles == {}


async def test_a_remembered_pause_is_never_longer_than_an_hour(make_alert: Callable[..., Alert]) -> None:
    bench = Bench(sink := ScriptedSink("a"))
    bench.outbox.troubles["a"] = SinkTrouble("a", T0_MS + 90 * 86_400_000, T0_MS, None)
    bench.outbox.put(make_alert(id="x"), "a")
    async with bench.running():
        await bench.until(lambda: sink.got == ["alert_x"])
    assert bench.time.monotonic_s() <= 3700


async def test_several_at_once_and_one_alone_after_a_failure(make_alert: Callable[..., Alert]) -> None:
    sink = ScriptedSink("a")
    sink.gate.clear()
    bench = Bench(sink, terms={"a": Terms(at_once=3)})
    for number in range(8):
        bench.outbox.put(make_alert(id=str(number)), "a")
    async with bench.running():
        await bench.until(lambda: sink.tries == 3)
        sink.script = [again(), again(), again()]
        sink.gate.set()
        await bench.until(lambda: len(bench.outbox.errors) == 3)
        assert bench.time.monotonic_s() < 1  # three that failed together are one failure: a second's pause at most
        sink.most_at_once = 0
        sink.gate.clear()
        await bench.until(lambda: sink.tries == 4)
        await bench.until(lambda: bench.time.monotonic_s() > 60)
        assert sink.most_at_once == 1
        sink.gate.set()
        await bench.until(lambda: len(sink.got) >= 1)
        sink.gate.clear()
        await bench.until(lambda: sink.at_once == 3)
        sink.gate.set()
        await bench.until(lambda: len(sink.got) == 8)


async def test_a_sink_that_is_dead_for_good_lets_nothing_pile_up(make_alert: Callable[..., Alert]) -> None:
    sink = ScriptedSink("a", *[again() for _ in range(10_000)])
    bench = Bench(sink, terms={"a": Terms(give_up_s=7200.0)})
    for number in range(500):
        bench.outbox.put(make_alert(id=str(number)), "a")
    async with bench.running():
        await bench.until(lambda: len(bench.outbox.dead) == 500)
        assert bench.time.monotonic_s() <= 7200 + 300
        bench.outbox.put(make_alert(id="young"), "a", created_ms=bench.time.ms)
        bench.wake.set()
        started_s = bench.time.monotonic_s()
        await bench.until(lambda: bench.time.monotonic_s() > started_s + 3600)
        assert len(bench.outbox.dead) == 500
    assert bench.counters.get("write_dead_letters_total") == 500
    assert bench.given_up.is_set()


async def test_an_earlier_lifes_outage_gives_up_nothing_untried(make_alert: Callable[..., Alert]) -> None:
    bench = Bench(sink := ScriptedSink("a", again(), again()), terms={"a": Terms(give_up_s=60.0)})
    bench.outbox.troubles["a"] = SinkTrouble("a", 0, T0_MS - 9_000_000, None)
    for number in range(3):
        bench.outbox.put(make_alert(id=str(number)), "a", created_ms=T0_MS - 9_000_000)
    async with bench.running():
        await bench.until(lambda: len(sink.got) == 3)
    assert bench.outbox.dead == []


async def test_what_waits_for_a_sink_that_is_gone_ends_at_once(make_alert: Callable[..., Alert]) -> None:
    bench = Bench(ScriptedSink("a"))
    for number in range(50):
        bench.outbox.put(make_alert(id=str(number)), "removed")
    async with bench.running():
        await bench.until(lambda: len(bench.outbox.dead) == 50)
    assert bench.time.monotonic_s() < 1
    assert bench.counters.get("write_dead_letters_total") == 50


async def test_a_reload_keeps_the_pause_of_a_sink_that_did_not_change(make_alert: Callable[..., Alert]) -> None:
    sinks = {name: ScriptedSink(name, again(retry_after_s=600)) for name in "ab"}
    bench = Bench(*sinks.values())
    for name in sinks:
        bench.outbox.put(make_alert(id="x"), name)
        bench.outbox.put(make_alert(id="y"), name)
    async with bench.running():
        await bench.until(lambda: len(bench.outbox.errors) == 2)
        began_s = bench.time.monotonic_s()
        await bench.deliverer.replace_sinks(sinks, {}, {"a"})
        await bench.until(lambda: sinks["b"].got == ["alert_y"])
        assert bench.time.monotonic_s() - began_s < 1
        await bench.until(lambda: bench.time.monotonic_s() - began_s > 500)
        assert sinks["a"].tries == 1
        bench.deliverer.resume({"a", "unknown"})
        await bench.until(lambda: sinks["a"].got == ["alert_y"])
        assert bench.time.monotonic_s() - began_s < 600


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.lists(st.sampled_from(["ok", "again", "bug"]), max_size=4)), max_size=12
    )
)
async def test_every_delivery_arrives_whatever_fails(plan: list[tuple[str, list[str]]]) -> None:
    outcomes = {"ok": None, "again": again(), "bug": ValueError("x")}
    sinks = {name: ScriptedSink(name) for name in "abc"}
    for name, script in plan:
        sinks[name].script.extend(outcomes[step] for step in script)
    bench = Bench(*sinks.values())
    for number, (name, _) in enumerate(plan):
        bench.outbox.put(build_alert(id=str(number)), name)
    async with bench.running():
        await bench.until(lambda: len(bench.outbox.delivered) == len(plan))
    for name, sink in sinks.items():
        assert sorted(sink.got) == sorted(f"alert_{n}" for n, (owner, _) in enumerate(plan) if owner == name)


@given(st.integers(min_value=0, max_value=10_000), st.floats(min_value=0, max_value=1))
def test_backoff_is_bounded_and_never_nothing(attempts: int, chance: float) -> None:
    assert 0.5 <= Backoff().delay_s(attempts, chance) <= 300
