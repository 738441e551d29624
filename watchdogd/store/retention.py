"""Old alerts make room: what is older than `keep`, and the oldest where the database exceeds `max_size`.

Small transactions with pauses between them, on the store's thread: a commit of the pipeline waits for one of them.
"""

from __future__ import annotations

import asyncio
import logging
import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from watchdogd.entities import DAY_MS
from watchdogd.errors import StoreError
from watchdogd.store.columns import as_json
from watchdogd.store.history import measure_pages

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from watchdogd.ports import Clock
    from watchdogd.store.database import Store
    from watchdogd.telemetry import Counters

EVERY_S = 10.0
STEP_S = 0.02
"""After so long a transaction ends: deleting takes a millisecond an alert where the file is not in memory."""
STEP_ALERTS = 200
"""Looked at in one transaction, at most."""
AT_ONCE = 5
"""Deleted between two looks at the time."""
PAGES_AT_ONCE = 10
"""Given back to the file system between two looks at the time: each page may have to be moved."""
GIVE_BACK_S = 10.0
"""After so long it is looked again for what is to be deleted."""
SPARE_PAGES = 2_000
"""Free pages that stay in the file, for what comes next."""
SET_FORWARD_MS = 3_600_000
"""A clock that is set forward by more than this while the daemon runs is not believed at once..."""
BELIEVED_AFTER_S = 3_600.0
"""... but if it still says so after this: a mistake in setting it must not cost the history."""
SHARE = 4
"""Pruning takes one part in so many of the time of the store's thread."""
LEAST_PAUSE_S, LONGEST_PAUSE_S = 0.005, 0.25

# What is still to be told, asked about or learnt from stays, and an alert as long as others are folded into it.
_DELETABLE = """
    triage_state <> 'pending'
    AND NOT EXISTS (SELECT 1 FROM deliveries WHERE alert_id = alerts.id AND state = 'pending')
    AND NOT EXISTS (SELECT 1 FROM opinions WHERE alert_id = alerts.id)
    AND NOT EXISTS (SELECT 1 FROM alerts AS part WHERE part.leader = alerts.id)
"""
_log = logging.getLogger("watchdogd.store")


class Place(NamedTuple):
    """How far a pass has come: alerts are looked at in the order of time."""

    time_ms: int
    seq: int


class Step(NamedTuple):
    """What one transaction did. `place` is None where there was nothing left to look at."""

    place: Place | None
    pruned: int


_START = Place(-(1 << 63), -1)


class Retention:
    """One per daemon; `run` is a task. Alerts that wait for a sink or a verdict, or that the operator judged, stay."""

    def __init__(
        self, store: Store, counters: Counters, clock: Clock, *, keep_ms: int | None, max_bytes: int | None
    ) -> None:
        """`keep_ms` counts from an alert's own time. None: no such limit."""
        self._store = store
        self._counters = counters
        self._clock = clock
        self._keep_ms = keep_ms
        self._max_bytes = max_bytes
        self._early = 0
        self._youngest_ms = 0
        self._warned_s: float | None = None
        self._offset_ms = self._measure_offset_ms()
        self._believed_s = -math.inf
        for name in ("store_pruned_alerts_total", "store_pruned_early_total"):
            counters.add(name, 0)

    async def run(self) -> None:
        """Prune whenever there is something to prune, for ever."""
        while True:
            try:
                await self.prune()
            except StoreError as error:
                _log.warning("old alerts stay for now: %s", error)
            await asyncio.sleep(EVERY_S)

    async def prune(self) -> int:
        """Prune what is due now, the oldest first; how many alerts that were. Raises StoreError."""
        pruned = await self._prune_old()
        pruned += await self._prune_beyond_size()
        await self._give_back()
        self._warn()
        return pruned

    async def _prune_old(self) -> int:
        if self._keep_ms is None or not self._believes_clock():
            return 0
        until_ms, place, pruned = self._clock.now_ms() - self._keep_ms, _START, 0
        while True:
            step = await self._step(place, until_ms, "pruned.age", "store_pruned_alerts_total")
            pruned += step.pruned
            if step.place is None:
                return pruned
            place = step.place

    def _believes_clock(self) -> bool:
        offset_ms, now_s = self._measure_offset_ms(), self._clock.monotonic_s()
        step_ms, self._offset_ms = offset_ms - self._offset_ms, offset_ms
        if step_ms > SET_FORWARD_MS:
            self._believed_s = now_s + BELIEVED_AFTER_S
            _log.warning(
                "the clock was set forward by %d s: no alert is deleted for its age in the next %.0f min",
                step_ms // 1000,
                BELIEVED_AFTER_S / 60,
            )
        elif step_ms < -SET_FORWARD_MS:
            self._believed_s = -math.inf
        return now_s >= self._believed_s

    def _measure_offset_ms(self) -> int:
        return self._clock.now_ms() - round(self._clock.monotonic_s() * 1000)

    async def _prune_beyond_size(self) -> int:
        place, pruned = _START, 0
        while self._max_bytes is not None and await self._store.read(find_used_bytes) > self._max_bytes:
            step = await self._step(place, None, "pruned.size", "store_pruned_early_total")
            pruned += step.pruned
            if step.place is None:
                break
            place = step.place
        if pruned:
            self._early += pruned
            self._youngest_ms = max(self._youngest_ms, place.time_ms)
        return pruned

    async def _step(self, place: Place, until_ms: int | None, tally: str, counter: str) -> Step:
        began_s = self._clock.monotonic_s()
        step = await self._store.write(prune_step, place, until_ms, tally, self._clock.monotonic_s)
        self._counters.add(counter, step.pruned)  # before anything else is awaited: the ledger compares
        await self._pause(began_s)
        return step

    async def _give_back(self) -> None:
        """Free pages go back to the file system, where the file was made for that; as many as there is time for."""
        end_s = self._clock.monotonic_s() + GIVE_BACK_S
        more = await self._store.read(has_pages_to_give_back)
        while more and self._clock.monotonic_s() < end_s:
            began_s = self._clock.monotonic_s()
            more = await self._store.write(give_back_step, self._clock.monotonic_s)
            await self._pause(began_s)

    async def _pause(self, began_s: float) -> None:
        """Leave the store's thread to others for a multiple of what was taken of it since `began_s`."""
        took_s = self._clock.monotonic_s() - began_s
        await asyncio.sleep(min(max(LEAST_PAUSE_S, took_s * (SHARE - 1)), LONGEST_PAUSE_S))

    def _warn(self) -> None:
        """Once a day: history is shorter than it was to be."""
        now_s = self._clock.monotonic_s()
        if not self._early or (self._warned_s is not None and now_s - self._warned_s < DAY_MS / 1000):
            return
        _log.warning(
            "%d alerts had no room in the database (store.max_size) and were pruned before their time (store.keep), "
            "the youngest of %s",
            self._early,
            _show_time(self._youngest_ms),
        )
        self._warned_s, self._early = now_s, 0


