"""The ledger of loss: every run adds up, and what is lost on the way is noticed."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest

from tests.daemon import RULE, make_exec_lines
from tests.test_judge import TIME_MS, make_records
from tests.test_pipeline import Bench, Lines, Refusing, Script, SkippingClock, poll
from watchdogd import pipeline as module
from watchdogd.entities import Event, EventId, Record
from watchdogd.ledger import EQUATIONS, balance_ledger
from watchdogd.ledger_desk import LedgerDesk
from watchdogd.match.library import RuleSet, load_rules
from watchdogd.store.tally import read_tallies
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from pathlib import Path

    from watchdogd.ledger import LedgerReport


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> RuleSet:
    folder: Path = tmp_path_factory.mktemp("rules")
    (folder / "implant.yml").write_text(RULE.format(level="high"))
    return load_rules([folder])


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_FIRST_S", 0.01)
    monkeypatch.setattr(module, "COMMIT_EVERY_S", 0.02)


def test_an_empty_ledger_adds_up() -> None:
    report = balance_ledger({})
    assert report.complete
    assert report.describe() == "yes"
    assert [balance.between for balance in report.balances] == [equation.between for equation in EQUATIONS]


@pytest.mark.parametrize("equation", EQUATIONS, ids=lambda equation: equation.between)
def test_each_equation_notices_what_is_missing_and_what_is_too_much(equation: object) -> None:
    assert equation in EQUATIONS
    one = EQUATIONS[EQUATIONS.index(equation)]
    words = f"{one.unit} unaccounted between {one.between}"
    assert f"3 {words}" in balance_ledger({one.left[0]: 3}).unaccounted
    for name in one.right:
        assert f"2 {one.unit} too many between {one.between}" in balance_ledger({name: 2}).unaccounted
        assert not [text for text in balance_ledger({one.left[0]: 2, name: 2}).unaccounted if one.between in text]


def test_what_cannot_be_read_is_not_called_complete() -> None:
    report = balance_ledger({}, frozenset({"deliveries_pending"}))
    assert not report.complete
    assert report.describe() == "no: deliveries between deliveries due and deliveries ended cannot be counted now"


def make_lines(chance: random.Random, first: int) -> list[Record]:
    """Lines of events, some of them cut, doubled, out of order or no audit records at all."""
    lines: list[bytes] = []
    for serial in range(first, first + chance.randint(1, 12)):
        event = make_exec_lines(serial, TIME_MS + serial).splitlines(keepends=True)
        if chance.random() < 0.2:
            event.remove(chance.choice(event))
        if chance.random() < 0.2:
            event.append(chance.choice(event))
        lines += event
    for _ in range(chance.randint(0, 6)):
        lines.insert(chance.randrange(len(lines)), chance.choice([b"\n", b"----\n", b"garbage\n", b"type=\xff\n"]))
    if chance.random() < 0.3:
        chance.shuffle(lines)
    return make_records(b"".join(lines))


def make_samples(chance: random.Random) -> list[Event]:
    return [
        Event(EventId("host_metrics", None, TIME_MS + number, 0, "load"), "host_metrics")
        for number in range(chance.randint(0, 5))
    ]


async def check(desk: LedgerDesk) -> LedgerReport:
    report = await desk.report()
    assert report.complete, report.describe()
    return report


async def is_quiet(bench: Bench) -> bool:
    """Whether nothing is in hand any more but what is sampled all the time."""
    in_hand = bench.pipeline.count_in_flight()
    return not (in_hand["lines_queued"] or in_hand["lines_open"] or in_hand["alerts_held"])


async def live(path: Path, rules: RuleSet, chance: random.Random, *, until: str = "") -> dict[str, int]:
    """One life with lines of log and socket, samples, refused commits and deliveries; what was counted.

    `until`: a counter to lose one of, once the life has ended.
    """
    clock = SkippingClock()
    counters = Counters()
    store = await Refusing.open(path, counters, clock)
    assert isinstance(store, Refusing)
    try:
        bench = Bench(store, rules, Script() if chance.random() < 0.7 else None, clock)
        desk = await LedgerDesk.open(store, bench.counters, bench.pipeline.count_in_flight)
        store.refusals = chance.choice([0, 0, 3])
        socket = [Record("audit_netlink", None, record.data) for record in make_lines(chance, 500)]
        sources = [
            Lines(make_lines(chance, chance.randint(1, 300)), batch=chance.randint(1, 9)),
            Lines(socket, batch=7),
        ]
        await check(desk)
        async with asyncio.TaskGroup() as group:
            judge = group.create_task(bench.pipeline.run_judge())
            follows = [group.create_task(bench.pipeline.intake.follow(one, lambda _: Lines([]))) for one in sources]
            loops = [group.create_task(loop) for loop in bench.loops(1 if bench.script else 0)]
            sampling = group.create_task(bench.pipeline.intake.sample(Samples(chance), 0.01))
            for _ in range(chance.randint(1, 4)):
                await asyncio.sleep(0.02)
                await check(desk)
                for delivery, _alert in await bench.outbox.take_due(clock.now_ms() + 10**6, {"journald": 3}):
                    if chance.random() < 0.5:
                        await bench.outbox.mark_delivered(delivery)
                    else:
                        await bench.outbox.mark_failed(delivery, "no", None if chance.random() < 0.5 else 1)
            store.refusals = 0
            for source in sources:
                await asyncio.to_thread(source.emitted.wait, 10)
            if chance.random() < 0.8:  # else it ends with lines in hand
                await poll(lambda: is_quiet(bench))
            sampling.cancel()
            bench.pipeline.intake.begin_stop()
            for follow in follows:
                await follow
            await bench.pipeline.intake.end_reading()
            await judge
            report = await check(desk)
            for task in loops:
                task.cancel()
        if until:
            bench.counters.add(until, -1)
            lost = await desk.report()
            assert not lost.complete
            assert any(text.startswith("1 ") for text in lost.unaccounted), lost.describe()
        amounts = {name: count for one in report.balances for name, count in (one.left | one.right).items()}
        return amounts | await store.read(read_tallies)
    finally:
        await store.close()


class Samples:
    """A source of samples that nobody has rules for."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def sample(self) -> list[Event]:
        return make_samples(self._chance)


