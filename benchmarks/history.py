"""A database with a long history: how long start, searches, verdicts and pruning take.

`python -m benchmarks.history [--alerts 1000000] [--folder DIR] [--keep-days N]` builds it from the alerts of the
recorded attack (5 GB for a million), with folded rows, silenced rows and deliveries, and prints seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import random
import resource
import sqlite3
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from watchdogd.cli.replay import build_judge, judge_files
from watchdogd.config import load_config
from watchdogd.entities import Alert, AlertState, Label, Level, Verdict
from watchdogd.listings import AlertsRequest
from watchdogd.match.sources import choose_sources, load_sources
from watchdogd.opinions import make_case
from watchdogd.ports import SystemClock
from watchdogd.sessions import name_origin
from watchdogd.store import retention as retention_module
from watchdogd.store.database import Batch, NewAlert, Store
from watchdogd.store.documents import encode_alert
from watchdogd.store.history import History
from watchdogd.store.retention import Retention
from watchdogd.store.verdicts import Verdicts
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

T = TypeVar("T")

ROOT = Path(__file__).parents[1]
SPAN_MS = 120 * 86_400_000
"""The history that is made is so long, and evenly filled."""
BATCH = 2_000
STATES = {0: AlertState.ACTIVE, 9: AlertState.SILENCED}
"""Of ten alerts the first is active, the last silenced, the others are folded into the first."""
USERS = ("root", "www-data", "alice", "bob", "deploy", "postgres", "git", "backup")


def record_alerts() -> list[Alert]:
    """The alerts of the recorded attack."""
    config = load_config(None, environ={})
    rules = load_sources(choose_sources(config, [], ROOT))
    counters = Counters()
    return list(judge_files(build_judge(rules, counters), [str(ROOT / "tests" / "data" / "demo.log")], counters))


def make_alerts(count: int, now_ms: int) -> Iterator[tuple[Alert, str | None, str | None]]:
    """Alerts, oldest first, each with its leader and its silence."""
    models = record_alerts()
    chance = random.Random(7)  # noqa: S311 - the same history each time
    leader = ""
    for number in range(count):
        model = models[number % len(models)]
        time_ms = now_ms - SPAN_MS + SPAN_MS * number // count
        label = chance.choices(list(Label), (1, 8, 40, 51))[0]
        process = model.process
        if process is not None:
            process = msgspec.structs.replace(process, user=chance.choice(USERS), session=str(number // 200))
        alert = msgspec.structs.replace(
            model,
            id=hashlib.sha256(b"%d" % number).hexdigest(),
            time_ms=time_ms,
            first_seen_ms=time_ms,
            last_seen_ms=time_ms,
            process=process,
            level=chance.choice(list(Level)),
            state=STATES.get(number % 10, AlertState.FOLDED),
            verdict=Verdict(label=label, by="fusion", confidence=0.7, summary="Looks like the work of a script."),
        )
        if alert.state is AlertState.ACTIVE:
            leader = alert.id
        yield (
            alert,
            leader if alert.state is AlertState.FOLDED else None,
            "s1" if alert.state is AlertState.SILENCED else None,
        )


def fill(path: Path, count: int, now_ms: int) -> None:
    """Put the history into a database that has its tables."""
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in ("synchronous = OFF", "cache_size = -200000"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("BEGIN")
    for number, (alert, leader, silence) in enumerate(make_alerts(count, now_ms)):
        connection.execute(
            "INSERT INTO alerts (id, time_ms, rule_id, level, triage_state, document, origin, state, leader, silence) "
            "VALUES (?, ?, ?, ?, 'done', ?, ?, ?, ?, ?)",
            (
                alert.id,
                alert.time_ms,
                alert.rule.id,
                alert.level.value,
                encode_alert(alert),
                name_origin(alert),
                alert.state.value,
                leader,
                silence,
            ),
        )
        if alert.state is AlertState.ACTIVE:
            connection.executemany(
                "INSERT INTO deliveries (alert_id, sink, kind, state, due_ms, attempts, created_ms, ended_ms) "
                "VALUES (?1, ?2, 'alert', 'delivered', ?3, 1, ?3, ?3)",
                [(alert.id, sink, alert.time_ms) for sink in ("journald", "ops")],
            )
        if number % BATCH == BATCH - 1:
            connection.execute("COMMIT")
            connection.execute("BEGIN")
    connection.execute("COMMIT")
    connection.close()


def measure_file(path: Path) -> int:
    """Bytes."""
    return path.stat().st_size


def say(what: str, seconds: float) -> None:
    """One measured time."""
    print(f"{what:<58} {seconds:8.3f} s", flush=True)


def forget_pages(path: Path) -> None:
    """Have the system read this file from the disk again."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


