"""Who leads, who is counted, who is inhibited: decided without a database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.test_silences import PROCESS, make_alert
from watchdogd.entities import AlertState, EventId, Level, Part, Rule
from watchdogd.grouping import (
    EVENTS_KEPT,
    Facts,
    Group,
    GroupTable,
    Inhibitor,
    InhibitRule,
    Plan,
    count_repeat,
    decide,
)
from watchdogd.silences import parse_matcher

if TYPE_CHECKING:
    from watchdogd.entities import Alert

PLAN = Plan()
HOUR_MS = 3_600_000
LEVELS = list(Level)


def facts(**changes: object) -> Facts:
    known: dict[str, object] = {
        "key": "k",
        "rank": 2,
        "question": "q",
        "time_ms": 1_000,
        "repeat_ms": 500,
        "interval_ms": 100,
    }
    return Facts(**{**known, **changes})  # type: ignore[arg-type]


def alert(number: int, **changes: object) -> Alert:
    time_ms = 1_000_000 + number
    known = {
        "id": f"a{number}",
        "time_ms": time_ms,
        "events": (EventId("audit_log", None, time_ms, number),),
        "first_seen_ms": time_ms,
        "last_seen_ms": time_ms,
        "level": Level.MEDIUM,
    }
    return make_alert(**{**known, **changes})


def take(table: GroupTable, *alerts: Alert, plan: Plan = PLAN, question: str = "") -> list[AlertState]:
    """What becomes of each; the question is the rule's, unless it is given."""
    regrouped = [plan.regroup(one) for one in alerts]
    return [table.take(one, plan.state_facts(one, question or one.rule.id)).state for one in regrouped]


ACTIVE, FOLDED, INHIBITED = AlertState.ACTIVE, AlertState.FOLDED, AlertState.INHIBITED


def test_a_repeat_is_counted_to_the_first() -> None:
    group = Group("a", 2, 1_000, "q", ("journald",))
    decision = decide(facts(time_ms=1_499), ("journald",), group, ())
    assert (decision.state, decision.leader) == (FOLDED, "a")


@pytest.mark.parametrize(
    ("changes", "group"),
    [
        ({}, None),
        ({"time_ms": 1_500}, Group("a", 2, 1_000, "q", ("journald",))),
        ({"time_ms": 500}, Group("a", 2, 1_000, "q", ("journald",))),
        ({"rank": 3}, Group("a", 2, 1_000, "q", ("journald",))),
        ({}, Group("a", 2, 1_000, "q", ())),
        ({"question": "other"}, Group("a", 2, 1_000, "q", ("journald",), lowered=True)),
    ],
    ids=["first", "too late", "too early", "worse", "another sink", "asks what nobody was told of"],
)
def test_what_is_not_surely_a_repeat_leads(changes: dict[str, object], group: Group | None) -> None:
    assert decide(facts(**changes), ("journald",), group, ()).state is ACTIVE


def test_a_silence_goes_before_all_else() -> None:
    group = Group("a", 2, 1_000, "q", ())
    decision = decide(facts(silence="s"), (), group, [Inhibitor("c", 4, 0, 9_999)])
    assert (decision.state, decision.silence, decision.leader) == (AlertState.SILENCED, "s", None)


def test_an_inhibitor_reaches_its_level_and_its_time_only() -> None:
    source = Inhibitor("c", 2, 900, 1_100)
    assert decide(facts(), (), None, [source]).leader == "c"
    for other in (facts(rank=3), facts(time_ms=899), facts(time_ms=1_101)):
        assert decide(other, (), None, [source]).state is ACTIVE


def test_a_high_alert_is_inhibited_only_where_its_question_was_told() -> None:
    source, high = Inhibitor("c", 4, 0, 99_999), facts(rank=3, time_ms=5_000)
    assert decide(high, (), None, [source]).state is ACTIVE
    assert decide(high, (), Group("a", 3, 1_000, "q", ()), [source]).state is INHIBITED