@pytest.mark.parametrize("seed", range(8))
async def test_random_lives_over_one_database_add_up(tmp_path: Path, rules: RuleSet, seed: int) -> None:
    chance = random.Random(seed)
    before = {"alerts_stored": 0, "questions_waiting": 0, "deliveries_pending": 0}
    for _ in range(3):
        amounts = await live(tmp_path / "watchdogd.db", rules, chance)
        assert amounts["collect_lines_total"] > 0
        carried = (amounts["alerts_carried"], amounts["questions_carried"], amounts["deliveries_carried"])
        assert carried == tuple(before[name] for name in ("alerts_stored", "questions_waiting", "deliveries_pending"))
        before = amounts


LOSABLE = [
    "collect_lines_total",
    "decode_lines_total",
    "decode_event_lines_total",
    "judge_events_total",
    "judge_evaluated_events_total",
    "judge_alerts_total",
    "store_alerts_total",
    "store_active_alerts_total",
]


@pytest.mark.parametrize("name", LOSABLE)
async def test_a_loss_that_nobody_counted_is_noticed(tmp_path: Path, rules: RuleSet, name: str) -> None:
    await live(tmp_path / "watchdogd.db", rules, random.Random(1), until=name)


async def test_a_delivery_that_vanishes_is_noticed(tmp_path: Path, rules: RuleSet) -> None:
    counters = Counters()
    clock = SkippingClock()
    store = await Refusing.open(tmp_path / "watchdogd.db", counters, clock)
    assert isinstance(store, Refusing)
    try:
        bench = Bench(store, rules, None, clock)
        desk = await LedgerDesk.open(store, bench.counters, bench.pipeline.count_in_flight)
        await bench.read(Lines(make_records(make_exec_lines(1, TIME_MS))), alerts=1)
        await check(desk)
        await store.write(lambda connection: connection.execute("DROP TRIGGER tally_deleted") and None)
        gone = await store.write(
            lambda connection: connection.execute("DELETE FROM deliveries WHERE state = 'pending'").rowcount
        )
        assert gone > 0
        report = await desk.report()
        words = f"{gone} deliveries unaccounted between deliveries due and deliveries ended"
        assert report.describe() == f"no: {words}"
        assert bench.counters.gauges()["ledger_complete"] == 0
    finally:
        await store.close()
