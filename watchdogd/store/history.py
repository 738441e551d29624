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
    PAGE,
    AlertReport,
    AlertsReport,
    AlertsRequest,
    DeliveryReport,
    HistoryReport,
    ListedAlert,
    OpinionGiven,
)
from watchdogd.store.connection import BUSY_S, explain
from watchdogd.store.documents import decode_alert, escape_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from watchdogd.ports import Clock
    from watchdogd.telemetry import Counters

T = TypeVar("T")

SEARCH_S = 8.0
"""A search that takes longer is given up: whoever asks waits no longer than that."""
LEAST_PREFIX = 4
REPEATS = 20
DELIVERIES = 200

_STEPS = 100_000
"""Of SQLite's machine, between two looks at the time."""
_LISTED = "alerts.seq, alerts.state, alerts.leader, alerts.silence, alerts.document"
_log = logging.getLogger("watchdogd.store")


class Found(NamedTuple):
    """What an id, or the beginning of one, stands for."""

    seq: int
    alert_id: str


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
        """A page of the alerts that are wanted, the newest first. Raises StoreError, too, for an unknown id or rule."""
        return await self._look(self._search, wanted)

    async def show(self, alert_id: str) -> AlertReport:
        """Everything about one alert, by its id or how it begins. Raises StoreError where none or several begin so."""
        return await self._look(self._show, alert_id)

    async def summarize(self) -> HistoryReport:
        """How many alerts there are, how much room they take, what was pruned."""
        return await self._look(self._summarize)

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
        conditions, arguments = _choose(connection, wanted)
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        query = f"SELECT seq FROM listing {where} ORDER BY seq DESC LIMIT ?"  # noqa: S608 - constants of this module
        found = [seq for (seq,) in connection.execute(query, (*arguments, wanted.limit + 1))]
        page = found[: wanted.limit]
        rows = connection.execute(
            f"SELECT {_LISTED} FROM json_each(?) JOIN alerts ON alerts.seq = value ORDER BY alerts.seq DESC",  # noqa: S608
            (msgspec.json.encode(page).decode(),),
        )
        return AlertsReport(tuple(self._list(rows)), page[-1] if len(found) > len(page) else None)

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
            "SELECT sink, kind, state, attempts, created_ms, due_ms, ended_ms, last_error FROM deliveries "
            "WHERE alert_id = ? ORDER BY id LIMIT ?",
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
        for seq, state, leader, silence, document in rows:
            try:
                decode_alert(document)
            except msgspec.DecodeError as error:
                self._counters.add("store_unreadable_alerts_total")
                _log.warning("an alert cannot be read from the database: %s", error)
                continue
            yield ListedAlert(seq, AlertState(state), msgspec.Raw(document), leader, silence)

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


def find_prefix(connection: sqlite3.Connection, prefix: str, limit: int) -> list[Found]:
    """Alerts whose id begins so, newest first."""
    text = escape_text(prefix)
    query = "SELECT seq, id FROM alerts WHERE id >= ? AND id < ? ORDER BY seq DESC LIMIT ?"
    return [Found(*row) for row in connection.execute(query, (text, f"{text}\U0010ffff", limit))]


def find_one(connection: sqlite3.Connection, text: str) -> Found:
    """The alert whose id this is, or begins so. Raises StoreError with what to do where that is none or several."""
    prefix = text.strip().lower()
    if len(prefix) < LEAST_PREFIX:
        raise StoreError(f"an alert is named by its id, or by at least the first {LEAST_PREFIX} characters of it")
    found = find_prefix(connection, prefix, PAGE)
    exact = [one for one in found if one.alert_id == prefix]
    if len(found) == 1 or exact:
        return (exact or found)[0]
    shown = escape_text(prefix)[:80]
    if not found:
        raise StoreError(f"no alert has an id that begins with {shown}: `watchdogd alerts list` shows them")
    named = ", ".join(one.alert_id[:16] for one in found[:5])
    raise StoreError(f"{len(found)} alerts have an id that begins with {shown}: {named}{'...' if found[5:] else ''}")


def _choose(connection: sqlite3.Connection, wanted: AlertsRequest) -> tuple[list[str], list[object]]:
    """Conditions on `listing`, and their arguments."""
    chosen: list[tuple[str, tuple[object, ...]]] = []
    if wanted.state is not None:
        chosen.append(("state = ?", (wanted.state.value,)))
    if wanted.rule is not None:
        chosen.append(("rule_id IN (SELECT value FROM json_each(?))", (_find_rules(connection, wanted.rule),)))
    if wanted.level is not None:
        chosen.append(("level = ?", (wanted.level.value,)))
    if wanted.verdict is not None:
        chosen.append(("verdict = ?", (wanted.verdict.value,)))
    if wanted.user is not None:
        user = escape_text(wanted.user)
        chosen.append(("(user = ? OR login = ?)", (user, user)))
    if wanted.since_ms is not None:
        chosen.append(("time_ms >= ?", (wanted.since_ms,)))
    if wanted.until_ms is not None:
        chosen.append(("time_ms < ?", (wanted.until_ms,)))
    before = [] if wanted.before is None else [wanted.before]
    if wanted.before_id is not None:
        before.append(find_one(connection, wanted.before_id).seq)
    if before:
        chosen.append(("seq < ?", (min(before),)))
    return [condition for condition, _ in chosen], [argument for _, given in chosen for argument in given]


def _find_rules(connection: sqlite3.Connection, text: str) -> str:
    """Ids of rules by id or title, whatever its case, as a JSON list."""
    known = connection.execute("SELECT rule_id, title FROM rule_titles").fetchall()
    wanted = escape_text(text).casefold()
    found = [rule_id for rule_id, title in known if wanted in (rule_id.casefold(), title.casefold())]
    if not found:
        raise StoreError(
            f"no alert in the database is of a rule with the id or title {escape_text(text)[:100]!r}: "
            "`watchdogd rules list` shows all rules"
        )
    return msgspec.json.encode(found).decode()
