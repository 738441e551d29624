"""What the tests of faults share: events whose alerts are known beforehand, and where these turn up."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import msgspec

from tests.daemon import RULE_ID, make_exec_lines
from watchdogd.cli.daemon import ask
from watchdogd.reports import StatusReport

if TYPE_CHECKING:
    from tests.daemon import Daemon
    from tests.host.receiver import Receiver

TIME_MS = 1_795_000_000_000


def name_alert(serial: int) -> str:
    """The id of the alert on the exec with this serial."""
    return hashlib.sha256(f"{RULE_ID}\naudit||{TIME_MS}|{serial}|".encode()).hexdigest()


def append(daemon: Daemon, serials: range) -> set[str]:
    """Write an event for each of them to the log; the ids of the alerts that must come of it."""
    for serial in serials:
        daemon.append(make_exec_lines(serial, TIME_MS))
    return {name_alert(serial) for serial in serials}


def read_ids(receiver: Receiver, rule_id: str = RULE_ID) -> set[str]:
    """Of the alerts of a rule, as they came."""
    documents = [request.document for request in receiver.requests]
    return {found["watchdogd"]["alert_id"] for found in documents if found["rule"]["id"] == rule_id}


def read_stored(daemon: Daemon) -> set[str]:
    """The alerts in the database."""
    with closing(sqlite3.connect(f"file:{daemon.database}?mode=ro", uri=True, timeout=30)) as database:
        return {row[0] for row in database.execute("SELECT id FROM alerts WHERE rule_id = ?", (RULE_ID,))}


def ask_status(daemon: Daemon) -> dict[str, Any]:
    """What `watchdogd status --format json` says."""
    return dict(msgspec.to_builtins(ask(daemon.control, "status", StatusReport, 20.0)))
