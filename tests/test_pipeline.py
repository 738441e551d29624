"""The rooms joined: real judge, database and outbox; the source and the model are scripted."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from tests.daemon import RULE, make_exec_lines
from tests.test_judge import TIME_MS, build_judge, make_records, name_alert
from tests.write.test_emergency import Notebook
from watchdogd import pipeline as module
from watchdogd.background import NO_BACKGROUND, Background
from watchdogd.config import TriageSettings
from watchdogd.entities import Checkpoint, Label, Level, Verdict
from watchdogd.errors import SourceError, StoreError
from watchdogd.match.library import RuleSet, load_rules
from watchdogd.pipeline import Pipeline
from watchdogd.routes import Routes
from watchdogd.store.database import Batch, InstanceHeartbeat, Store, Written
from watchdogd.store.ledger import OffsetLedger
from watchdogd.store.norms import load_norms
from watchdogd.store.outbox import Outbox
from watchdogd.store.verdicts import Verdicts
from watchdogd.telemetry import Counters
from watchdogd.triage_desk import TriageDesk
from watchdogd.write.emergency import Emergency

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
    from pathlib import Path

    from watchdogd.entities import Alert, Delivery, Record
    from watchdogd.ports import Emit

START = Checkpoint("audit_log", "audit.log", "1:2:x", 0)
MANY = {"journald": 1000}


class SkippingClock:
    """Real time (events are complete once it is quiet), that can be skipped."""

    def __init__(self) -> None:
        self._ahead_ms = TIME_MS - time.time_ns() // 1_000_000
        self._skipped_s = 0.0

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self._ahead_ms

    def monotonic_s(self) -> float:
        return time.monotonic() + self._skipped_s

    def skip(self, seconds: float) -> None:
        self._skipped_s += seconds
        self._ahead_ms += round(seconds * 1000)


class Lines:
    """A source that emits these records in batches, then waits to be stopped; or fails."""

    def __init__(
        self,
        records: list[Record],
        batch: int = 64,
        error: SourceError | None = None,
        wait_after: tuple[int, threading.Event] | None = None,
    ) -> None:
        self._batches = [records[start : start + batch] for start in range(0, len(records), batch)]
        self._stopped = threading.Event()
        self._error = error
        self._wait_after = wait_after
        self.emitted = threading.Event()

    def run(self, emit: Emit) -> None:
        for number, batch in enumerate(self._batches):
            if self._stopped.is_set():
                return
            if self._wait_after is not None and number == self._wait_after[0]:
                self._wait_after[1].wait(30)
            emit(batch)
        self.emitted.set()
        if self._error is not None:
            raise self._error
        self._stopped.wait(30)

    def stop(self) -> None:
        self._stopped.set()

    def probe(self) -> None:
        """Who waits for an answer waits for ever."""


class Refusing(Store):
    """A database that refuses so many commits first."""

    refusals = 0
    commits = 0

    async def commit(self, batch: Batch) -> Mapping[str, Written]:
        self.commits += 1
        if self.refusals > 0 and (batch.alerts or batch.checkpoint):
            self.refusals -= 1
            raise StoreError("the disk is full")
        return await super().commit(batch)


class Script:
    """A triager that says the same of everything, as soon as it may."""

    def __init__(self, label: Label = Label.MALICIOUS) -> None:
        self.asked: list[Alert] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self._label = label

    breaker_state = "closed"

    async def identify(self) -> tuple[str, ...]:
        return ("model", "digest")

    async def ask(self, alert: Alert, background: Background) -> Verdict:  # noqa: ARG002 - of no interest here
        self.asked.append(alert)
        await self.may_answer.wait()
        return Verdict(label=self._label, by="model", confidence=0.9)

    async def warm_up(self) -> None:
        self.warm = True

    async def close(self) -> None:
        self.warm = False


async def gather_nothing(_: Alert) -> Background:
    return NO_BACKGROUND


class Bench:
    """A pipeline with everything around it."""

    def __init__(self, store: Refusing, rules: RuleSet, script: Script | None, clock: SkippingClock) -> None:
        self.counters = Counters()
        self.clock = clock
        self.store = store
        self.script = script
        self.ledger = OffsetLedger("audit_log", "audit.log", START)
        self.alive = 0
        self.outbox = Outbox(store, self.counters, self.clock)
        self.desk = TriageDesk(
            script,
            TriageSettings(budget_per_minute=60_000, questions_per_group=1000),
            Routes((("journald", Level.INFORMATIONAL), ("pager", Level.HIGH))),
            Verdicts(store, self.counters, clock),
            gather_nothing,
            lambda alert: alert.id,  # every alert asks something else
            self.counters,
            clock,
        )
        self.pipeline = Pipeline(
            build_judge(rules, self.counters, live=True),
            store,
            self.ledger,
            self.desk,
            dict,
            lambda: InstanceHeartbeat("boot", 1, 1, self.clock.now_ms()),
            self.counters,
            self.clock,
            self._live,
        )

    def _live(self) -> None:
        self.alive += 1

    async def read(
        self, *sources: Lines, alerts: int = 0, workers: int = 1, until: asyncio.Event | None = None
    ) -> None:
        """Follow the sources one after the other; stop when all was emitted, `alerts` are stored, `until` is set."""
        waiting = list(sources[1:])
        async with asyncio.TaskGroup() as group:
            judge = group.create_task(self.pipeline.run_judge())
            follower = group.create_task(self.pipeline.intake.follow(sources[0], lambda _: waiting.pop(0)))
            asking = [group.create_task(loop) for loop in self.loops(workers if self.script else 0)]
            await asyncio.to_thread(sources[-1].emitted.wait, 10)
            await wait_alerts(self, alerts)
            if until is not None:
                await asyncio.wait_for(until.wait(), 10)
            self.pipeline.intake.begin_stop()
            await follower
            await self.pipeline.intake.end_reading()
            await judge
            for task in asking:
                task.cancel()

    def loops(self, workers: int = 1) -> list[Coroutine[None, None, None]]:
        """Those of the desk, none where nobody is to answer."""
        loops = [self.desk.sort(), self.desk.settle_shed()] if workers else []
        return loops + [self.desk.answer() for _ in range(workers)]

    async def take(self) -> list[tuple[Delivery, Alert]]:
        """What is due now; delivered with that."""
        taken = []
        while due := await self.outbox.take_due(self.clock.now_ms(), MANY):  # of a group one at a time
            taken += due
            for delivery, _ in due:
                await self.outbox.mark_delivered(delivery)
        return taken


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RuleSet]:
    sets = {}
    for level in ("critical", "high", "medium"):
        folder: Path = tmp_path_factory.mktemp(level)
        (folder / "implant.yml").write_text(RULE.format(level=level))
        sets[level] = load_rules([folder])
    return sets


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_FIRST_S", 0.01)
    monkeypatch.setattr(module, "COMMIT_EVERY_S", 0.02)


@asynccontextmanager
async def open_bench(tmp_path: Path, rules: RuleSet, script: Script | None = None) -> AsyncIterator[Bench]:
    clock = SkippingClock()
    store = await Refusing.open(tmp_path / "watchdogd.db", Counters(), clock)
    assert isinstance(store, Refusing)
    try:
        yield Bench(store, rules, script, clock)
    finally:
        await store.close()


def make_log(*serials: int) -> list[Record]:
    return make_records(b"".join(make_exec_lines(serial, TIME_MS + serial) for serial in serials))


async def poll(holds: Callable[[], Awaitable[bool]]) -> None:
    """Until it holds."""
    async with asyncio.timeout(10):
        while not await holds():  # noqa: ASYNC110 -- it happens on the database's thread, or in a scripted part
            await asyncio.sleep(0.01)


@asynccontextmanager
async def run(loops: list[Coroutine[None, None, None]]) -> AsyncIterator[None]:
    """These loops as tasks, for as long as it lasts."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(loop) for loop in loops]
        yield
        for task in tasks:
            task.cancel()


