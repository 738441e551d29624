"""Which view a log source asks for, and what is said where nothing produces it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.match.conftest import link_folders
from watchdogd.entities import Level, Rule, View
from watchdogd.match.engine import Engine
from watchdogd.match.logsources import choose_view
from watchdogd.match.syntax import CATEGORIES

if TYPE_CHECKING:
    from tests.match.conftest import MakeEvent, MakeRecord, WriteRule

SOURCES = [
    ("{product: linux, category: process_creation}", "process_creation", ""),
    ("{category: file_event}", "file_event", ""),
    ("{product: linux, category: network_connection}", "network_connection", ""),
    ("{product: linux, service: auditd}", "auditd", ""),
    ("{product: linux}", "auditd", ""),
    ("{product: linux, category: host_metrics}", "host_metrics", ""),
    ("{product: linux, service: auditd, category: file_access}", "file_access", ""),
    ("{product: windows, category: process_creation}", "", "product 'windows'"),
    ("{product: linux, service: sshd}", "sshd", ""),
    ("{product: linux, service: sudo}", "sudo", ""),
    ("{product: linux, service: auth}", "auth", ""),
    ("{product: linux, service: cron}", "cron", ""),
    ("{product: linux, service: syslog}", "syslog", ""),
    ("{product: linux, category: file_integrity}", "file_integrity", ""),
    ("{product: linux, service: vsftpd}", "", "service 'vsftpd' is not read"),
    ("{product: linux, category: dns_query}", "", "category 'dns_query'"),
    ("{product: linux, service: sshd, category: file_event}", "", "the service 'sshd' has the category 'file_event'"),
]


@pytest.mark.parametrize(("source", "view", "reason"), SOURCES)
def test_a_log_source_that_nothing_produces_is_no_mistake(
    write_rule: WriteRule, source: str, view: str, reason: str
) -> None:
    ruleset = link_folders(write_rule("sel: {F: x}\ncondition: sel", source=source).parent)
    assert ruleset.warnings == ()
    (body,) = ruleset.bodies
    assert body.view == view
    assert reason in body.reason
    assert bool(body.reason) is not bool(view)
    assert bool(body.detections) is bool(view)


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_view_of_this_version_can_be_asked(category: str) -> None:
    assert choose_view(Rule("x", "x", Level.LOW, product="linux", category=category)) == (category, "")


@pytest.mark.parametrize("source", ["{product: linux, service: sshd}", "{category: file_integrity}"])
def test_what_produces_a_view_is_all_that_a_source_needs(
    write_rule: WriteRule, make_event: MakeEvent, make_record: MakeRecord, source: str
) -> None:
    folder = write_rule("words: ['Failed *']\nsel: {User: root}\ncondition: words and sel", source=source).parent
    ruleset = link_folders(folder)
    (body,) = ruleset.bodies
    engine = Engine(ruleset)
    line = make_record("USER_AUTH", b"sshd[7]: Failed password for root")
    (match,) = engine.judge(make_event(line, View(body.view, "", "", {"User": "root"})))
    assert match.category == body.view
    assert engine.judge(make_event(line, View("process_creation", "", "", {"User": "root"}))) == []
