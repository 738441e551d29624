"""A database that refuses, for those who are not root: said in words, nothing half done, and all is well afterwards."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest

from watchdogd.entities import Checkpoint
from watchdogd.errors import StoreDamagedError, StoreError
from watchdogd.store.database import Batch, NewAlert, Store
from watchdogd.store.outbox import Outbox
from watchdogd.store.patience import may_pass

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from watchdogd.entities import Alert
    from watchdogd.ports import Clock
    from watchdogd.telemetry import Counters

    MakeAlert = Callable[..., Alert]


def point(offset: int) -> Checkpoint:
    return Checkpoint("audit_log", "/log", "1:2:aa", offset)


async def set_pragma(store: Store, text: str) -> None:
    await store.read(lambda connection: connection.execute(f"PRAGMA {text}").fetchall())


@pytest.mark.parametrize(
    ("refuse", "allow", "words"),
    [
        ("max_page_count = 1", "max_page_count = 1073741823", "disk full: free space"),
        ("query_only = ON", "query_only = OFF", "cannot be written: check its owner, mode and mount"),
    ],
)
async def test_what_is_refused_is_said_and_comes_whole_later(
    store: Store, counters: Counters, alert: MakeAlert, refuse: str, allow: str, words: str
) -> None:
    await store.commit(Batch(checkpoint=point(1)))
    big = alert("a", lines=("x" * 1_000_000,))
    batch = Batch(alerts=(NewAlert(big, ("journald",), 0, triage=False),), checkpoint=point(2))
    await set_pragma(store, refuse)
    for _ in range(3):
        with pytest.raises(StoreError, match=words) as caught:
            await store.commit(batch)
        assert may_pass(caught.value)
        assert not isinstance(caught.value, StoreDamagedError)
    assert counters.get("store_commit_errors_total") == 3
    assert await store.load_checkpoint("audit_log") == point(1)
    assert await store.count_alerts() == 0
    await set_pragma(store, allow)
    assert set(await store.commit(batch)) == {"a"}
    assert await store.load_checkpoint("audit_log") == point(2)


async def test_marks_that_are_refused_again_and_again_are_complained_about_once(
    store: Store, counters: Counters, clock: Clock, alert: MakeAlert, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = Outbox(store, counters, clock)
    for number in range(2):
        one = NewAlert(alert(str(number)), ("journald",), clock.now_ms(), triage=False)
        await store.commit(Batch(alerts=(one,)))
    for complaints in (1, 2):
        ((delivery, _),) = await outbox.take_due(clock.now_ms(), {"journald": 1})
        await set_pragma(store, "query_only = ON")
        await outbox.mark_delivered(delivery)
        for _ in range(5):
            await outbox.take_due(clock.now_ms(), {"journald": 0})
        await set_pragma(store, "query_only = OFF")
        await outbox.take_due(clock.now_ms(), {"journald": 0})
        assert len([one for one in caplog.records if "not marked yet" in one.getMessage()]) == complaints


async def test_a_reader_that_never_ends_is_in_nobody_s_way(
    path: Path, store: Store, clock: Clock, alert: MakeAlert
) -> None:
    """A backup or a forgotten shell: the WAL grows, commits go on."""
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM alerts").fetchone()
    for number in range(20):
        one = NewAlert(alert(str(number)), ("journald",), clock.now_ms(), triage=False)
        assert set(await store.commit(Batch(alerts=(one,)))) == {str(number)}
    assert reader.execute("SELECT count(*) FROM alerts").fetchone() == (0,)
    reader.close()
