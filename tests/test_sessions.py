"""Alerts of one session find each other, within bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from tests.triage.conftest import make_alert, make_process, make_rule
from watchdogd.sessions import KEPT_RULES, KEPT_SESSIONS, WITHIN_MS, SessionAlerts

if TYPE_CHECKING:
    from watchdogd.entities import Alert


def alert_of(number: int, session: str | None, **changes: object) -> Alert:
    process = make_process("/usr/bin/id", "id", session=session, pid=5000 + number)
    return msgspec.structs.replace(make_alert(), id=f"{number:064}", process=process, **changes)


def test_a_session_knows_its_earlier_alerts() -> None:
    known = SessionAlerts()
    known.remember(alert_of(1, "7"))
    known.remember(alert_of(2, "8"))
    assert [other.id for other in known.find(alert_of(3, "7"))] == [f"{1:064}"]
    assert known.find(alert_of(1, "7")) == ()
    assert known.find(alert_of(4, "7", host="other")) == ()
    late = alert_of(5, "7", time_ms=alert_of(1, "7").time_ms + WITHIN_MS + 1)
    assert known.find(late) == ()


def test_services_are_told_by_their_oldest_ancestor() -> None:
    known = SessionAlerts()
    web = make_process("/usr/sbin/nginx", "nginx", pid=900)
    init = make_process("/usr/lib/systemd/systemd", "init", pid=1)
    known.remember(alert_of(1, None, lineage=(web, init)))
    assert len(known.find(alert_of(2, None, lineage=(make_process("/bin/sh", pid=7), web, init)))) == 1
    other = make_process("/usr/sbin/mysqld", "mysqld", pid=901)
    assert known.find(alert_of(3, None, lineage=(other, init))) == ()


def test_a_rule_that_comes_again_pushes_no_other_out() -> None:
    known = SessionAlerts()
    known.remember(alert_of(1, "1", rule=msgspec.structs.replace(make_rule(), id="first")))
    for number in range(2, 100):
        known.remember(alert_of(number, "1"))
    assert [other.rule_id for other in known.find(alert_of(100, "1"))] == ["first", make_rule().id]


def test_memory_is_bounded() -> None:
    known = SessionAlerts()
    for number in range(KEPT_RULES + 5):
        known.remember(alert_of(number, "1", rule=msgspec.structs.replace(make_rule(), id=f"rule {number}")))
    assert len(known.find(alert_of(999, "1"))) == KEPT_RULES
    for number in range(KEPT_SESSIONS):
        known.remember(alert_of(number, f"s{number}"))
    assert known.find(alert_of(999, "1")) == ()


def test_what_nobody_did_has_no_session() -> None:
    known = SessionAlerts()
    nobody = msgspec.structs.replace(make_alert(), process=None)
    known.remember(nobody)
    assert known.find(msgspec.structs.replace(nobody, id="c" * 64)) == ()
