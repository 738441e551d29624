"""The history of alerts, read beside the pipeline: a connection of its own, so that no commit waits for a search."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import quote

import msgspec

from watchdogd.entities import AlertState
from watchdogd.errors import StoreError
from watchdogd.listings import (
    AlertReport,
    AlertsReport,
    AlertsRequest,
    DeliveryReport,
    HistoryReport,
    ListedAlert,
    OpinionGiven,
)
from watchdogd.store.connection import BUSY_S, explain
from watchdogd.store.documents import decode_alert
from watchdogd.store.search import find_one, find_way

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from watchdogd.entities import Alert
    from watchdogd.ports import Clock
    from watchdogd.telemetry import Counters

T = TypeVar("T")

PAGE_S = 0.4
"""After so long a page ends where the search is; the next one goes on from there."""
SEARCH_S = 8.0
"""What takes longer is given up: whoever asks waits no longer than that."""
TRIED = 5_000
"""Alerts that a new silence is tried on, at most."""
REPEATS = 20
DELIVERIES = 200

_STEPS = 100_000
"""Of SQLite's machine, between two looks at the time."""
_LISTED = "alerts.state, alerts.leader, alerts.silence, alerts.document"
_log = logging.getLogger("watchdogd.store")


class Trial(NamedTuple):
    """What a silence would have muted."""

    titles: list[str]
    """Of the rule of each alert that it covers."""
    looked_at: int
    complete: bool
    """Whether there were no more to look at."""