async def measure(path: Path, what: str, work: Callable[[], Awaitable[T]]) -> T:
    """Do it twice, and say how long it took with nothing of the file in memory, and then."""
    times = []
    await asyncio.to_thread(forget_pages, path)
    for _ in range(2):
        began_s = time.perf_counter()
        result = await work()
        times.append(time.perf_counter() - began_s)
    print(f"{what:<58} {times[0]:8.3f} s cold {times[1]:8.3f} s warm", flush=True)
    return result


async def look(path: Path, store: Store, history: History, now_ms: int) -> None:
    """Everything that is asked of a history."""
    day_ms = 86_400_000
    summary = await measure(path, "status", history.summarize)
    print(f"  {summary}")
    searches = {
        "newest": AlertsRequest(),
        "state active": AlertsRequest(state=AlertState.ACTIVE),
        "rule": AlertsRequest(rule=record_alerts()[0].rule.title),
        "level": AlertsRequest(level=Level.HIGH),
        "verdict": AlertsRequest(verdict=Label.MALICIOUS),
        "user": AlertsRequest(user="postgres"),
        "since 7 days": AlertsRequest(since_ms=now_ms - 7 * day_ms),
        "until 100 days ago": AlertsRequest(until_ms=now_ms - 100 * day_ms),
        "one day, 60 days ago": AlertsRequest(since_ms=now_ms - 60 * day_ms, until_ms=now_ms - 59 * day_ms),
        "user whom nobody knows": AlertsRequest(user="mallory"),
        "rarely fits, by common values": AlertsRequest(
            state=AlertState.ACTIVE, level=Level.HIGH, verdict=Label.MALICIOUS, user="postgres"
        ),
        "never fits, by common values": AlertsRequest(state=AlertState.INHIBITED, user="postgres"),
        "nothing fits, by five filters": AlertsRequest(
            state=AlertState.ACTIVE, level=Level.HIGH, verdict=Label.MALICIOUS, user="mallory", since_ms=0
        ),
    }
    for name, wanted in searches.items():
        found = await measure(path, f"alerts list: {name}", lambda wanted=wanted: history.search(wanted))  # type: ignore[misc]
        print(f"  {len(found.alerts)} alerts{', and more' if found.next else ''}")
    some = (await history.search(AlertsRequest(until_ms=now_ms - 50 * day_ms, state=AlertState.ACTIVE))).alerts[0]
    alert = msgspec.json.decode(some.document, type=Alert)
    await measure(path, "alerts show", lambda: history.show(alert.id[:12]))
    verdicts = Verdicts(store, Counters(), SystemClock())
    await measure(path, "verdict: find the alert", lambda: verdicts.find(alert.id[:12], 6))
    await measure(path, "verdict: related alerts", lambda: verdicts.related(alert, 6 * 3_600_000, 20))
    case = make_case(alert, Label.BENIGN, "a note", ())
    await measure(path, "verdict: keep it", lambda: verdicts.keep_opinion(case))


