"""Alerts that no database holds yet: each once to each sink, and no sink holds up another."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.store.conftest import make_alert
from watchdogd.errors import DeliveryError
from watchdogd.grouping import Facts
from watchdogd.telemetry import Counters
from watchdogd.write import emergency as module
from watchdogd.write.emergency import REASON, Emergency

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from watchdogd.entities import Alert


class Notebook:
    """A sink that fails as it is told, then writes down what it gets."""

    def __init__(self, name: str, *errors: Exception, hangs: bool = False) -> None:
        self.name = name
        self.errors = list(errors)
        self.hangs = hangs
        self.got: list[tuple[str, str, tuple[str, ...]]] = []

    async def send(self, alert: Alert, *, kind: str, delivery_id: str) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        if self.errors:
            raise self.errors.pop(0)
        self.got.append((kind, delivery_id, alert.reasons))

    async def close(self) -> None:
        self.hangs = False


@asynccontextmanager
async def run(counters: Counters, *sinks: Notebook) -> AsyncIterator[Emergency]:
    emergency = Emergency({sink.name: sink for sink in sinks}.get, counters, pause_s=0.01)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(emergency.run())
        yield emergency
        task.cancel()


async def wait(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - there is nothing to wait for but the sinks
            await asyncio.sleep(0.01)


def passing(text: str = "refused") -> DeliveryError:
    return DeliveryError(text, recoverable=True)


async def test_each_sink_gets_it_once_marked_under_the_id_of_its_delivery() -> None:
    counters, one, two = Counters(), Notebook("one"), Notebook("two")
    async with run(counters, one, two) as emergency:
        for _ in range(3):
            emergency.take(make_alert("a"), ("one", "two"))
            await asyncio.sleep(0)
        emergency.take(make_alert("b"), ("one",))
        await wait(lambda: len(one.got) == 2 and len(two.got) == 1)
    assert one.got == [("alert", "alert_a", ("rare", REASON)), ("alert", "alert_b", ("rare", REASON))]
    assert counters.get("write_emergency_total") == 3


async def test_a_sink_that_hangs_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEND_S", 0.02)
    counters, stuck, good = Counters(), Notebook("stuck", hangs=True), Notebook("good")
    async with run(counters, stuck, good) as emergency:
        for number in range(5):
            emergency.take(make_alert(str(number)), ("stuck", "good"))
        await wait(lambda: len(good.got) == 5)
        await wait(lambda: counters.get("write_emergency_errors_total") == 5)


@pytest.mark.parametrize(
    ("errors", "taken"),
    [
        ([passing(), passing()], 1),
        ([passing()] * module.ATTEMPTS, 0),
        ([DeliveryError("never", recoverable=False)], 0),
        ([ZeroDivisionError()], 0),
    ],
)
async def test_it_is_tried_again_a_few_times_and_the_next_one_has_its_turn(errors: list[Exception], taken: int) -> None:
    counters, sink = Counters(), Notebook("one", *errors)
    async with run(counters, sink) as emergency:
        emergency.take(make_alert("a"), ("one",))
        emergency.take(make_alert("b"), ("one",))
        await wait(lambda: any(name == "alert_b" for _, name, _ in sink.got))
    assert [name for _, name, _ in sink.got] == (["alert_a"] if taken else []) + ["alert_b"]
    assert counters.get("write_emergency_errors_total") == (not taken)


async def test_a_sink_that_is_gone_is_left_out() -> None:
    counters, sink = Counters(), Notebook("one")
    async with run(counters, sink) as emergency:
        emergency.take(make_alert("a"), ("gone", "one"))
        await wait(lambda: bool(sink.got))
    assert counters.get("write_emergency_errors_total") == 0


async def test_memory_is_bounded() -> None:
    sink = Notebook("one", hangs=True)
    async with run(Counters(), sink) as emergency:
        for number in range(module.REMEMBERED + 100):
            emergency.take(make_alert(str(number)), ("one",))
        assert len(emergency._told) == module.REMEMBERED
        assert len(emergency._lanes["one"]) == module.WAITING


def state(key: str = "k", question: str = "q", rank: int = 3, time_ms: int = 1) -> Facts:
    return Facts(key, rank, question, time_ms, repeat_ms=10_000, interval_ms=1_000)


async def test_a_repeat_is_counted_only() -> None:
    counters, sink = Counters(), Notebook("one")
    async with run(counters, sink) as emergency:
        emergency.take(make_alert("a"), ("one",), state())
        for number in range(5):
            for _ in range(2):
                emergency.take(make_alert(f"r{number}"), ("one",), state())
        emergency.take(make_alert("worse"), ("one",), state(rank=4))
        emergency.take(make_alert("later"), ("one",), state(time_ms=99_999, key="k2"))
        await wait(lambda: len(sink.got) == 3)
    assert [name for _, name, _ in sink.got] == ["alert_a", "alert_worse", "alert_later"]
    assert counters.get("write_emergency_folded_total") == 5


async def test_what_nobody_took_stands_for_no_repeat() -> None:
    counters, sink = Counters(), Notebook("one", DeliveryError("never", recoverable=False))
    async with run(counters, sink) as emergency:
        emergency.take(make_alert("a"), ("one",), state())
        await wait(lambda: counters.get("write_emergency_errors_total") == 1)
        emergency.take(make_alert("b"), ("one",), state())
        await wait(lambda: len(sink.got) == 1)
    assert emergency.list_told("a") == ()
    assert emergency.list_told("b") == ("one",)


async def test_what_is_stored_is_left_to_the_outbox() -> None:
    counters, one, two = Counters(), Notebook("one"), Notebook("two", hangs=True)
    async with run(counters, one, two) as emergency:
        for name in "abc":
            emergency.take(make_alert(name), ("one", "two"), state(key=name))
        await wait(lambda: len(one.got) == 3)
        assert [emergency.list_told(name) for name in "abc"] == [("one",)] * 3
        emergency.settle(["b", "unknown"])
        assert [item.alert.id for item in emergency._lanes["two"]] == ["c"]  # a is on its way
        emergency.take(make_alert("again"), ("one",), state(key="c"))  # the database has these groups now
        await wait(lambda: len(one.got) == 4)