def test_after_the_repeat_interval_the_next_leads() -> None:
    table = GroupTable()
    times = [alert(0), alert(5), alert(PLAN.repeat_interval_ms), alert(PLAN.repeat_interval_ms + 5)]
    assert take(table, *times) == [ACTIVE, FOLDED, ACTIVE, FOLDED]


@pytest.mark.parametrize(
    "changes",
    [
        {"rule": Rule(id="r2", title="Other", level=Level.MEDIUM)},
        {"host": "web2"},
        {"process": replace(PROCESS, user="bob")},
        {"process": replace(PROCESS, login="bob")},
        {"process": replace(PROCESS, exe="/bin/sh")},
    ],
    ids=["rule", "host", "user", "login", "program"],
)
def test_another_value_is_another_group(changes: dict[str, object]) -> None:
    assert take(GroupTable(), alert(0), alert(1, **changes)) == [ACTIVE, ACTIVE]


def test_a_rule_says_by_what_and_for_how_long_it_is_grouped() -> None:
    rule = Rule(id="r1", title="t", level=Level.MEDIUM, group_by=("TargetFilename",), cooldown_s=60)
    same = alert(1, rule=rule, process=replace(PROCESS, exe="/bin/sh"))
    other = alert(2, rule=rule, fields={"TargetFilename": "/etc/passwd"})
    late = alert(60_000, rule=rule)
    assert take(GroupTable(), alert(0, rule=rule), same, other, late) == [ACTIVE, FOLDED, ACTIVE, ACTIVE]
    assert PLAN.regroup(other).group_key == "r1|web1|/etc/passwd"


def test_the_group_is_named_for_people() -> None:
    assert PLAN.regroup(alert(0)).group_key == "r1|web1|root,ann|/opt/backup/run"
    assert PLAN.regroup(alert(0, process=None, group_key="r1|load")).group_key == "web1|r1|load"


@pytest.mark.parametrize("level", [Level.HIGH, Level.CRITICAL])
def test_a_high_alert_that_asks_something_else_leads(level: Level) -> None:
    table = GroupTable()
    assert take(table, alert(0, level=level), alert(1, level=level), question="A") == [ACTIVE, FOLDED]
    assert take(table, alert(2, level=level), alert(3, level=level), question="B") == [ACTIVE, FOLDED]
    assert take(table, alert(4, level=level), question="A") == [FOLDED]


def test_values_of_the_host_cannot_pretend_to_be_others() -> None:
    plan = Plan(group_by=("user", "executable"))
    one = alert(0, process=replace(PROCESS, user="a|b", login="c", exe="d"))
    two = alert(1, process=replace(PROCESS, user="a", login="b|c", exe="d"))
    strange = alert(2, process=replace(PROCESS, exe="\udcff"))
    assert take(GroupTable(), one, two, strange, plan=plan) == [ACTIVE, ACTIVE, ACTIVE]


CHAIN = Rule(
    id="chain",
    title="Chain",
    level=Level.MEDIUM,
    parts=(Part("r1", ("User",), ("User",)),),
    timespan_ms=HOUR_MS,
)
PART = Rule(id="r1", title="Part", level=Level.MEDIUM, part_of=(("User",),))


def chain(number: int, **changes: object) -> Alert:
    return alert(number, **{"rule": CHAIN, "is_correlation": True, "matched": {"User": "ROOT"}, **changes})


def test_a_chain_inhibits_its_parts_of_the_same_session() -> None:
    other_session = replace(PROCESS, session="4")
    states = take(
        GroupTable(),
        chain(0, matched={}),
        alert(1, rule=PART),
        alert(2, rule=PART, process=other_session),
        alert(HOUR_MS + 1, rule=PART),
        alert(3, rule=replace(PART, id="r9")),
    )
    assert states == [ACTIVE, INHIBITED, ACTIVE, FOLDED, ACTIVE]