class History:
    """Over the file of the store, which must be open. Searches run one at a time; all raise StoreError."""

    def __init__(
        self, path: Path, counters: Counters, clock: Clock, *, keep_ms: int | None, max_bytes: int | None
    ) -> None:
        """`keep_ms` and `max_bytes` as for `Retention`, to be told."""
        self._path = path
        self._counters = counters
        self._clock = clock
        self._keep_ms = keep_ms
        self._max_bytes = max_bytes
        self._lock = asyncio.Lock()

    async def search(self, wanted: AlertsRequest) -> AlertsReport:
        """A page of the alerts that are wanted, the newest first. Raises StoreError for an unknown id or rule, too."""
        return await self._look(self._search, wanted)

    async def show(self, alert_id: str) -> AlertReport:
        """Everything about one alert, by its id or how it begins. Raises StoreError where none or several begin so."""
        return await self._look(self._show, alert_id)

    async def summarize(self) -> HistoryReport:
        """How many alerts there are, how much room they take, what was pruned."""
        return await self._look(self._summarize)

    async def list_rules(self) -> dict[str, str]:
        """Titles by id of all rules that alerts were ever of."""
        query = "SELECT rule_id, title FROM rule_titles"
        return await self._look(lambda connection: dict(connection.execute(query).fetchall()))

    async def try_out(self, covers: Callable[[Alert], bool], since_ms: int) -> Trial:
        """Which of the alerts since then `covers` holds for, of the newest `TRIED`."""
        return await self._look(self._try_out, covers, since_ms)

    async def _look(self, work: Callable[..., T], *arguments: object) -> T:
        async with self._lock:
            return await asyncio.to_thread(self._look_now, work, *arguments)

    def _look_now(self, work: Callable[..., T], *arguments: object) -> T:
        try:
            with contextlib.closing(self._connect()) as connection:
                return work(connection, *arguments)
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_INTERRUPT:
                raise StoreError(f"the search was given up after {SEARCH_S:g} s: ask for less at once") from error
            self._counters.add("store_read_errors_total")
            raise StoreError(explain(self._path, error)) from error

    def _connect(self) -> sqlite3.Connection:
        uri = f"file:{quote(str(self._path))}?mode=ro"
        connection = sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None)
        end_s = self._clock.monotonic_s() + SEARCH_S
        connection.set_progress_handler(lambda: self._clock.monotonic_s() > end_s, _STEPS)
        connection.execute("BEGIN")  # one look: what it reads is of one moment
        return connection

    def _search(self, connection: sqlite3.Connection, wanted: AlertsRequest) -> AlertsReport:
        end_s = self._clock.monotonic_s() + PAGE_S
        way = find_way(connection, wanted)
        found, place = way.walk(connection, way.start, wanted.limit + 1)
        while place is not None and len(found) <= wanted.limit and self._clock.monotonic_s() < end_s:
            more, place = way.walk(connection, place, wanted.limit + 1 - len(found))
            found += more
        if len(found) > wanted.limit:
            found = found[: wanted.limit]
            place = found[-1]
        rows = connection.execute(
            f"SELECT {_LISTED} FROM json_each(?) JOIN alerts ON alerts.seq = value "  # noqa: S608 - a constant
            "ORDER BY time_ms DESC, seq DESC",
            (msgspec.json.encode([one.seq for one in found]).decode(),),
        )
        return AlertsReport(tuple(self._list(rows)), place)

    def _show(self, connection: sqlite3.Connection, text: str) -> AlertReport:
        found = find_one(connection, text)
        query = f"SELECT {_LISTED} FROM alerts WHERE seq = ?"  # noqa: S608 - a constant
        listed = list(self._list(connection.execute(query, (found.seq,))))
        if not listed:
            raise StoreError(f"alert {found.alert_id} cannot be read from the database: see the journal")
        repeats = connection.execute(
            f"SELECT {_LISTED} FROM alerts WHERE leader = ? ORDER BY seq DESC LIMIT ?",  # noqa: S608 - a constant
            (found.alert_id, REPEATS + 1),
        ).fetchall()
        deliveries = connection.execute(
            "SELECT sink, kind, state, attempts, created_ms, max(due_ms, next_try_ms), ended_ms, last_error "
            "FROM deliveries WHERE alert_id = ? ORDER BY id LIMIT ?",
            (found.alert_id, DELIVERIES),
        )
        opinion = connection.execute(
            "SELECT label, note, given_ms FROM opinions WHERE alert_id = ?", (found.alert_id,)
        ).fetchone()
        return AlertReport(
            listed[0],
            tuple(DeliveryReport(*row) for row in deliveries),
            tuple(self._list(repeats[:REPEATS])),
            len(repeats) > REPEATS,
            None if opinion is None else OpinionGiven(*opinion),
        )

    def _list(self, rows: Iterable[tuple[Any, ...]]) -> Iterator[ListedAlert]:
        for state, leader, silence, document in rows:
            try:
                decode_alert(document)
            except msgspec.DecodeError as error:
                self._counters.add("store_unreadable_alerts_total")
                _log.warning("an alert cannot be read from the database: %s", error)
                continue
            yield ListedAlert(AlertState(state), msgspec.Raw(document), leader, silence)

    def _try_out(self, connection: sqlite3.Connection, covers: Callable[[Alert], bool], since_ms: int) -> Trial:
        query = (
            "SELECT document FROM listing JOIN alerts USING (seq) WHERE listing.time_ms >= ? "
            "ORDER BY listing.time_ms DESC, seq DESC LIMIT ?"
        )
        titles: list[str] = []
        looked_at = 0
        for (document,) in connection.execute(query, (since_ms, TRIED + 1)):
            looked_at += 1
            if looked_at > TRIED:
                return Trial(titles, TRIED, complete=False)
            with contextlib.suppress(msgspec.DecodeError):
                alert = decode_alert(document)
                if covers(alert):
                    titles.append(alert.rule.title)
        return Trial(titles, looked_at, complete=True)

    def _summarize(self, connection: sqlite3.Connection) -> HistoryReport:
        tallies = dict(connection.execute("SELECT name, count FROM tallies").fetchall())
        (oldest_ms,) = connection.execute("SELECT min(time_ms) FROM listing").fetchone()
        page_bytes, pages, free = measure_pages(connection)
        return HistoryReport(
            states={name.removeprefix("state."): count for name, count in tallies.items() if name.startswith("state.")},
            oldest_ms=oldest_ms,
            used_bytes=page_bytes * (pages - free),
            file_bytes=page_bytes * pages,
            keep_ms=self._keep_ms,
            max_bytes=self._max_bytes,
            pruned_age=tallies.get("pruned.age", 0),
            pruned_size=tallies.get("pruned.size", 0),
        )


def measure_pages(connection: sqlite3.Connection) -> tuple[int, int, int]:
    """Bytes of a page, pages of the file, and how many of them are free."""
    names = ("page_size", "page_count", "freelist_count")
    page_bytes, pages, free = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
    return page_bytes, pages, free
