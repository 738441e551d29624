"""Which alerts share a verdict, and which verdicts are used again."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tests.triage.conftest import ManualClock, make_alert
from watchdogd.background import NO_BACKGROUND, Background, Case, Package, RelatedAlert
from watchdogd.entities import Label, Level, Rarity, Verdict
from watchdogd.triage.recall import VerdictCache, name_question, name_verdict

BENIGN = Verdict(label=Label.BENIGN, by="fusion")
MODEL = ("phi3:mini", "sha256:1", "3")
ALERT = make_alert()
RULE = ALERT.rule


@pytest.mark.parametrize(
    "other",
    [
        replace(ALERT, host="other"),
        replace(ALERT, group_key="other"),
        replace(ALERT, rule=replace(RULE, description="rewritten")),
        replace(ALERT, rule=replace(RULE, level=Level.LOW)),
    ],
    ids=["host", "group", "rule", "level"],
)
def test_alerts_that_differ_ask_something_else(other: object) -> None:
    assert name_question(ALERT, "f") != name_question(other, "f")  # type: ignore[arg-type]


def test_fingerprint_and_suspect_text_are_part_of_a_question() -> None:
    names = [name_question(ALERT, "f"), name_question(ALERT, "g"), name_question(ALERT, "f", "say benign")]
    assert len(set(names)) == 3
    assert name_question(ALERT, "f") == name_question(replace(ALERT, id="b" * 64, time_ms=1), "f")


def facts(**changes: object) -> Background:
    return replace(NO_BACKGROUND, **changes)


RELATED = RelatedAlert("x", 1, "r2", "Other", Level.LOW)
CASE = Case("c1", Label.BENIGN, "t", Level.LOW, ())


@pytest.mark.parametrize(
    "background",
    [
        facts(package=Package("a", "1", intact=True)),
        facts(package=Package("a", "1", intact=False)),
        facts(package=Package("a", "2", intact=True)),
        facts(related=(RELATED,)),
        facts(related=(replace(RELATED, label=Label.MALICIOUS),)),
        facts(cases=(CASE,)),
        facts(cases=(replace(CASE, label=Label.MALICIOUS),)),
    ],
)
def test_another_background_is_another_verdict(background: Background) -> None:
    others = [facts(package=Package("a", "1", intact=None)), NO_BACKGROUND]
    names = {name_verdict(ALERT, "f", one, MODEL) for one in (background, *others)}
    assert len(names) == 3


def test_model_digest_prompt_rule_level_and_rarity_are_part_of_a_verdict() -> None:
    rare = Rarity("p", 0, None, 90, 0)
    alerts = [ALERT, replace(ALERT, rarity=rare), replace(ALERT, rarity=replace(rare, seen=30, recent=0))]
    alerts += [replace(ALERT, rarity=replace(rare, seen=30, recent=30)), replace(ALERT, rule=replace(RULE, title="x"))]
    alerts.append(replace(ALERT, level=Level.CRITICAL))
    names = [name_verdict(alert, "f", NO_BACKGROUND, MODEL) for alert in alerts]
    names += [name_verdict(ALERT, "f", NO_BACKGROUND, (*MODEL[:place], "x", *MODEL[place + 1 :])) for place in range(3)]
    names.append(name_verdict(ALERT, "g", NO_BACKGROUND, MODEL))
    assert len(set(names)) == len(names)


def test_ids_and_times_of_related_alerts_are_no_part() -> None:
    later = replace(RELATED, id="y", time_ms=2)
    first = name_verdict(ALERT, "f", facts(related=(RELATED,)), MODEL)
    assert first == name_verdict(ALERT, "f", facts(related=(later, RELATED)), MODEL)


def test_a_kept_verdict_is_marked_and_ages() -> None:
    clock = ManualClock()
    cache = VerdictCache(60, clock)
    cache.keep("a", BENIGN)
    assert cache.find("a") == replace(BENIGN, cached=True)
    clock.now_s = 60
    assert cache.find("a") is None
    assert len(cache) == 0


@pytest.mark.parametrize(
    "verdict",
    [
        Verdict(label=Label.UNTRIAGED, by="none"),
        replace(BENIGN, injection="suspected"),
        replace(BENIGN, injection="withstood"),
        replace(BENIGN, error="no explanation"),
    ],
)
def test_what_must_not_be_used_again_is_not_kept(verdict: Verdict) -> None:
    cache = VerdictCache(60, ManualClock())
    cache.keep("a", verdict)
    assert cache.find("a") is None


def test_a_cache_that_is_off_keeps_nothing() -> None:
    cache = VerdictCache(0, ManualClock())
    cache.keep("a", BENIGN)
    assert cache.find("a") is None


def test_the_least_used_goes_first() -> None:
    cache = VerdictCache(60, ManualClock(), limit=2)
    cache.keep("a", BENIGN)
    cache.keep("b", BENIGN)
    cache.find("a")
    cache.keep("c", BENIGN)
    assert [cache.find(name) is not None for name in "abc"] == [True, False, True]
    cache.clear()
    assert len(cache) == 0
