"""The file of the open database goes away: what is open is written back; where that fails, it is tried again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from watchdogd.entities import Checkpoint
from watchdogd.errors import StoreError
from watchdogd.store.anchor import AGAIN_AFTER_S
from watchdogd.store.damage import list_aside
from watchdogd.store.database import Batch, NewAlert, Store
from watchdogd.store.outbox import Outbox
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.store.conftest import HandClock
    from watchdogd.entities import Alert

    MakeAlert = Callable[..., Alert]


def point(offset: int) -> Checkpoint:
    return Checkpoint("audit_log", "/log", "1:2:aa", offset)


def remove(path: Path) -> None:
    for part in ("", "-wal", "-shm", ".lock"):
        Path(f"{path}{part}").unlink()


async def test_what_is_being_sent_keeps_its_place(
    path: Path, store: Store, counters: Counters, clock: HandClock, alert: MakeAlert
) -> None:
    outbox = Outbox(store, counters, clock)
    alerts = tuple(NewAlert(alert(name), ("journald",), 0, triage=False) for name in ("a", "b"))
    await store.commit(Batch(alerts=alerts, checkpoint=point(1)))
    ((delivery, _),) = await outbox.take_due(clock.now_ms(), {"journald": 1})
    remove(path)
    clock.ms += 2_000
    await outbox.mark_delivered(delivery)
    assert (await store.written_back.get()).file is None
    assert [found.id for _, found in await outbox.take_due(clock.now_ms(), {"journald": 10})] == ["b"]
    assert counters.get("store_written_back_total") == 1
    await store.close()
    again = await Store.open(path, Counters(), clock)
    assert again.found is None
    assert await again.count_alerts() == 2
    assert await again.load_checkpoint("audit_log") == point(1)
    await again.close()


async def test_a_text_in_its_place_is_set_aside(path: Path, store: Store, clock: HandClock, alert: MakeAlert) -> None:
    await store.commit(Batch(alerts=(NewAlert(alert("a"), (), 0, triage=False),)))
    other = path.with_name("other")
    write(other, "notes\n" * 1000)
    os.replace(other, path)  # noqa: PTH105 - one call, and it says what it does
    clock.ms += 2_000
    await store.commit(Batch(checkpoint=point(2)))
    assert read(list_aside(path)[0]).startswith("notes")
    assert await store.count_alerts() == 1
    assert read(path, 15) == "SQLite format 3"


def write(path: Path, text: str) -> None:
    path.write_text(text)


def read(path: Path, length: int | None = None) -> str:
    return path.read_bytes()[:length].decode()


@pytest.mark.parametrize("stranger", [False, True])
async def test_a_run_that_ended_while_it_wrote_back_has_lost_nothing(
    path: Path, counters: Counters, clock: HandClock, alert: MakeAlert, *, stranger: bool
) -> None:
    store = await Store.open(path, counters, clock)
    await store.commit(Batch(alerts=(NewAlert(alert("a"), (), 0, triage=False),), checkpoint=point(3)))
    await store.close()
    os.rename(path, f"{path}.whole")  # noqa: PTH104 - one call, and it says what it does
    if stranger:
        write(path, "notes\n" * 1000)
    again = await Store.open(path, counters, clock)
    assert again.found is None
    assert await again.load_checkpoint("audit_log") == point(3)
    assert await again.count_alerts() == 1
    assert len(list_aside(path)) == stranger
    await again.close()


async def test_a_failure_is_tried_again_later(
    path: Path, store: Store, counters: Counters, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.commit(Batch(checkpoint=point(1)))
    remove(path)

    def refuse(_: Path) -> int:
        raise StoreError("no room")

    with monkeypatch.context() as patched:
        patched.setattr("watchdogd.store.anchor.lock_database", refuse)
        clock.ms += 2_000
        await store.commit(Batch(checkpoint=point(2)))
        assert counters.gauges()["store_detached"] == 1
    clock.ms += 2_000
    await store.commit(Batch(checkpoint=point(3)))
    assert counters.gauges()["store_detached"] == 1
    clock.ms += round(AGAIN_AFTER_S * 1000)
    await store.commit(Batch(checkpoint=point(4)))
    assert counters.gauges()["store_detached"] == 0
    await store.close()
    again = await Store.open(path, Counters(), clock)
    assert await again.load_checkpoint("audit_log") == point(4)
    await again.close()
