"""Who is told of which alert."""

from __future__ import annotations

import pytest

from watchdogd.assembly import choose_routes
from watchdogd.config import Config
from watchdogd.entities import Level, Rule
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
