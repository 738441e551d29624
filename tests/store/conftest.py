"""Real SQLite files, and alerts to put into them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from watchdogd.entities import Alert, EventId, Label, Level, Rule, Verdict
from watchdogd.store.database import Store
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path


class HandClock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.ms = 1_000_000

    def now_ms(self) -> int:
        return self.ms

    def monotonic_s(self) -> float:
        return self.ms / 1000


def make_alert(alert_id: str, **changes: object) -> Alert:
    known: dict[str, object] = {
        "id": alert_id,
        "time_ms": 1,
        "rule": Rule(id="r1", title="Shadow read", level=Level.HIGH),
        "level": Level.HIGH,
        "source": "audit_log",
        "category": "process_creation",
        "action": "exec",
        "outcome": "success",
        "events": (EventId("audit_log", None, 1, 2),),
        "fields": {"Image": "/bin/cat", "Hashes": ("a", "b"), "value": 1.5, "none": None},
        "matched": {"Image": "/bin/cat"},
        "process": None,
        "lineage": (),
        "group_key": alert_id,
        "first_seen_ms": 1,
        "last_seen_ms": 1,
        "evidence_score": 0.5,
        "reasons": ("rare",),
        "lines": ("type=SYSCALL ...",),
    }
    return Alert(**{**known, **changes})  # type: ignore[arg-type]


MANY = {"journald": 1000, "hook": 1000, "mail": 1000}
"""Sinks with room for whatever is due."""

VERDICT = Verdict(label=Label.SUSPICIOUS, by="model", confidence=0.7)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def counters() -> Counters:
    return Counters()


@pytest.fixture
def alert() -> Callable[..., Alert]:
    return make_alert


@pytest.fixture
def verdict() -> Verdict:
    return VERDICT


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "watchdogd.db"


@pytest_asyncio.fixture
async def store(path: Path, counters: Counters, clock: HandClock) -> AsyncIterator[Store]:
    opened = await Store.open(path, counters, clock)
    yield opened
    await opened.close()