async def wait_alerts(bench: Bench, count: int) -> None:
    async def holds() -> bool:
        return await bench.store.count_alerts() >= count

    await poll(holds)


async def wait_verdicts(bench: Bench, count: int) -> None:
    async def holds() -> bool:
        return sum([alert.verdict is not None for alert in await bench.store.latest_alerts(1000)]) >= count

    await poll(holds)


async def wait_asked(script: Script) -> None:
    async def holds() -> bool:
        return bool(script.asked)

    await poll(holds)


async def wait_counter(bench: Bench, name: str, count: int = 1) -> None:
    async def holds() -> bool:
        return bench.counters.get(name) >= count

    await poll(holds)


# --- collect to store ---------------------------------------------------------------------------------------------


async def test_alerts_deliveries_and_checkpoint_are_committed_together(
    tmp_path: Path, rules: dict[str, RuleSet]
) -> None:
    records = make_log(1, 2, 3)
    async with open_bench(tmp_path, rules["high"]) as bench:
        await bench.read(Lines(records, batch=2), alerts=3)
        assert {alert.id for alert in await bench.store.latest_alerts(10)} == {
            name_alert(serial, TIME_MS + serial) for serial in (1, 2, 3)
        }
        taken = await bench.take()
        assert sorted(delivery.sink for delivery, _ in taken) == ["journald"] * 3 + ["pager"] * 3
        point = await bench.store.load_checkpoint("audit_log")
        assert point is not None
        assert records[-1].position is not None
        assert point.offset <= records[-1].position.end
        assert bench.counters.get("store_alerts_total") == 3


