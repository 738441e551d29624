"""Alerts to write."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from watchdogd.entities import Alert, EventId, Label, Level, Process, ProcessKey, Rule, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

T0_MS = 1_753_000_000_123


def make_process(pid: int, *argv: str, **changes: object) -> Process:
    plain = Process(
        key=ProcessKey(boot="b", pid=pid, start_ms=T0_MS),
        pid=pid,
        ppid=pid - 1,
        exe=argv[0] if argv else None,
        comm=argv[0].rpartition("/")[2][:15] if argv else None,
        argv=argv,
        cwd="/root",
        uid=0,
        user="root",
        auid=1000,
        login="alice",
        session="3",
        tty="pts0",
    )
    return msgspec.structs.replace(plain, **changes)


def build_alert(**changes: object) -> Alert:
    """An alert with everything known; keyword arguments change it."""
    plain = Alert(
        id="a1b2c3",
        time_ms=T0_MS,
        rule=Rule(
            id="5f0f9e9e-0000-4000-8000-000000000001",
            title="Shadow file read",
            level=Level.HIGH,
            techniques=("T1003.008",),
        ),
        level=Level.HIGH,
        source="audit_log",
        category="process_creation",
        action="executed",
        outcome="success",
        events=(EventId(source="audit_log", node=None, time_ms=T0_MS, serial=4567),),
        fields={"Image": "/usr/bin/cat"},
        matched={"CommandLine": "/usr/bin/cat /etc/shadow"},
        process=make_process(4000, "/usr/bin/cat", "/etc/shadow"),
        lineage=(make_process(3999, "/bin/bash", "-i"), make_process(3998, "/usr/sbin/sshd")),
        group_key="rule|alice",
        first_seen_ms=T0_MS,
        last_seen_ms=T0_MS + 5,
        evidence_score=0.62,
        reasons=("the rule's level is high", "never seen on this host"),
        lines=("type=SYSCALL msg=audit(1753000000.123:4567): a0=1",),
        host="web01",
        verdict=Verdict(label=Label.MALICIOUS, by="model", confidence=0.87, summary="Reads password hashes."),
    )
    return msgspec.structs.replace(plain, **changes)


@pytest.fixture
def make_alert() -> Callable[..., Alert]:
    """The builder of alerts."""
    return build_alert
