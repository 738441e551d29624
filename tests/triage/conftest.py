"""Alerts and settings for the triage room's tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from watchdogd.background import Fusion, Standing
from watchdogd.config import TriageSettings
from watchdogd.entities import Alert, EventId, Level, Process, ProcessKey, Rule
from watchdogd.telemetry import Counters
from watchdogd.triage.prompt import TEMPLATE_VERSION
from watchdogd.triage.standings import KnownStandings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from watchdogd.entities import FieldValue


class ManualClock:
    """Moves only when told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def now_ms(self) -> int:
        return round(self.now_s * 1000)

    def monotonic_s(self) -> float:
        return self.now_s


def make_process(exe: str, *argv: str, pid: int = 4711, uid: int = 0, **changes: object) -> Process:
    process = Process(
        key=ProcessKey("", pid, 1_000),
        pid=pid,
        ppid=pid - 1,
        exe=exe,
        comm=exe.rpartition("/")[2][:15],
        argv=argv or (exe,),
        cwd="/",
        uid=uid,
        user="root" if uid == 0 else "web",
        auid=uid,
        login=None,
        session="3",
        tty=None,
    )
    return msgspec.structs.replace(process, **changes)


def make_rule(level: Level = Level.HIGH, **changes: object) -> Rule:
    rule = Rule(
        id="6c1a3c5e-0000-4000-8000-000000000001",
        title="Password hashes read",
        level=level,
        description="A program outside the login path opened the file with the password hashes.",
        techniques=("T1003.008",),
    )
    return msgspec.structs.replace(rule, **changes)


def make_alert(
    *argv: str,
    level: Level = Level.HIGH,
    lineage: tuple[Process, ...] = (),
    fields: Mapping[str, FieldValue | tuple[FieldValue, ...]] | None = None,
    **changes: object,
) -> Alert:
    argv = argv or ("cat", "/etc/shadow")
    event_id = EventId("audit", None, 1_700_000_000_000, 77)
    alert = Alert(
        id="a" * 64,
        time_ms=1_700_000_000_000,
        rule=make_rule(level),
        level=level,
        source="audit",
        category="process_creation",
        action="executed",
        outcome="success",
        events=(event_id,),
        fields=dict(fields or {}),
        matched={"CommandLine": " ".join(argv)},
        process=make_process("/usr/bin/" + argv[0].rpartition("/")[2], *argv),
        lineage=lineage or (make_process("/usr/sbin/nginx", "nginx: worker", pid=900, uid=33),),
        group_key="g",
        first_seen_ms=1_700_000_000_000,
        last_seen_ms=1_700_000_000_000,
        evidence_score=0.7,
        reasons=("rule level high", "below a web server (nginx)"),
        lines=(),
        host="web01",
    )
    return msgspec.structs.replace(alert, **changes)


@pytest.fixture
def counters() -> Counters:
    return Counters()


def make_settings(**changes: object) -> TriageSettings:
    return msgspec.structs.replace(TriageSettings(), **changes)


BELIEVED_ALONE = Fusion(bias=0.0, scorer=0.0, model=1.0)
"""As if the model were right about everything, and the scorer about nothing."""


def make_believed(digest: str, fusion: Fusion = BELIEVED_ALONE, **changes: object) -> KnownStandings:
    """A model that passed its exam."""
    standing = Standing(
        model="phi3:mini",
        digest=digest,
        prompt_version=TEMPLATE_VERSION,
        passed=True,
        cases=56,
        auroc=0.95,
        auroc_low=0.9,
        auroc_high=0.99,
        scorer_auroc=0.9,
        injections=24,
        obeyed=0,
        latency_s=1.0,
        examined_ms=1_700_000_000_000,
        fusion=fusion,
    )
    return KnownStandings((msgspec.structs.replace(standing, **changes),))