async def test_lines_read_twice_give_no_second_alert(tmp_path: Path, rules: dict[str, RuleSet]) -> None:
    async with open_bench(tmp_path, rules["high"]) as bench:
        await bench.read(Lines(make_log(1, 2)), alerts=2)
    async with open_bench(tmp_path, rules["high"]) as bench:
        await bench.read(Lines(make_log(1, 2, 3)), alerts=3)
        assert await bench.store.count_alerts() == 3
        assert bench.counters.get("store_repeated_alerts_total") == 2
        assert bench.counters.get("store_alerts_total") == 1


async def test_least_level_of_a_sink(tmp_path: Path, rules: dict[str, RuleSet]) -> None:
    async with open_bench(tmp_path, rules["medium"]) as bench:
        await bench.read(Lines(make_log(1)), alerts=1)
        assert [delivery.sink for delivery, _ in await bench.take()] == ["journald"]


async def test_source_that_fails_is_opened_again(tmp_path: Path, rules: dict[str, RuleSet]) -> None:
    async with open_bench(tmp_path, rules["high"]) as bench:
        await bench.read(Lines(make_log(1), error=SourceError("the file is gone")), Lines(make_log(2)), alerts=2)
        assert await bench.store.count_alerts() == 2
        assert bench.counters.get("collect_source_errors_total") == 1


async def test_an_idle_host_costs_a_commit_in_ten_seconds(tmp_path: Path, rules: dict[str, RuleSet]) -> None:
    async with open_bench(tmp_path, rules["high"]) as bench, run([bench.pipeline.run_judge()]):
        await bench.pipeline.intake.pulse()
        committed = bench.store.commits
        await asyncio.sleep(20 * module.COMMIT_EVERY_S)
        assert bench.store.commits == committed
        bench.clock.skip(module.IDLE_COMMIT_EVERY_S)

        async def has_committed() -> bool:
            return bench.store.commits > committed

        await poll(has_committed)


async def test_pulse_comes_back_from_judge_and_store(tmp_path: Path, rules: dict[str, RuleSet]) -> None:
    async with open_bench(tmp_path, rules["high"]) as bench:
        passed = asyncio.Event()

        async def beat() -> None:
            await bench.pipeline.intake.pulse()
            passed.set()

        async with asyncio.TaskGroup() as group:
            group.create_task(beat())
            await asyncio.sleep(0.05)
            assert not passed.is_set()
            group.create_task(bench.read(Lines(make_log(1)), until=passed))


