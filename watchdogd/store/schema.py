"""The database's tables, as a list of migrations: entry n brings version n to n+1."""

from __future__ import annotations

from typing import TYPE_CHECKING

from watchdogd.errors import StoreError
from watchdogd.store.file_baseline import MAKE_FILES
from watchdogd.store.listing import MAKE_LISTING
from watchdogd.store.norms import MAKE_NORMS
from watchdogd.store.tally import MAKE_TALLIES

if TYPE_CHECKING:
    import sqlite3

MIGRATIONS = (
    (
        # document: the alert as JSON (entities.Alert); the columns beside it are what queries ask for.
        # triage_state: none (nothing to ask), pending, done.
        """CREATE TABLE alerts (
            seq INTEGER PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            time_ms INTEGER NOT NULL,
            rule_id TEXT NOT NULL,
            level TEXT NOT NULL,
            triage_state TEXT NOT NULL,
            document BLOB NOT NULL
        )""",
        "CREATE INDEX alerts_pending ON alerts (seq) WHERE triage_state = 'pending'",
        # kind: alert, verdict. state: pending, delivered, dead (given up), dropped (by the operator), routed (by its
        # verdict, to journald only).
        """CREATE TABLE deliveries (
            id INTEGER PRIMARY KEY,
            alert_id TEXT NOT NULL REFERENCES alerts (id),
            sink TEXT NOT NULL,
            kind TEXT NOT NULL,
            state TEXT NOT NULL DEFAULT 'pending',
            due_ms INTEGER NOT NULL,
            attempts INTEGER NOT NULL DEFAULT 0,
            created_ms INTEGER NOT NULL,
            ended_ms INTEGER,
            last_error TEXT,
            UNIQUE (alert_id, sink, kind)
        )""",
        "CREATE INDEX deliveries_due ON deliveries (due_ms, id) WHERE state = 'pending'",
        """CREATE TABLE checkpoints (
            source TEXT PRIMARY KEY,
            path TEXT NOT NULL,
            file_id TEXT NOT NULL,
            offset INTEGER NOT NULL,
            saved_ms INTEGER NOT NULL
        ) WITHOUT ROWID""",
        """CREATE TABLE baseline (
            pattern TEXT PRIMARY KEY,
            seen INTEGER NOT NULL,
            first_seen_ms INTEGER NOT NULL,
            last_seen_ms INTEGER NOT NULL
        ) WITHOUT ROWID""",
        "CREATE INDEX baseline_recent ON baseline (last_seen_ms)",
        # Former lives of the daemon itself, so that re-read events of its own past processes are recognised.
        """CREATE TABLE instances (
            boot_id TEXT NOT NULL,
            pid INTEGER NOT NULL,
            start_ms INTEGER NOT NULL,
            last_ms INTEGER NOT NULL,
            PRIMARY KEY (boot_id, pid, start_ms)
        ) WITHOUT ROWID""",
    ),
    (
        # state: a group's window as match.correlate writes it, usable for the correlation of that digest only.
        """CREATE TABLE correlations (
            rule_id TEXT NOT NULL,
            digest TEXT NOT NULL,
            group_key TEXT NOT NULL,
            state BLOB NOT NULL,
            updated_ms INTEGER NOT NULL,
            PRIMARY KEY (rule_id, digest, group_key)
        ) WITHOUT ROWID""",
    ),
    (
        # question: alerts that wait for the same verdict. origin: whose session or process tree it came of.
        "ALTER TABLE alerts ADD COLUMN question TEXT NOT NULL DEFAULT ''",
        "UPDATE alerts SET question = id WHERE triage_state = 'pending'",
        "ALTER TABLE alerts ADD COLUMN origin TEXT",
        "CREATE INDEX alerts_question ON alerts (question, seq) WHERE triage_state = 'pending'",
        "CREATE INDEX alerts_origin ON alerts (origin, seq) WHERE origin IS NOT NULL",
        # rank: of the alert's level, 4 is critical. What is due is sent in the order of rank, then time.
        "ALTER TABLE deliveries ADD COLUMN rank INTEGER NOT NULL DEFAULT 0",
        """UPDATE deliveries SET rank = (
            SELECT CASE level
                WHEN 'critical' THEN 4 WHEN 'high' THEN 3 WHEN 'medium' THEN 2 WHEN 'low' THEN 1 ELSE 0 END
            FROM alerts WHERE alerts.id = alert_id) WHERE state = 'pending'""",
        "CREATE INDEX deliveries_worst ON deliveries (rank DESC, due_ms, id) WHERE state = 'pending'",
        # days: [[day since the epoch, seen], ...] of the last 30 days, counted from the day `days_from` on.
        "ALTER TABLE baseline ADD COLUMN days TEXT NOT NULL DEFAULT '[]'",
        "ALTER TABLE baseline ADD COLUMN days_from INTEGER NOT NULL DEFAULT 0",
        "UPDATE baseline SET days_from = CAST(strftime('%s') AS INTEGER) / 86400 + 1",
        # What the operator says of an alert: document is the case that it makes (background.Case as JSON).
        """CREATE TABLE opinions (
            alert_id TEXT PRIMARY KEY REFERENCES alerts (id),
            label TEXT NOT NULL,
            note TEXT NOT NULL,
            given_ms INTEGER NOT NULL,
            document BLOB NOT NULL
        ) WITHOUT ROWID""",
        # What is learnt from opinions, by who learns.
        """CREATE TABLE lessons (
            learner TEXT PRIMARY KEY,
            state BLOB NOT NULL,
            saved_ms INTEGER NOT NULL
        ) WITHOUT ROWID""",
    ),
    (
        # The last exam of a model, of just these bytes and this prompt: document is background.Standing as JSON.
        """CREATE TABLE standings (
            digest TEXT NOT NULL,
            prompt_version TEXT NOT NULL,
            document BLOB NOT NULL,
            examined_ms INTEGER NOT NULL,
            PRIMARY KEY (digest, prompt_version)
        ) WITHOUT ROWID""",
    ),
    (
        # state: active, folded, inhibited, silenced (entities.AlertState). leader: id of the alert that it was folded
        # into or is inhibited by. silence: id of the silence. Only active alerts have deliveries.
        "ALTER TABLE alerts ADD COLUMN state TEXT NOT NULL DEFAULT 'active'",
        "ALTER TABLE alerts ADD COLUMN leader TEXT",
        "ALTER TABLE alerts ADD COLUMN silence TEXT",
        "CREATE INDEX alerts_state ON alerts (state, seq) WHERE state <> 'active'",
        "CREATE INDEX alerts_leader ON alerts (leader, seq) WHERE leader IS NOT NULL",
        # matchers: JSON list (silences.Matcher). A silence holds from starts_ms until until_ms, or until it was ended.
        """CREATE TABLE silences (
            id TEXT PRIMARY KEY,
            matchers TEXT NOT NULL,
            created_ms INTEGER NOT NULL,
            starts_ms INTEGER NOT NULL,
            until_ms INTEGER NOT NULL,
            reason TEXT NOT NULL,
            author TEXT NOT NULL,
            ended_ms INTEGER
        ) WITHOUT ROWID""",
    ),
    MAKE_LISTING,
    (
        # queue: level and group of the alert. What is due is sent worst first; of a queue in the order of ids.
        # next_try_ms: 0, or not before then, as a sink did not take it.
        "ALTER TABLE deliveries ADD COLUMN queue TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE deliveries ADD COLUMN next_try_ms INTEGER NOT NULL DEFAULT 0",
        "UPDATE deliveries SET queue = alert_id",
        "UPDATE deliveries SET next_try_ms = due_ms WHERE state = 'pending' AND attempts > 0",
        "DROP INDEX deliveries_due",
        "DROP INDEX deliveries_worst",
        "CREATE INDEX deliveries_next ON deliveries (sink, rank DESC, due_ms, id) WHERE state = 'pending'",
        "CREATE INDEX deliveries_queue ON deliveries (sink, queue, id) WHERE state = 'pending'",
        "CREATE INDEX deliveries_retry ON deliveries (sink, next_try_ms) WHERE state = 'pending' AND next_try_ms <> 0",
        "CREATE INDEX deliveries_dead ON deliveries (sink, id) WHERE state = 'dead'",
        "CREATE INDEX deliveries_dropped ON deliveries (sink, id) WHERE state = 'dropped'",
        # Sinks that fail or have failed. gave_up_ms: since then deliveries are given up, told_ms: an alert said so.
        """CREATE TABLE troubles (
            sink TEXT PRIMARY KEY,
            paused_until_ms INTEGER NOT NULL DEFAULT 0,
            down_since_ms INTEGER,
            gave_up_ms INTEGER,
            given_up INTEGER NOT NULL DEFAULT 0,
            told_ms INTEGER,
            error TEXT NOT NULL DEFAULT ''
        ) WITHOUT ROWID""",
    ),
    (
        # Who leads each group of repeats since when (ms): grouping.Group. sinks: JSON list of who has the leader.
        # lowered: the leader's verdict kept it in the journal.
        """CREATE TABLE groups (
            key TEXT PRIMARY KEY,
            leader TEXT NOT NULL,
            rank INTEGER NOT NULL,
            start_ms INTEGER NOT NULL,
            until_ms INTEGER NOT NULL,
            question TEXT NOT NULL,
            sinks TEXT NOT NULL,
            lowered INTEGER NOT NULL DEFAULT 0
        ) WITHOUT ROWID""",
        "CREATE INDEX groups_leader ON groups (leader)",
        "CREATE INDEX groups_until ON groups (until_ms)",
        # Alerts that inhibit what looks this key up: grouping.Inhibitor.
        """CREATE TABLE inhibitors (
            key TEXT NOT NULL,
            alert_id TEXT NOT NULL,
            rank INTEGER NOT NULL,
            from_ms INTEGER NOT NULL,
            until_ms INTEGER NOT NULL,
            PRIMARY KEY (key, alert_id)
        ) WITHOUT ROWID""",
        "CREATE INDEX inhibitors_alert ON inhibitors (alert_id)",
        "CREATE INDEX inhibitors_until ON inhibitors (until_ms)",
        # number: of updates, the how many-th it is. hold_ms: how long after created_ms it waits for repeats at least.
        "ALTER TABLE deliveries ADD COLUMN number INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE deliveries ADD COLUMN hold_ms INTEGER NOT NULL DEFAULT 0",
    ),
    MAKE_TALLIES,
    MAKE_FILES,
    (
        # What watchdogd was blind to, and told (health.HealthState as JSON): one row.
        "CREATE TABLE health (id INTEGER PRIMARY KEY CHECK (id = 1), state BLOB NOT NULL, saved_ms INTEGER NOT NULL)",
    ),
    MAKE_NORMS,
)


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the tables to the newest version, each step in a transaction of its own.

    Raises StoreError where the database was written by a newer watchdogd, sqlite3.Error where it refuses.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise StoreError(
            f"the database has version {version}, this watchdogd knows {len(MIGRATIONS)}: "
            "install the newer watchdogd again, or move the database away"
        )
    for number in range(version, len(MIGRATIONS)):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in MIGRATIONS[number]:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number + 1}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
