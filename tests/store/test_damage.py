"""A damaged database is set aside; what can be read of it is kept, and nothing is believed told that was not."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.store.conftest import MANY
from watchdogd.background import Case
from watchdogd.entities import Checkpoint, Label, Level, Seen
from watchdogd.errors import StoreDamagedError, StoreError
from watchdogd.store.damage import KEPT_ASIDE, SetAside, build_damage_alert, list_aside
from watchdogd.store.database import Batch, NewAlert, Store
from watchdogd.store.outbox import Outbox
from watchdogd.store.verdicts import Verdicts
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from collections.abc import Callable

    from watchdogd.entities import Alert
    from watchdogd.ports import Clock

    MakeAlert = Callable[..., Alert]

PAGE_BYTES = 4096


def point(offset: int) -> Checkpoint:
    return Checkpoint("audit_log", "/var/log/audit/audit.log", "1:2:aa", offset)


async def fill(path: Path, clock: Clock, alert: MakeAlert, count: int = 120) -> None:
    """Alerts of a page each, all with a delivery that waits and one that is done; a case, a baseline, a checkpoint."""
    store = await Store.open(path, Counters(), clock)
    for number in range(count):
        found = alert(f"{number:04}", lines=("x" * PAGE_BYTES,))
        await store.commit(Batch(alerts=(NewAlert(found, ("journald", "hook"), clock.now_ms(), triage=False),)))
    await store.write(
        lambda connection: connection.execute("UPDATE deliveries SET state = 'delivered' WHERE sink = 'hook'")
    )
    await store.commit(Batch(checkpoint=point(7), seen={"sh<sshd": Seen(2, 50)}))
    await Verdicts(store, Counters(), clock).keep_opinion(make_case("0000"))
    await store.close()


def make_case(alert_id: str) -> Case:
    return Case(id=alert_id, label=Label.BENIGN, title="t", level=Level.HIGH, tokens=(), by="operator")


def scribble(path: Path, start: int, length: int) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(random.Random(start).randbytes(length))


def overwrite(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def count_bytes(path: Path | str) -> int:
    return Path(path).stat().st_size


def remove(*paths: Path | str) -> None:
    for path in paths:
        Path(path).unlink()


def list_names(folder: Path) -> list[str]:
    return [found.name for found in folder.iterdir()]


async def test_a_damaged_header_costs_the_database_and_not_the_start(
    path: Path, clock: Clock, alert: MakeAlert
) -> None:
    await fill(path, clock, alert, 3)
    scribble(path, 0, 100)
    counters = Counters()
    store = await Store.open(path, counters, clock)
    assert store.found is not None
    assert counters.get("store_set_aside_total") == 1
    (aside,) = list_aside(path)
    assert store.found.file == str(aside)
    assert aside.stat().st_mode & 0o777 == 0o600
    assert await store.load_checkpoint("audit_log") is None
    assert set(await store.commit(Batch(alerts=(NewAlert(alert("new"), (), 0, triage=False),)))) == {"new"}
    await store.close()


@pytest.mark.parametrize(("how", "known"), [("header", 1), ("zeros", 1), ("short", 1), ("header", 0), ("zeros", 0)])
async def test_our_own_database_is_recognised_however_it_is_damaged(
    path: Path, clock: Clock, alert: MakeAlert, how: str, known: int
) -> None:
    await fill(path, clock, alert, 3)
    if how == "header":
        scribble(path, 0, 100)
    elif how == "zeros":
        overwrite(path, bytes(count_bytes(path)))
    else:
        os.truncate(path, PAGE_BYTES + 100)
    if not known:
        remove(f"{path}.lock")
    counters = Counters()
    store = await reopen(path, counters, clock)
    assert store.found is not None
    await store.close()


async def reopen(path: Path, counters: Counters, clock: Clock) -> Store:
    """As the service does: what is damaged may show with the first look only."""
    store = await Store.open(path, counters, clock)
    try:
        await store.latest_alerts(1000)
    except StoreDamagedError as error:
        assert store.damaged.is_set()
        await store.close()
        return await Store.open(path, counters, clock, damaged=str(error))
    return store


async def test_a_stranger_s_file_is_never_touched(tmp_path: Path, clock: Clock) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("these are not the tables that you are looking for\n" * 100)
    for _ in range(3):
        with pytest.raises(StoreError, match="is not a database of watchdogd"):
            await Store.open(text, Counters(), clock)
    assert text.read_text().startswith("these are not")
    assert list_names(tmp_path) == ["notes.txt"]


@pytest.mark.parametrize("seed", range(5))
async def test_damaged_pages_cost_what_they_held(path: Path, clock: Clock, alert: MakeAlert, seed: int) -> None:
    await fill(path, clock, alert)
    before = read_ids(path)
    pages = count_bytes(path) // PAGE_BYTES
    chance = random.Random(seed)
    for page in chance.sample(range(pages // 4, pages), 12):
        scribble(path, page * PAGE_BYTES, PAGE_BYTES)
    store = await Store.open(path, Counters(), clock, damaged="found so")
    assert store.found is not None
    assert await store.load_checkpoint("audit_log") is None
    kept = {found.id for found in await store.latest_alerts(1000)}
    assert kept < before
    assert len(kept) > len(before) // 4, "hardly anything was salvaged"
    outbox = Outbox(store, Counters(), clock)
    waiting = {found.id for _, found in await outbox.take_due(clock.now_ms(), MANY)}
    told = await store.read(lambda c: {row[0] for row in c.execute("SELECT alert_id FROM deliveries")})
    said = await store.read(lambda c: {row[0] for row in c.execute("SELECT alert_id FROM opinions")})
    assert kept <= told | said, "an alert without deliveries would never be told again"
    assert waiting <= kept
    again = tuple(NewAlert(alert(name), ("journald",), 0, triage=False) for name in sorted(before))
    assert set(await store.commit(Batch(alerts=again))) == before - kept
    await store.close()


def read_ids(path: Path) -> set[str]:
    database = sqlite3.connect(path)
    try:
        return {row[0] for row in database.execute("SELECT id FROM alerts")}
    finally:
        database.close()


async def test_an_intact_database_that_was_called_damaged_loses_no_alert(
    path: Path, clock: Clock, alert: MakeAlert
) -> None:
    await fill(path, clock, alert, 10)
    store = await Store.open(path, Counters(), clock, damaged="a read error of the disk")
    assert {found.id for found in await store.latest_alerts(100)} == {f"{number:04}" for number in range(10)}
    assert await store.load_baseline() == {"sh<sshd": Seen(2, 50)}
    assert [case.id for case in await Verdicts(store, Counters(), clock).load_cases()] == ["0000"]
    taken = await Outbox(store, Counters(), clock).take_due(clock.now_ms(), MANY)
    assert [delivery.sink for delivery, _ in taken] == ["journald"] * 10
    await store.close()


async def test_a_damaged_wal_never_leaves_a_checkpoint_ahead_of_its_alerts(
    path: Path, tmp_path: Path, clock: Clock, alert: MakeAlert
) -> None:
    store = await Store.open(path, Counters(), clock)
    for number in range(30):
        await store.commit(
            Batch(alerts=(NewAlert(alert(str(number)), ("journald",), 0, triage=False),), checkpoint=point(number + 1))
        )
    size = count_bytes(f"{path}-wal")
    offsets = []
    for start in range(0, size, size // 12):
        copy = tmp_path / f"copy{start}" / path.name
        shutil.copytree(path.parent, copy.parent)
        scribble(Path(f"{copy}-wal"), start, 300)
        remove(f"{copy}.lock", f"{copy}-shm")
        found = await reopen(copy, Counters(), clock)
        last = await found.load_checkpoint("audit_log")
        offset = 0 if last is None else last.offset
        assert {int(one.id) for one in await found.latest_alerts(100)} >= set(range(offset))
        offsets.append(offset)
        await found.close()
    assert len(set(offsets)) > 3
    await store.close()


async def test_a_database_that_is_gone_is_said(path: Path, clock: Clock, alert: MakeAlert) -> None:
    await fill(path, clock, alert, 1)
    remove(path)
    store = await Store.open(path, Counters(), clock)
    assert store.found is not None
    assert store.found.file is None
    await store.close()


async def test_a_first_start_is_no_loss(path: Path, clock: Clock) -> None:
    counters = Counters()
    store = await Store.open(path, counters, clock)
    assert store.found is None
    assert counters.get("store_set_aside_total") == 0
    await store.close()


async def test_a_start_that_ends_before_it_reads_says_it_again(path: Path, clock: Clock, alert: MakeAlert) -> None:
    await fill(path, clock, alert, 1)
    scribble(path, 0, 100)
    ids = set()
    for _ in range(2):
        store = await Store.open(path, Counters(), clock)
        assert store.found is not None
        ids.add(build_damage_alert(store.found, "h").id)
        await store.close()
    assert len(ids) == 1
    store = await Store.open(path, Counters(), clock)
    await store.commit(Batch(checkpoint=point(1)))
    await store.close()
    store = await Store.open(path, Counters(), clock)
    assert store.found is None
    await store.close()


async def test_only_the_newest_damaged_databases_are_kept(path: Path, clock: Clock, alert: MakeAlert) -> None:
    names = []
    for _ in range(KEPT_ASIDE + 2):
        await fill(path, clock, alert, 1)
        scribble(path, 0, 100)
        store = await Store.open(path, Counters(), clock)
        assert store.found is not None
        names.append(store.found.file)
        await store.commit(Batch(checkpoint=point(1)))
        await store.close()
    assert [str(found) for found in list_aside(path)] == names[-KEPT_ASIDE:]


def test_the_alert_of_it_is_critical_and_says_where_the_old_one_is() -> None:
    found = SetAside("/db", "/db.corrupt-1", "/db: is damaged", 5, {"alerts": 7})
    alert = build_damage_alert(found, "web1")
    assert alert.level is Level.CRITICAL
    assert alert.rule.triage == "never"
    assert "/db.corrupt-1" in alert.lines[0]
    assert "7 alerts" in alert.lines[0]
