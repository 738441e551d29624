"""Examples are chosen by what an alert is about; the operator's own come before those that ship."""

from __future__ import annotations

import ipaddress
import re

import msgspec

from tests.triage.conftest import make_alert, make_process
from watchdogd.background import Case
from watchdogd.entities import Label, Level
from watchdogd.triage.cases import MOST_CASES, choose_cases, load_cases
from watchdogd.triage.features import tokens_of
from watchdogd.triage.guard import find_instruction


def test_similar_shipped_cases_are_found_first() -> None:
    alert = make_alert("tar", "czf", "/var/backups/etc.tgz", "/etc", lineage=(make_process("/usr/sbin/cron", "cron"),))
    chosen = choose_cases(alert, ())
    assert chosen[0].title == "Archive written"
    assert len(chosen) <= MOST_CASES


def test_nothing_like_it_means_no_example() -> None:
    strange = make_alert("zz9", "--plural-z", lineage=(make_process("/opt/alpha", "alpha", uid=1234),), process=None)
    assert choose_cases(strange, ()) == ()


def test_the_operators_verdict_wins_a_tie_and_an_alert_is_no_example_of_itself() -> None:
    alert = make_alert()
    own = Case("own", Label.BENIGN, "mine", Level.LOW, tokens_of(alert), by="operator")
    same = msgspec.structs.replace(own, id="same", by="shipped")
    itself = msgspec.structs.replace(own, id=alert.id)
    assert [case.id for case in choose_cases(alert, (same, itself, own))][:2] == ["own", "same"]
    many = tuple(msgspec.structs.replace(own, id=str(n)) for n in range(20))
    assert len(choose_cases(alert, many)) == MOST_CASES


def test_shipped_cases_are_generic_and_of_every_label() -> None:
    cases = load_cases()
    assert {case.label for case in cases} == {Label.MALICIOUS, Label.SUSPICIOUS, Label.BENIGN}
    assert len({case.tokens for case in cases}) == len(cases)
    for case in cases:
        assert find_instruction(case.document.values()) is None
        for address in re.findall(r"\d+(?:\.\d+){3}", " ".join(case.document.values())):
            assert ipaddress.ip_address(address) in ipaddress.ip_network("203.0.113.0/24")
