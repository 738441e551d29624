"""Together or not at all: on real files, a full disk, and a process that is killed."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from msgspec.structs import replace

from tests.store.conftest import MANY
from watchdogd.entities import Alert, AlertState, Checkpoint, CorrelationRow, EventId, Level, Seen, Verdict
from watchdogd.errors import StoreError
from watchdogd.store.database import Batch, InstanceHeartbeat, NewAlert, Store
from watchdogd.store.outbox import Outbox
from watchdogd.store.schema import MIGRATIONS
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from watchdogd.ports import Clock

    MakeAlert = Callable[..., Alert]


def point(offset: int) -> Checkpoint:
    return Checkpoint("audit_log", "/var/log/audit/audit.log", "1:2:aa", offset)


def new(alert: Alert, *sinks: str, due_ms: int = 0, triage: bool = False) -> NewAlert:
    return NewAlert(alert, sinks, due_ms, triage)


async def test_a_batch_is_kept_over_a_restart(path: Path, counters: Counters, clock: Clock, alert: MakeAlert) -> None:
    store = await Store.open(path, counters, clock)
    beat = InstanceHeartbeat("boot", 7, 100, 200)
    batch = Batch(
        alerts=(new(alert("a"), "journald"), new(alert("b"), "journald")),
        checkpoint=point(10),
        seen={"sh<sshd": Seen(2, 50, ((3, 2),))},
        heartbeat=beat,
    )
    assert set(await store.commit(batch)) == {"a", "b"}
    await store.close()
    store = await Store.open(path, counters, clock)
    assert await store.load_checkpoint("audit_log") == point(10)
    assert await store.load_checkpoint("other") is None
    assert await store.load_baseline() == {"sh<sshd": Seen(2, 50, ((3, 2),))}
    assert await store.load_instances("boot") == [beat]
    assert await store.load_instances("another boot") == []
    assert await store.load_instances() == [beat]
    assert await store.find_alert("a") == alert("a")
    assert await store.find_alert("z") is None
    assert [found.id for found in await store.latest_alerts(1)] == ["b"]
    await store.close()


async def test_a_known_alert_is_not_new_and_is_delivered_once(
    store: Store, counters: Counters, clock: Clock, alert: MakeAlert
) -> None:
    outbox = Outbox(store, counters, clock)
    assert set(await store.commit(Batch(alerts=(new(alert("a"), "journald"), new(alert("a"), "journald"))))) == {"a"}
    assert set(await store.commit(Batch(alerts=(new(alert("a", level=Level.LOW), "journald", "hook"),)))) == set()
    assert await store.count_alerts() == 1
    assert len(await outbox.take_due(clock.now_ms(), MANY)) == 1


async def test_the_baseline_adds_up_and_is_bounded(store: Store) -> None:
    await store.commit(Batch(seen={"a": Seen(1, 50, ((7, 1),)), "b": Seen(1, 60)}))
    await store.commit(Batch(seen={"a": Seen(4, 20, ((7, 1), (8, 3)))}))
    assert await store.load_baseline() == {"a": Seen(5, 20, ((7, 2), (8, 3))), "b": Seen(1, 60)}
    await store.commit(Batch(seen={"a": Seen(90, 20, tuple((day, 1) for day in range(10, 100)))}))
    assert (await store.load_baseline())["a"].days == tuple((day, 1) for day in range(70, 100))
    assert len(await store.load_baseline(1)) == 1


async def test_a_heartbeat_moves_on(store: Store) -> None:
    for last_ms in (100, 300, 200):
        await store.commit(Batch(heartbeat=InstanceHeartbeat("boot", 7, 100, last_ms)))
    assert await store.load_instances("boot") == [InstanceHeartbeat("boot", 7, 100, 300)]


async def test_pending_triage_comes_back_oldest_first(store: Store, alert: MakeAlert, verdict: Verdict) -> None:
    names = ["c", "a", "b"]
    await store.commit(Batch(alerts=tuple(new(alert(name), triage=True) for name in names)))
    await store.commit(Batch(alerts=(new(alert("quiet"), triage=False),)))
    assert [found.id for found in await store.pending_triage(10)] == names
    judged = msgspec.structs.replace(alert("c"), verdict=verdict)
    await store.record_verdict(judged, release=True, journald_only=False, verdict_update=False)
    assert [found.id for found in await store.pending_triage(10)] == ["a", "b"]
    assert await store.find_alert("c") == judged


async def test_a_verdict_on_an_unknown_alert_changes_nothing(store: Store, alert: MakeAlert) -> None:
    with pytest.raises(StoreError, match="alert a is not in the database"):
        await store.record_verdict(alert("a"), release=True, journald_only=False, verdict_update=True)


async def test_an_error_in_the_middle_undoes_all_of_it(store: Store, counters: Counters, alert: MakeAlert) -> None:
    await store.commit(Batch(checkpoint=point(1)))
    await store.write(
        lambda connection: connection.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON alerts WHEN NEW.id = 'bad' BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    )
    with pytest.raises(StoreError):
        await store.commit(Batch(alerts=(new(alert("good"), "journald"), new(alert("bad"))), checkpoint=point(2)))
    assert await store.count_alerts() == 0
    assert await store.load_checkpoint("audit_log") == point(1)
    assert counters.get("store_commit_errors_total") == 1
    assert set(await store.commit(Batch(alerts=(new(alert("good")),), checkpoint=point(2)))) == {"good"}


async def test_hostile_text_is_kept(store: Store, alert: MakeAlert) -> None:
    hostile = alert(
        "a",
        lines=("\udc80 \x00 '; DROP TABLE alerts; --",),
        fields={"\udcff": "\ud800", "n": 1 << 80},
        events=(EventId("audit_log", "\udc80", 1 << 70, 1),),
        time_ms=1 << 70,
    )
    batch = Batch(alerts=(new(hostile, "journald"),), seen={"\udc80\x00": Seen(1, 1 << 70)})
    assert set(await store.commit(batch)) == {"a"}
    found = await store.find_alert("a")
    assert found is not None
    assert found.lines == ("\\udc80 \x00 '; DROP TABLE alerts; --",)
    assert found.fields == {"\\udcff": "\\ud800", "n": 1 << 80}
    assert list(await store.load_baseline()) == ["\\udc80\x00"]


async def test_a_document_that_is_none_stops_nobody(
    store: Store, counters: Counters, clock: Clock, alert: MakeAlert
) -> None:
    await store.commit(
        Batch(alerts=(new(alert("a"), "journald", triage=True), new(alert("b"), "journald", triage=True)))
    )
    await store.write(lambda connection: connection.execute("UPDATE alerts SET document = '{' WHERE id = 'a'"))
    assert [found.id for found in await store.pending_triage(10)] == ["b"]
    outbox = Outbox(store, counters, clock)
    assert [found.id for _, found in await outbox.take_due(clock.now_ms(), MANY)] == ["b"]
    assert counters.get("store_unreadable_alerts_total") == 2


async def test_files_are_for_the_owner_only(store: Store, path: Path) -> None:
    await store.commit(Batch(checkpoint=point(1)))
    assert path.parent.stat().st_mode & 0o777 == 0o700
    for file in path.parent.iterdir():
        assert file.stat().st_mode & 0o777 == 0o600, file


async def test_an_existing_file_is_closed_to_others(path: Path, counters: Counters, clock: Clock) -> None:
    path.parent.mkdir()
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))
    store = await Store.open(path, counters, clock)
    assert [file.stat().st_mode & 0o777 for file in path.parent.glob("*.db")] == [0o600]
    await store.close()


async def test_two_daemons_cannot_share_it(store: Store, path: Path, clock: Clock) -> None:
    assert await store.count_alerts() == 0
    with pytest.raises(StoreError, match=f"used by another watchdogd \\(pid {os.getpid()}\\)"):
        await Store.open(path, Counters(), clock)
    await store.close()
    again = await Store.open(path, Counters(), clock)
    await again.close()


async def test_a_reader_beside_the_daemon_sees_what_is_committed(store: Store, path: Path, alert: MakeAlert) -> None:
    await store.commit(Batch(alerts=(new(alert("a")),)))
    reader = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    assert reader.execute("SELECT id FROM alerts").fetchall() == [("a",)]
    reader.close()


async def test_another_process_that_holds_the_lock_is_named(
    monkeypatch: pytest.MonkeyPatch, path: Path, counters: Counters, clock: Clock
) -> None:
    monkeypatch.setattr("watchdogd.store.connection.BUSY_S", 0.05)
    store = await Store.open(path, counters, clock)
    shell = sqlite3.connect(path, isolation_level=None)
    shell.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="is locked by another process"):
        await store.commit(Batch(checkpoint=point(1)))
    shell.execute("ROLLBACK")
    shell.close()
    await store.commit(Batch(checkpoint=point(1)))
    assert await store.load_checkpoint("audit_log") == point(1)
    await store.close()


async def test_what_is_no_database_is_named(tmp_path: Path, clock: Clock) -> None:
    with pytest.raises(StoreError, match="is a directory"):
        await Store.open(tmp_path, Counters(), clock)
    text = tmp_path / "notes.txt"
    text.write_text("these are not the tables that you are looking for\n" * 100)
    with pytest.raises(StoreError, match="is not a database of watchdogd"):
        await Store.open(text, Counters(), clock)
    with pytest.raises(StoreError, match="cannot be made"):
        await Store.open(text / "below" / "x.db", Counters(), clock)
    assert text.read_text().startswith("these are not")


async def test_a_newer_database_is_left_alone(path: Path, counters: Counters, clock: Clock) -> None:
    await (await Store.open(path, counters, clock)).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreError, match="version 99"):
        await Store.open(path, counters, clock)


async def test_a_database_of_the_first_version_gets_room_for_what_came_later(
    path: Path, counters: Counters, clock: Clock
) -> None:
    today = int(time.time() // 86_400)
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path)
    for statement in MIGRATIONS[0]:
        connection.execute(statement)
    connection.execute("INSERT INTO baseline VALUES ('kept', 1, 2, 3)")
    connection.execute("PRAGMA user_version = 1")
    connection.commit()
    connection.close()
    store = await Store.open(path, counters, clock)
    (kept,) = (await store.load_baseline()).values()
    assert (kept.count, kept.first_ms, kept.days) == (1, 2, ())
    assert kept.days_from > today
    assert await store.load_correlations() == []
    await store.close()


async def test_alerts_of_earlier_versions_are_active(path: Path, counters: Counters, clock: Clock) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path)
    for statement in (*MIGRATIONS[0], *MIGRATIONS[1], *MIGRATIONS[2], *MIGRATIONS[3]):
        connection.execute(statement)
    connection.execute(
        "INSERT INTO alerts (id, time_ms, rule_id, level, triage_state, document) VALUES ('old', 1, 'r', 'low', '', '')"
    )
    connection.execute("PRAGMA user_version = 4")
    connection.commit()
    connection.close()
    store = await Store.open(path, counters, clock)
    query = "SELECT state, leader, silence FROM alerts"
    assert await store.read(lambda connection: connection.execute(query).fetchall()) == [("active", None, None)]
    await store.close()


async def test_what_became_of_an_alert_is_kept(store: Store, alert: MakeAlert) -> None:
    folded = alert("b", state=AlertState.FOLDED, leader="a")
    silenced = alert("c", state=AlertState.SILENCED, silence="s")
    await store.commit(Batch(alerts=(new(alert("a")), new(folded), new(silenced))))
    query = "SELECT id, state, leader, silence FROM alerts ORDER BY seq"
    rows = await store.read(lambda connection: connection.execute(query).fetchall())
    assert rows == [("a", "active", None, None), ("b", "folded", "a", None), ("c", "silenced", None, "s")]
    assert await store.find_alert("b") == folded


async def test_correlations_are_kept_with_what_was_judged(path: Path, counters: Counters, clock: Clock) -> None:
    store = await Store.open(path, counters, clock)
    first = CorrelationRow("r", "d", '["ann\\udcff"]', b"\x00\xff", 10)
    other = CorrelationRow("r", "d", '["bob"]', b"2", 1 << 80)
    await store.commit(Batch(checkpoint=point(1), correlations=(first, other)))
    await store.close()
    store = await Store.open(path, counters, clock)
    rows = {row.group_key: row for row in await store.load_correlations()}
    assert rows == {first.group_key: first, other.group_key: replace(other, updated_ms=(1 << 63) - 1)}
    gone = replace(first, state=None)
    await store.commit(Batch(checkpoint=point(2), correlations=(gone, replace(other, state=b"3"))))
    assert [(row.group_key, row.state) for row in await store.load_correlations()] == [(other.group_key, b"3")]
    await store.commit(Batch(correlations=(replace(other, state=None), replace(other, state=b"4"))))
    assert [row.state for row in await store.load_correlations()] == [b"4"]
    await store.close()


async def test_correlations_of_a_refused_commit_are_not_kept(store: Store, alert: MakeAlert) -> None:
    row = CorrelationRow("r", "d", "[]", b"1", 10)
    broken = Batch(alerts=(new(alert("a")),), checkpoint=point(1), correlations=(row, replace(row, rule_id=None)))
    with pytest.raises(StoreError):
        await store.commit(broken)
    assert await store.load_correlations() == []
    assert await store.load_checkpoint("audit_log") is None
    assert await store.count_alerts() == 0


async def test_a_closed_store_says_so(store: Store) -> None:
    await store.close()
    await store.close()
    with pytest.raises(StoreError, match="is closed"):
        await store.count_alerts()


async def test_alerts_are_synced_and_checkpoints_are_not(store: Store, alert: MakeAlert) -> None:
    def level(connection: sqlite3.Connection) -> int:
        found: int = connection.execute("PRAGMA synchronous").fetchone()[0]
        return found

    await store.commit(Batch(alerts=(new(alert("a")),)))
    assert await store.read(level) == 2
    await store.commit(Batch(checkpoint=point(1)))
    assert await store.read(level) == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk takes root")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no mounts here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        while stream.write(bytes(4096)):
            pass


async def test_a_full_disk_is_named_and_mended(small_disk: Path, clock: Clock, alert: MakeAlert) -> None:
    counters = Counters()
    store = await Store.open(small_disk / "watchdogd.db", counters, clock)
    outbox = Outbox(store, counters, clock)
    await store.commit(Batch(alerts=(new(alert("first"), "journald"),), checkpoint=point(1)))
    ballast = small_disk / "ballast"
    fill(ballast)
    big = ("x" * 100_000,)
    for _ in range(2):
        with pytest.raises(StoreError, match="disk full"):
            await store.commit(Batch(alerts=(new(alert("second", lines=big), "journald"),), checkpoint=point(2)))
    assert counters.get("store_commit_errors_total") == 2
    assert await store.load_checkpoint("audit_log") == point(1)

    # What was committed before still leaves the host, once: its mark is owed until there is room.
    ((delivery, found),) = await outbox.take_due(clock.now_ms(), MANY)
    assert found.id == "first"
    await outbox.mark_delivered(delivery)
    assert await outbox.take_due(clock.now_ms(), MANY) == []

    ballast.unlink()
    assert set(await store.commit(Batch(alerts=(new(alert("second", lines=big)),), checkpoint=point(2)))) == {"second"}
    assert await outbox.take_due(clock.now_ms(), MANY) == []
    assert await outbox.next_due_ms(clock.now_ms(), MANY) is None
    await store.close()
    store = await Store.open(small_disk / "watchdogd.db", counters, clock)
    assert await Outbox(store, counters, clock).next_due_ms(clock.now_ms(), MANY) is None
    assert await store.count_alerts() == 2
    await store.close()


def kill_in_the_middle(path: Path, sample: str, wait_s: float) -> None:
    command = [sys.executable, str(Path(__file__).with_name("committer.py")), str(path), sample]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        time.sleep(wait_s)
        child.kill()


@pytest.mark.slow
def test_killed_at_any_moment_alerts_and_checkpoint_agree(path: Path, alert: MakeAlert) -> None:
    seed = random.randrange(1 << 30)
    chance = random.Random(seed)
    sample = msgspec.json.encode(alert("sample", lines=("x" * 500,))).decode()
    done = 0
    for _ in range(20):
        kill_in_the_middle(path, sample, chance.uniform(0, 0.05))
        connection = sqlite3.connect(path)
        ids = {int(row[0]) for row in connection.execute("SELECT id FROM alerts")}
        row = connection.execute("SELECT offset FROM checkpoints").fetchone()
        (deliveries,) = connection.execute("SELECT count(*) FROM deliveries").fetchone()
        (sound,) = connection.execute("PRAGMA integrity_check").fetchone()
        connection.close()
        offset = row[0] if row else 0
        assert ids == set(range(offset)), f"seed {seed}"
        assert deliveries == 2 * offset, f"seed {seed}"
        assert sound == "ok"
        assert offset >= done
        done = offset
    assert done > 0