def prune_step(
    connection: sqlite3.Connection, place: Place, until_ms: int | None, tally: str, now_s: Callable[[], float]
) -> Step:
    """Look at the next alerts behind `place`, of before `until_ms`, and delete those that nothing needs any more."""
    end_s = now_s() + STEP_S
    query = (
        "SELECT time_ms, seq FROM listing WHERE (time_ms, seq) > (?, ?) AND (?3 IS NULL OR time_ms < ?3) "
        "ORDER BY time_ms, seq LIMIT ?4"
    )
    rows = [Place(*row) for row in connection.execute(query, (*place, until_ms, STEP_ALERTS))]
    last, pruned = None, 0
    for first in range(0, len(rows), AT_ONCE):
        some = rows[first : first + AT_ONCE]
        last, left = some[-1], [row.seq for row in some]
        for _ in range(2):  # an alert may go only after those that were folded into it
            deleted = _delete(connection, left)
            left = [seq for seq in left if seq not in deleted]
            pruned += len(deleted)
        if now_s() >= end_s:
            break
    if pruned:
        connection.execute(
            "INSERT INTO tallies (name, count) VALUES (?, ?) ON CONFLICT DO UPDATE SET count = count + excluded.count",
            (tally, pruned),
        )
    return Step(last, pruned)


def _delete(connection: sqlite3.Connection, seqs: list[int]) -> frozenset[int]:
    """Delete those of these alerts that nothing needs, with their deliveries."""
    query = f"SELECT seq FROM alerts WHERE seq IN (SELECT value FROM json_each(?)) AND {_DELETABLE}"  # noqa: S608
    found = frozenset([seq for (seq,) in connection.execute(query, (as_json(frozenset(seqs)),))])
    if found:
        connection.execute(
            "DELETE FROM deliveries WHERE alert_id IN "
            "(SELECT id FROM alerts WHERE seq IN (SELECT value FROM json_each(?)))",
            (as_json(found),),
        )
        connection.execute("DELETE FROM alerts WHERE seq IN (SELECT value FROM json_each(?))", (as_json(found),))
    return found


def has_pages_to_give_back(connection: sqlite3.Connection) -> bool:
    """Whether more pages are free than are to be kept, in a file that can shrink."""
    (mode,) = connection.execute("PRAGMA auto_vacuum").fetchone()
    _, _, free = measure_pages(connection)
    return bool(mode) and free > SPARE_PAGES


def give_back_step(connection: sqlite3.Connection, now_s: Callable[[], float]) -> bool:
    """Cut free pages off the file; whether there are more."""
    end_s = now_s() + STEP_S
    while has_pages_to_give_back(connection):
        connection.execute(f"PRAGMA incremental_vacuum({PAGES_AT_ONCE})").fetchall()
        if now_s() >= end_s:
            return has_pages_to_give_back(connection)
    return False


def find_used_bytes(connection: sqlite3.Connection) -> int:
    """What the database takes without its free pages."""
    page_bytes, pages, free = measure_pages(connection)
    return page_bytes * (pages - free)


def _show_time(time_ms: int) -> str:
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%MZ")
    except (OverflowError, ValueError, OSError):  # a time that no calendar has
        return f"{time_ms} ms"