# --- a database that refuses ---------------------------------------------------------------------------------------


async def test_refused_commit_is_tried_again_and_nothing_is_lost(tmp_path: Path, rules: dict[str, RuleSet]) -> None:
    async with open_bench(tmp_path, rules["high"]) as bench:
        bench.store.refusals = 4
        await bench.read(Lines(make_log(1, 2, 3)), alerts=3)
        assert bench.counters.get("store_retries_total") == bench.alive == 4
        assert len(await bench.take()) == 6


async def test_what_is_usual_of_metrics_waits_for_the_database_and_is_stored_whole_at_the_stop(
    tmp_path: Path, rules: dict[str, RuleSet]
) -> None:
    due = [{"load.1m": b"old", "cpu.percent": b"1"}, {"load.1m": b"new"}]
    wholes: list[bool] = []

    def take(*, everything: bool) -> dict[str, bytes]:
        wholes.append(everything)
        return {"swap.used_percent": b"2"} if everything else due.pop(0) if due else {}

    async with open_bench(tmp_path, rules["high"]) as bench:
        bench.store.refusals = 4
        bench.pipeline.take_norms = take
        await bench.read(Lines(make_log(1, 2, 3)), alerts=3)
        assert await load_norms(bench.store) == {
            "load.1m": b"new",
            "cpu.percent": b"1",
            "swap.used_percent": b"2",
        }
    assert wholes[-1]
    assert not wholes[0]


async def test_reading_goes_on_while_the_database_refuses(tmp_path: Path, rules: dict[str, RuleSet]) -> None:
    async with open_bench(tmp_path, rules["high"]) as bench:
        bench.store.refusals = 1_000_000

        async def mend() -> None:
            await wait_counter(bench, "judge_alerts_total", 20)
            assert await bench.store.count_alerts() == 0
            assert bench.counters.gauges()["store_refusing"] == 1
            bench.store.refusals = 0

        async with asyncio.TaskGroup() as group:
            group.create_task(mend())
            group.create_task(bench.read(Lines(make_log(*range(20)), batch=5), alerts=20))
        assert bench.counters.gauges()["store_refusing"] == 0
        assert bench.counters.get("store_alerts_total") == 20
        assert {alert.id for _, alert in await bench.take()} == {name_alert(n, TIME_MS + n) for n in range(20)}


@pytest.mark.parametrize("bound", ["HELD_LINES", "HELD_BYTES"])
async def test_reading_waits_where_no_more_can_be_held(
    tmp_path: Path,
    rules: dict[str, RuleSet],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    bound: str,
) -> None:
    monkeypatch.setattr(module, bound, 1)
    async with open_bench(tmp_path, rules["high"]) as bench:
        bench.store.refusals = 1_000_000

        async def mend() -> None:
            await wait_counter(bench, "judge_alerts_total")
            await wait_counter(bench, "store_retries_total", bench.counters.get("store_retries_total") + 2)
            read = bench.counters.get("decode_lines_total")
            more.set()
            await wait_counter(bench, "store_retries_total", bench.counters.get("store_retries_total") + 2)
            assert bench.counters.get("decode_lines_total") == read
            complaints = [one.getMessage() for one in caplog.records if "trying again" in one.getMessage()]
            assert complaints[-1].startswith("the disk is full; reading waits; trying again")
            assert len(complaints) <= 2, "each refusal is complained about"
            bench.store.refusals = 0

        more = threading.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(mend())
            group.create_task(bench.read(Lines(make_log(1, 2, 3), batch=10, wait_after=(1, more)), alerts=3))
        assert await bench.store.count_alerts() == 3


