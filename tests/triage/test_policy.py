"""Nothing a verdict says lowers the floor; nothing high stays in the journal alone."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.triage.conftest import make_alert, make_rule, make_settings
from watchdogd.config import FloorSettings
from watchdogd.entities import AlertState, Label, Level, Verdict
from watchdogd.triage.policy import INJECTION_REASON, Policy

levels = st.sampled_from(Level)
verdicts = st.builds(
    Verdict,
    label=st.sampled_from(Label),
    by=st.sampled_from(["model", "none", "scorer", "fusion"]),
    injection=st.sampled_from(["", "suspected", "withstood", "obeyed"]),
    confidence=st.none() | st.floats(0, 1),
    summary=st.text(max_size=20),
    error=st.none() | st.just("timeout"),
)
reaches = st.sampled_from(["journald", "webhooks"])
floors = st.builds(FloorSettings, medium=reaches, low=reaches, informational=reaches)
settings = st.builds(make_settings, raise_on_malicious=st.booleans(), benign_to_journald=st.booleans(), floor=floors)


@given(settings, levels, levels, verdicts, st.none() | verdicts)
def test_nothing_lowers_the_floor(settings, rule_level, level, verdict, earlier) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
    policy = Policy(settings)
    alert = make_alert(level=level, rule=make_rule(rule_level), verdict=earlier)
    ruling = policy.rule_on(alert, verdict)
    after = ruling.alert
    assert after.level.rank >= max(rule_level.rank, level.rank)
    assert after.rule == alert.rule
    if Level.HIGH.rank <= max(rule_level.rank, level.rank):
        assert not ruling.journald_only
    if verdict.label is Label.UNTRIAGED and verdict.injection != "obeyed":
        assert after.level.rank == max(rule_level.rank, level.rank)
        assert not ruling.journald_only
    if after.level.rank > max(rule_level.rank, level.rank):
        by_label = (
            verdict.label is Label.MALICIOUS and settings.raise_on_malicious and verdict.by in {"fusion", "scorer"}
        )
        assert by_label or verdict.injection == "obeyed"
    if ruling.journald_only:
        assert verdict.label is Label.BENIGN
        assert settings.benign_to_journald
        assert getattr(settings.floor, max(rule_level, level, key=lambda one: one.rank).value) == "journald"
        assert verdict.by in {"fusion", "scorer"}
        assert not verdict.injection
    assert len(ruling.extra) == bool(verdict.injection)
    assert set(alert.reasons) <= set(after.reasons)
    assert after.verdict == verdict
    again = policy.rule_on(after, verdict)
    assert again.alert == after
    assert again.journald_only == ruling.journald_only
    assert not again.verdict_changes


def test_a_model_alone_carries_no_weight() -> None:
    policy = Policy(make_settings(raise_on_malicious=True, benign_to_journald=True))
    for level in Level:
        for label in Label:
            ruling = policy.rule_on(make_alert(level=level), Verdict(label, "model"))
            assert ruling.alert.level is level
            assert not ruling.journald_only


def test_malicious_raises_one_level_where_allowed() -> None:
    policy = Policy(make_settings(raise_on_malicious=True))
    raised = [
        policy.rule_on(make_alert(level=level), Verdict(Label.MALICIOUS, "fusion")).alert.level for level in Level
    ]
    assert raised == [*list(Level)[1:], Level.CRITICAL]


@pytest.mark.parametrize("level", Level)
def test_benign_stays_local_up_to_medium_where_allowed(level: Level) -> None:
    ruling = Policy(make_settings(benign_to_journald=True)).rule_on(
        make_alert(level=level), Verdict(Label.BENIGN, "scorer")
    )
    assert ruling.journald_only == (level.rank <= Level.MEDIUM.rank)


def test_the_floor_of_high_and_critical_is_no_setting() -> None:
    settings = make_settings(benign_to_journald=True, floor=FloorSettings(high="journald", critical="journald"))
    for level in (Level.HIGH, Level.CRITICAL):
        assert not Policy(settings).rule_on(make_alert(level=level), Verdict(Label.BENIGN, "fusion")).journald_only


def test_untriaged_changes_nothing_but_a_label_does() -> None:
    policy = Policy(make_settings())
    alert = make_alert()
    assert not policy.rule_on(alert, Verdict(Label.UNTRIAGED, "none", error="timeout")).verdict_changes
    assert policy.rule_on(alert, Verdict(Label.SUSPICIOUS, "model")).verdict_changes


def test_injection_adds_a_reason_once() -> None:
    policy = Policy(make_settings())
    verdict = Verdict(Label.UNTRIAGED, "none", injection="suspected")
    ruling = policy.rule_on(make_alert(), verdict)
    assert ruling.alert.reasons.count(INJECTION_REASON) == 1
    assert ruling.verdict_changes
    assert policy.rule_on(ruling.alert, verdict).alert.reasons.count(INJECTION_REASON) == 1


def test_injection_raises_an_alert_of_its_own_that_is_the_same_for_each_alert_of_the_event() -> None:
    policy = Policy(make_settings())
    verdict = Verdict(Label.UNTRIAGED, "none", injection="obeyed")
    ruling = policy.rule_on(make_alert(level=Level.LOW), verdict)
    assert ruling.alert.level is Level.MEDIUM
    (extra,) = ruling.extra
    assert (extra.rule.title, extra.level) == ("Text addressed to a language model", Level.HIGH)
    assert extra.rule.triage == "never"
    assert extra.verdict is None
    assert extra.state is AlertState.ACTIVE
    other = make_alert(rule=make_rule(id="6c1a3c5e-0000-4000-8000-000000000002"), id="b" * 64)
    assert policy.rule_on(other, verdict).extra[0].id == extra.id


def test_deadlines() -> None:
    policy = Policy(make_settings())
    assert [policy.deadline_ms(level) for level in Level] == [60_000, 60_000, 60_000, 5_000, 0]
    only_high = Policy(msgspec.structs.replace(make_settings(), deadline_s={Level.HIGH: 0.25}))
    assert (only_high.deadline_ms(Level.HIGH), only_high.deadline_ms(Level.LOW)) == (250, 60_000)
