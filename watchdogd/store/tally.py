"""How many alerts and deliveries came into the database and what became of them, counted by the database itself.

Triggers count, within the transaction of whoever writes: independent of the daemon's own counters, which the ledger
holds against them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import sqlite3

_COUNT_UP: Final = "INSERT INTO tallies (name, count) VALUES ({name}, 1) ON CONFLICT DO UPDATE SET count = count + 1"

MAKE_TALLIES: Final = (
    # name, more: deliveries.made, deliveries.again (due again after they had ended), deliveries.STATE (ended so, ever),
    # deliveries.deleted (before they had ended).
    f"""CREATE TRIGGER tally_made AFTER INSERT ON deliveries WHEN NEW.state = 'pending' BEGIN
        {_COUNT_UP.format(name="'deliveries.made'")};
    END""",
    f"""CREATE TRIGGER tally_ended AFTER UPDATE OF state ON deliveries
        WHEN OLD.state = 'pending' AND NEW.state <> 'pending' BEGIN
        {_COUNT_UP.format(name="'deliveries.' || NEW.state")};
    END""",
    f"""CREATE TRIGGER tally_again AFTER UPDATE OF state ON deliveries
        WHEN OLD.state <> 'pending' AND NEW.state = 'pending' BEGIN
        {_COUNT_UP.format(name="'deliveries.again'")};
    END""",
    f"""CREATE TRIGGER tally_deleted AFTER DELETE ON deliveries WHEN OLD.state = 'pending' BEGIN
        {_COUNT_UP.format(name="'deliveries.deleted'")};
    END""",
)
"""A migration; it comes after the one that made the table `tallies`."""

_DELIVERIES: Final = ("made", "again", "delivered", "dead", "dropped", "routed", "deleted")


def read_tallies(connection: sqlite3.Connection) -> dict[str, int]:
    """What there is now (`alerts_stored`, `questions_waiting`, `deliveries_pending`), and `deliveries_...` ever."""
    tallies = dict(connection.execute("SELECT name, count FROM tallies").fetchall())
    amounts = {f"deliveries_{name}": tallies.get(f"deliveries.{name}", 0) for name in _DELIVERIES}
    amounts["alerts_stored"] = sum(count for name, count in tallies.items() if name.startswith("state."))
    for name, query in (
        ("questions_waiting", "SELECT count(*) FROM alerts WHERE triage_state = 'pending'"),
        ("deliveries_pending", "SELECT count(*) FROM deliveries WHERE state = 'pending'"),
    ):
        (amounts[name],) = connection.execute(query).fetchone()
    return amounts