@pytest.mark.parametrize(("level", "told"), [("critical", 2), ("high", 2), ("medium", 0)])
async def test_the_worst_are_told_past_a_database_that_refuses_for_long(
    tmp_path: Path, rules: dict[str, RuleSet], level: str, told: int
) -> None:
    async with open_bench(tmp_path, rules[level]) as bench:
        sinks = {name: Notebook(name) for name in ("journald", "pager")}
        bench.pipeline.emergency = emergency = Emergency(sinks.get, bench.counters)
        bench.store.refusals = 1_000_000

        async def is_told() -> bool:
            return all(len(sink.got) == told for sink in sinks.values())

        async def mend() -> None:
            await wait_counter(bench, "judge_alerts_total", 2)
            await wait_counter(bench, "store_retries_total", 2)
            assert bench.counters.get("write_emergency_total") == 0
            bench.clock.skip(module.EMERGENCY_AFTER_S)
            await wait_counter(bench, "store_retries_total", bench.counters.get("store_retries_total") + 2)
            await poll(is_told)
            bench.store.refusals = 0

        async with run([emergency.run()]), asyncio.TaskGroup() as group:
            group.create_task(mend())
            group.create_task(bench.read(Lines(make_log(1, 2)), alerts=2))
        assert await is_told()
        taken = await bench.take()
        assert len(taken) == (0 if told else 2), "what a sink has taken is not sent to it again"
        rows = "SELECT state, attempts FROM deliveries"
        found = await bench.store.read(lambda connection: connection.execute(rows).fetchall())
        assert set(found) == {("delivered", 1)}


