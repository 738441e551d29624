"""The database's tables, as a list of migrations: entry n brings version n to n+1."""

from __future__ import annotations

from typing import TYPE_CHECKING

from watchdogd.errors import StoreError

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
        # kind: alert, verdict. state: pending, delivered, dead (given up), routed (by its verdict, to journald only).
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
