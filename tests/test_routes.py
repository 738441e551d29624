"""Who is told of which alert."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdogd.assembly import choose_routes
from watchdogd.config import Config
from watchdogd.entities import Label, Level, Rule
from watchdogd.webhook_settings import MatchSettings, WebhookSettings

RULE = Rule(
    id="5f0f9e9e-0000-4000-8000-00000000000a", title="Shadow file read", level=Level.HIGH, tags=("attack.t1003",)
)


def told(level: Level = Level.HIGH, notify: tuple[str, ...] = (), **match: object) -> tuple[str, ...]:
    wanted = MatchSettings(**match)  # type: ignore[arg-type]
    hook = WebhookSettings(name="ops", url="http://127.0.0.1/", match=wanted)
    return choose_routes(Config(webhooks=(hook,))).choose(level, notify, RULE)


@pytest.mark.parametrize(
    "match",
    [
        {},
        {"levels": (Level.HIGH, Level.LOW)},
        {"rules": ("shadow FILE read",)},
        {"rules": ("other", "5F0F9E9E-0000-4000-8000-00000000000A")},
        {"tags": ("attack.T1003", "x")},
        {"levels": (Level.HIGH,), "rules": (RULE.title,), "tags": RULE.tags},
    ],
)
def test_a_receiver_gets_what_it_wants(match: dict[str, object]) -> None:
    assert told(**match) == ("journald", "ops")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "match",
    [
        {"levels": (Level.CRITICAL,)},
        {"rules": ("Shadow",)},
        {"tags": ("attack",)},
        {"levels": (Level.HIGH,), "tags": ("attack.t1059",)},
    ],
)
def test_and_nothing_else_but_the_journal_does(match: dict[str, object]) -> None:
    assert told(**match) == ("journald",)  # type: ignore[arg-type]


def test_the_least_level_holds_beside() -> None:
    assert told(Level.INFORMATIONAL, levels=(Level.INFORMATIONAL,)) == ("journald",)


def test_a_rule_that_names_its_sinks_goes_before() -> None:
    assert told(notify=("ops",), tags=("other",)) == ("journald", "ops")


def test_what_watchdogd_says_about_itself_is_told_to_all() -> None:
    hook = WebhookSettings(name="ops", url="http://127.0.0.1/", match=MatchSettings(tags=("other",)))
    assert choose_routes(Config(webhooks=(hook,))).choose(Level.HIGH) == ("journald", "ops")


def choose(level: Level, label: Label, **verdicts: tuple[Label, ...]) -> tuple[str, ...]:
    """Who is told, of these webhooks, each with what it wants."""
    hooks = tuple(
        WebhookSettings(name=name, url="http://127.0.0.1/", match=MatchSettings(verdicts=wanted))
        for name, wanted in verdicts.items()
    )
    return choose_routes(Config(webhooks=hooks)).choose(level, (), RULE, label)


@pytest.mark.parametrize("level", Level)
def test_a_receiver_gets_the_verdicts_that_it_wants(level: Level) -> None:
    wishes = {"pager": (Label.MALICIOUS,), "desk": (Label.SUSPICIOUS, Label.UNTRIAGED), "siem": ()}
    if level is Level.INFORMATIONAL:
        return
    assert choose(level, Label.MALICIOUS, **wishes) == ("journald", "pager", "siem")
    assert choose(level, Label.UNTRIAGED, **wishes) == ("journald", "desk", "siem")
    assert choose(level, Label.BENIGN, **wishes) == ("journald", "siem")


labels = st.lists(st.sampled_from(Label), unique=True).map(tuple)


@given(st.sampled_from([Level.HIGH, Level.CRITICAL]), st.sampled_from(Label), labels, labels)
def test_no_verdict_keeps_a_high_alert_from_every_webhook(
    level: Level, label: Label, first: tuple[Label, ...], second: tuple[Label, ...]
) -> None:
    told_of = choose(level, label, first=first, second=second)
    wanting = tuple(name for name, wanted in (("first", first), ("second", second)) if not wanted or label in wanted)
    assert told_of == ("journald", *(wanting or ("first", "second")))


def test_what_is_lower_may_stay_in_the_journal() -> None:
    assert choose(Level.MEDIUM, Label.BENIGN, pager=(Label.MALICIOUS,)) == ("journald",)


def test_who_hears_of_that_level_only_does_not_stand_in_for_another_level() -> None:
    hooks = (
        WebhookSettings(name="pager", url="http://127.0.0.1/", match=MatchSettings(verdicts=(Label.MALICIOUS,))),
        WebhookSettings(name="worst", url="http://127.0.0.1/", min_level=Level.CRITICAL),
    )
    routes = choose_routes(Config(webhooks=hooks))
    assert routes.choose(Level.HIGH, (), RULE, Label.BENIGN) == ("journald", "pager")
    assert routes.choose(Level.CRITICAL, (), RULE, Label.BENIGN) == ("journald", "worst")
    assert routes.refuse(Level.CRITICAL, (), RULE, Label.BENIGN) == ("pager",)
    assert routes.refuse(Level.CRITICAL, ("pager",), RULE, Label.BENIGN) == ()