async def test_stop_while_the_database_refuses_leaves_everything_to_be_read_again(
    tmp_path: Path, rules: dict[str, RuleSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COMMIT_EVERY_S", 60)  # only the alert is committed, however slow the machine
    async with open_bench(tmp_path, rules["high"]) as bench:
        await bench.store.commit(Batch(checkpoint=START))
        bench.store.refusals = 1_000_000
        refused = asyncio.Event()

        async def watch() -> None:
            await wait_counter(bench, "judge_alerts_total")
            await wait_counter(bench, "store_retries_total", 2)
            refused.set()

        async with asyncio.TaskGroup() as group:
            group.create_task(watch())
            group.create_task(bench.read(Lines(make_log(1, 2), batch=3), until=refused))
        assert await bench.store.count_alerts() == 0
        assert await bench.store.load_checkpoint("audit_log") == START
    async with open_bench(tmp_path, rules["high"]) as bench:
        await bench.read(Lines(make_log(1, 2)), alerts=2)
        assert await bench.store.count_alerts() == 2


async def test_once_refused_while_stopping_the_rest_is_left_to_the_next_start(
    tmp_path: Path, rules: dict[str, RuleSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even though the database would take it again: a stop must not take as long as the backlog."""
    monkeypatch.setattr(module, "COMMIT_EVERY_S", 60)  # only the alert is committed
    records = make_log(1, 2)
    async with open_bench(tmp_path, rules["high"]) as bench:
        await bench.store.commit(Batch(checkpoint=START))
        bench.pipeline.intake.begin_stop()
        bench.store.refusals = 1
        async with asyncio.TaskGroup() as group:
            judge = group.create_task(bench.pipeline.run_judge())
            await bench.pipeline.intake._put(records[:5])
            await wait_counter(bench, "judge_alerts_total")
            await wait_counter(bench, "store_retries_total")
            await bench.pipeline.intake._put(records[5:])
            await bench.pipeline.intake.end_reading()
            await judge
        assert [alert.id for alert in await bench.store.latest_alerts(10)] == [name_alert(1, TIME_MS + 1)]
        point = await bench.store.load_checkpoint("audit_log")
        assert point is not None
        assert records[5].position is not None
        assert point.offset == records[5].position.start


# --- triage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("level", "deadline_s"), [("critical", 0), ("high", 5), ("medium", 60)])
async def test_an_alert_falls_due_at_the_deadline_of_its_level(
    tmp_path: Path, rules: dict[str, RuleSet], level: str, deadline_s: int
) -> None:
    script = Script()
    script.may_answer.clear()
    async with open_bench(tmp_path, rules[level], script) as bench:
        began_ms = bench.clock.now_ms()
        await bench.read(Lines(make_log(1)), alerts=1)
        due_ms = await bench.outbox.next_due_ms(began_ms - 1, MANY)
        assert due_ms is not None
        assert began_ms <= due_ms - deadline_s * 1000 <= bench.clock.now_ms()
        assert await bench.outbox.take_due(due_ms - 1, MANY) == []
        taken = await bench.outbox.take_due(due_ms, MANY)
        assert {alert.level for _, alert in taken} == {Level(level)}


async def test_without_a_model_an_alert_is_due_at_once(tmp_path: Path, rules: dict[str, RuleSet]) -> None:
    async with open_bench(tmp_path, rules["medium"]) as bench:
        await bench.read(Lines(make_log(1)), alerts=1)
        assert len(await bench.take()) == 1


async def test_rule_that_wants_no_triage_is_due_at_once_and_not_asked_about(
    tmp_path: Path, rules: dict[str, RuleSet]
) -> None:
    body = rules["medium"].bodies[0]
    silent = replace(rules["medium"], bodies=(replace(body, rule=replace(body.rule, triage="never")),))
    async with open_bench(tmp_path, silent, script := Script()) as bench:
        await bench.read(Lines(make_log(1)), alerts=1)
        assert len(await bench.take()) == 1
        assert script.asked == []


async def test_verdict_in_time_releases_the_alert_at_once(tmp_path: Path, rules: dict[str, RuleSet]) -> None:
    async with open_bench(tmp_path, rules["medium"], Script(Label.SUSPICIOUS)) as bench:
        done = asyncio.Event()

        async def watch() -> None:
            await wait_verdicts(bench, 1)
            done.set()

        async with asyncio.TaskGroup() as group:
            group.create_task(watch())
            group.create_task(bench.read(Lines(make_log(1)), until=done))
        assert bench.desk.wake_deliverer.is_set()
        ((delivery, alert),) = await bench.take()
        assert delivery.kind == "alert"
        assert alert.verdict is not None
        assert alert.verdict.label is Label.SUSPICIOUS
        assert await bench.outbox.next_due_ms(bench.clock.now_ms(), MANY) is None


async def test_late_verdict_follows_under_the_same_alert_id(tmp_path: Path, rules: dict[str, RuleSet]) -> None:
    script = Script(Label.MALICIOUS)
    script.may_answer.clear()
    async with open_bench(tmp_path, rules["high"], script) as bench:
        done = asyncio.Event()

        async def go_on() -> None:
            await wait_asked(script)
            bench.clock.skip(5)
            first = await bench.take()
            assert {(delivery.sink, delivery.kind) for delivery, _ in first} == {
                ("journald", "alert"),
                ("pager", "alert"),
            }
            assert {alert.verdict for _, alert in first} == {None}
            script.may_answer.set()
            await wait_verdicts(bench, 1)
            second = await bench.take()
            assert {(delivery.sink, delivery.kind) for delivery, _ in second} == {
                ("journald", "verdict"),
                ("pager", "verdict"),
            }
            assert {alert.id for _, alert in first} == {alert.id for _, alert in second}
            assert {alert.verdict.label for _, alert in second if alert.verdict} == {Label.MALICIOUS}
            done.set()

        async with asyncio.TaskGroup() as group:
            group.create_task(go_on())
            group.create_task(bench.read(Lines(make_log(1)), until=done))


async def test_what_waits_for_a_verdict_is_asked_about_after_a_restart(
    tmp_path: Path, rules: dict[str, RuleSet]
) -> None:
    script = Script()
    script.may_answer.clear()
    async with open_bench(tmp_path, rules["high"], script) as bench:
        await bench.read(Lines(make_log(1, 2)), alerts=2)
    async with open_bench(tmp_path, rules["high"], script := Script()) as bench:
        await bench.desk.resume()
        async with run(bench.loops()):
            await wait_verdicts(bench, 2)
        assert len(script.asked) == 2