async def prune(path: Path, store: Store, keep_days: int) -> None:
    """Prune, while the pipeline commits an alert ten times a second."""
    clock, counters = SystemClock(), Counters()
    longest: dict[str, float] = {}

    def time_work(owner: object, name: str, shown: str) -> None:
        work = getattr(owner, name)

        def timed(*arguments: object, **options: object) -> object:
            began_s = time.perf_counter()
            try:
                return work(*arguments, **options)
            finally:
                longest[shown] = max(longest.get(shown, 0.0), time.perf_counter() - began_s)

        setattr(owner, name, timed)

    time_work(retention_module, "prune_step", "longest step of deleting, before its commit")
    time_work(retention_module, "give_back_step", "longest step of giving back, before its commit")
    time_work(store, "_transact", "longest transaction of all")
    retention = Retention(store, counters, clock, keep_ms=keep_days * 86_400_000, max_bytes=None)
    waits: list[float] = []
    model = record_alerts()[0]

    async def commit_often() -> None:
        number = 0
        while True:
            number += 1
            alert = msgspec.structs.replace(model, id=f"fresh{number}", time_ms=clock.now_ms())
            began_s = time.perf_counter()
            await store.commit(Batch(alerts=(NewAlert(alert, ("journald",), clock.now_ms(), triage=False),)))
            waits.append(time.perf_counter() - began_s)
            await asyncio.sleep(0.1)

    size = measure_file(path)
    async with asyncio.TaskGroup() as group:
        committing = group.create_task(commit_often())
        await asyncio.sleep(5)
        quiet, began_s = len(waits), time.perf_counter()
        pruned = await retention.prune()
        took_s = time.perf_counter() - began_s
        committing.cancel()
    print(f"pruned {pruned} alerts in {took_s:.0f} s, {pruned / max(took_s, 0.001):.0f} a second")
    for name, seconds in sorted(longest.items()):
        say(name, seconds)
    for name, found in {"before": waits[:quiet], "while pruning": waits[quiet:]}.items():
        ordered = sorted(found)
        if ordered:
            say(f"commit of an alert, {name}: median", ordered[len(ordered) // 2])
            say(f"commit of an alert, {name}: 99 of 100", ordered[len(ordered) * 99 // 100])
            say(f"commit of an alert, {name}: longest", ordered[-1])
    print(f"the file: {size / 1e9:.2f} GB before, {measure_file(path) / 1e9:.2f} GB after")


async def run(folder: Path, count: int, keep_days: int) -> None:
    """Build, look, prune."""
    path, clock, counters = folder / "history.db", SystemClock(), Counters()
    now_ms = clock.now_ms()
    if not path.exists():
        await (await Store.open(path, counters, clock)).close()
        began_s = time.perf_counter()
        fill(path, count, now_ms)
        say(f"building a history of {count} alerts", time.perf_counter() - began_s)
    print(f"{path.stat().st_size / 1e9:.2f} GB")
    began_s = time.perf_counter()
    store = await Store.open(path, counters, clock)
    say("start: open the database", time.perf_counter() - began_s)
    try:
        began_s = time.perf_counter()
        await Verdicts(store, counters, clock).waiting_questions(256)
        await store.load_baseline()
        await store.load_correlations()
        await store.load_checkpoint("audit_log")
        say("start: what the pipeline and triage resume with", time.perf_counter() - began_s)
        await look(path, store, History(path, counters, clock, keep_ms=None, max_bytes=None), now_ms)
        if keep_days:
            await prune(path, store, keep_days)
    finally:
        await store.close()
    print(f"memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB at most")


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--alerts", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where the database is made, or is from the last time")
    parser.add_argument("--keep-days", type=int, default=0, help="in the end prune what is older, of 120 days")
    args = parser.parse_args()
    if args.folder is not None:
        args.folder.mkdir(parents=True, exist_ok=True)
        asyncio.run(run(args.folder, args.alerts, args.keep_days))
        return
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder), args.alerts, args.keep_days))


if __name__ == "__main__":
    main()
