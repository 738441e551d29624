"""The tables that history is listed by: a narrow row for each alert, and counts.

Triggers keep them, within the transaction of whoever writes: no writer can forget to.
"""

# ruff: noqa: S608 -- SQL made of constants of this module

from __future__ import annotations

UNFOLDED = "state <> 'folded'"
"""As queries must say it, too, to use the indices."""


def _read(row: str, path: str) -> str:
    """Part of an alert's document; NULL where it cannot be read."""
    text = f"CAST({row}.document AS TEXT)"
    return f"json_extract(CASE WHEN json_valid({text}) THEN {text} ELSE '{{}}' END, '{path}')"


def _find_verdict(row: str) -> str:
    return f"coalesce({_read(row, '$.verdict.label')}, 'untriaged')"


def _list_row(row: str) -> str:
    user = f"coalesce({_read(row, '$.process.user')}, {_read(row, '$.process.uid')})"
    login = f"coalesce({_read(row, '$.process.login')}, {_read(row, '$.process.auid')})"
    columns = ", ".join(f"{row}.{name}" for name in ("seq", "time_ms", "state", "level"))
    return f"{columns}, {_find_verdict(row)}, {row}.rule_id, {user}, {login}"


def _list_users(seq: str) -> str:
    rows = f"listing WHERE seq = {seq}"
    return f"""INSERT OR IGNORE INTO listing_users SELECT name, time_ms, seq
        FROM (SELECT user AS name, time_ms, seq FROM {rows} UNION SELECT login, time_ms, seq FROM {rows})
        WHERE name IS NOT NULL"""


def _count_up(name: str) -> str:
    return f"INSERT INTO tallies (name, count) VALUES ({name}, 1) ON CONFLICT DO UPDATE SET count = count + 1"


def _count_down(name: str) -> str:
    return f"UPDATE tallies SET count = count - 1 WHERE name = {name}"


MAKE_LISTING = (
    # One narrow row an alert. user, login: the name, else the number. Each index is in the order of time, so that a
    # search for one value reads no more than it shows, wherever in a file of gigabytes that is. Repeats are in none but
    # the first: in a storm nearly all are, and each index would cost a quarter of what the alert does.
    """CREATE TABLE listing (
        seq INTEGER PRIMARY KEY,
        time_ms INTEGER NOT NULL,
        state TEXT NOT NULL,
        level TEXT NOT NULL,
        verdict TEXT NOT NULL,
        rule_id TEXT NOT NULL,
        user TEXT,
        login TEXT
    )""",
    # What rules were called when they last spoke up.
    "CREATE TABLE rule_titles (rule_id TEXT PRIMARY KEY, title TEXT NOT NULL) WITHOUT ROWID",
    # name: state.STATE (alerts now), silence.ID (alerts that it muted), pruned.age, pruned.size (alerts, ever).
    "CREATE TABLE tallies (name TEXT PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID",
    f"INSERT INTO listing SELECT {_list_row('alerts')} FROM alerts",
    "CREATE INDEX listing_time ON listing (time_ms, seq)",
    f"CREATE INDEX listing_state ON listing (state, time_ms, seq) WHERE {UNFOLDED}",
    f"CREATE INDEX listing_level ON listing (level, time_ms, seq) WHERE {UNFOLDED}",
    f"CREATE INDEX listing_verdict ON listing (verdict, time_ms, seq) WHERE {UNFOLDED}",
    f"CREATE INDEX listing_rule ON listing (rule_id, time_ms, seq) WHERE {UNFOLDED}",
    # Who ran it, and who logged in; with repeats, for here nearly every value is rare.
    """CREATE TABLE listing_users (
        name TEXT NOT NULL,
        time_ms INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        PRIMARY KEY (name, time_ms, seq)
    ) WITHOUT ROWID""",
    _list_users("seq"),
    "INSERT INTO tallies SELECT 'state.' || state, count(*) FROM listing GROUP BY state",
    "INSERT INTO tallies SELECT 'silence.' || silence, count(*) FROM alerts WHERE silence IS NOT NULL GROUP BY silence",
    f"""INSERT INTO rule_titles SELECT rule_id, coalesce({_read("alerts", "$.rule.title")}, '')
        FROM alerts WHERE seq IN (SELECT max(seq) FROM listing GROUP BY rule_id)""",
    f"""CREATE TRIGGER listing_insert AFTER INSERT ON alerts BEGIN
        INSERT INTO listing SELECT {_list_row("NEW")};
        {_list_users("NEW.seq")};
        INSERT INTO rule_titles
            SELECT NEW.rule_id, coalesce({_read("NEW", "$.rule.title")}, '') WHERE true
            ON CONFLICT DO UPDATE SET title = excluded.title WHERE title <> excluded.title;
        {_count_up("'state.' || NEW.state")};
    END""",
    f"""CREATE TRIGGER listing_silenced AFTER INSERT ON alerts WHEN NEW.silence IS NOT NULL BEGIN
        {_count_up("'silence.' || NEW.silence")};
    END""",
    f"""CREATE TRIGGER listing_update AFTER UPDATE OF level, state, triage_state ON alerts BEGIN
        UPDATE listing SET state = NEW.state, level = NEW.level, verdict = {_find_verdict("NEW")}
            WHERE seq = NEW.seq;
    END""",
    f"""CREATE TRIGGER listing_state AFTER UPDATE OF state ON alerts WHEN OLD.state <> NEW.state BEGIN
        {_count_down("'state.' || OLD.state")};
        {_count_up("'state.' || NEW.state")};
    END""",
    f"""CREATE TRIGGER listing_delete AFTER DELETE ON alerts BEGIN
        DELETE FROM listing_users WHERE name = (SELECT user FROM listing WHERE seq = OLD.seq)
            AND time_ms = OLD.time_ms AND seq = OLD.seq;
        DELETE FROM listing_users WHERE name = (SELECT login FROM listing WHERE seq = OLD.seq)
            AND time_ms = OLD.time_ms AND seq = OLD.seq;
        DELETE FROM listing WHERE seq = OLD.seq;
        {_count_down("'state.' || OLD.state")};
    END""",
    # Related alerts are those of the last hours: a session of a million must not be read to find them.
    "DROP INDEX alerts_origin",
    "CREATE INDEX alerts_origin ON alerts (origin, time_ms) WHERE origin IS NOT NULL",
)
"""A migration; it comes after the one that gave `alerts` its columns state, leader and silence."""