def test_a_chain_inhibits_its_parts_of_the_same_values() -> None:
    part = alert(1, rule=PART, process=replace(PROCESS, session="4"), fields={"User": "root"})
    assert take(GroupTable(), chain(0), part) == [ACTIVE, INHIBITED]
    assert take(GroupTable(), chain(0), replace(part, fields={"User": "ann"})) == [ACTIVE, ACTIVE]
    assert take(GroupTable(), chain(0), replace(part, level=Level.HIGH)) == [ACTIVE, ACTIVE]


def test_what_nobody_was_told_inhibits_nothing() -> None:
    table = GroupTable()
    silenced = PLAN.regroup(chain(0))
    table.take(silenced, PLAN.state_facts(silenced, "q", silence="s"))
    assert take(table, alert(1, rule=PART)) == [ACTIVE]


def test_inhibit_rules_of_the_configuration() -> None:
    rule = InhibitRule((parse_matcher("rule=r1"),), (parse_matcher("level=low"),), ("login",), 1_000)
    plan = Plan(inhibit_rules=(rule,))
    source, low = alert(0), alert(1, level=Level.LOW, rule=Rule(id="r2", title="Low", level=Level.LOW))
    other = replace(low, id="x", process=replace(PROCESS, login="bob"))
    late = replace(low, id="y", time_ms=source.time_ms + 1_001)
    assert take(GroupTable(), source, low, other, late, plan=plan) == [ACTIVE, INHIBITED, ACTIVE, ACTIVE]


def test_only_so_many_events_are_listed_and_all_are_counted() -> None:
    leader = alert(0)
    for number in range(1, 300):
        leader = count_repeat(leader, alert(number))
    assert (leader.count, len(leader.events)) == (300, EVENTS_KEPT)
    assert (leader.first_seen_ms, leader.last_seen_ms) == (1_000_000, 1_000_299)
    assert count_repeat(alert(5), alert(3)).first_seen_ms == 1_000_003


def test_memory_is_bounded_and_what_is_forgotten_is_said() -> None:
    forgotten: list[str] = []
    table = GroupTable(forgotten.append, limit=2)
    many = [alert(number, host=f"h{number}") for number in range(4)]
    assert take(table, *many) == [ACTIVE] * 4
    assert forgotten == ["a0", "a1"]
    assert take(table, replace(many[0], id="again")) == [ACTIVE]


@pytest.mark.parametrize(
    ("level", "held_ms"), [(Level.CRITICAL, 0), (Level.HIGH, 30_000), (Level.MEDIUM, 90_000), (Level.LOW, 90_000)]
)
def test_the_worse_an_alert_the_less_it_waits_for_repeats(level: Level, held_ms: int) -> None:
    assert Plan(group_wait_ms=90_000).hold_ms(level) == held_ms


PROGRAMS = ["/bin/a", "/bin/b"]
ALERTS = st.lists(
    st.tuples(st.integers(0, 40 * HOUR_MS), st.sampled_from(LEVELS), st.sampled_from(PROGRAMS), st.sampled_from("AB")),
    max_size=40,
)


@given(ALERTS)
def test_every_alert_is_told_or_counted_to_one_that_was_told_and_no_high_question_is_lost(
    drawn: list[tuple[int, Level, str, str]],
) -> None:
    table = GroupTable()
    told: dict[str, tuple[Alert, str]] = {}
    counts: dict[str, int] = {}
    for number, (ms, level, program, question) in enumerate(drawn):
        one = alert(ms, id=str(number), level=level, process=replace(PROCESS, exe=program))
        one = PLAN.regroup(one)
        decision = table.take(one, PLAN.state_facts(one, question))
        if decision.state is ACTIVE:
            told[one.id], counts[one.id] = (one, question), 1
            continue
        assert decision.leader is not None
        leader, asked = told[decision.leader]
        counts[leader.id] += 1
        assert one.level.rank <= leader.level.rank
        assert abs(one.time_ms - leader.time_ms) < PLAN.repeat_interval_ms
        assert leader.group_key == one.group_key
        assert one.level.rank < Level.HIGH.rank or question == asked
    assert sum(counts.values()) == len(drawn)
