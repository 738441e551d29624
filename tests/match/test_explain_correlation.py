"""How far each group of a correlation got: it fires where, and only where, one got far enough."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watchdogd.entities import Event, EventId, Level, Rule, View
from watchdogd.errors import Place
from watchdogd.match import syntax
from watchdogd.match.explain_correlation import describe_wanted, explain_correlation
from watchdogd.match.syntax import RuleSet

TIME_MS = 1_700_000_000_000
PLACE = Place("made.yml", 1, 1)


def make_set(
    kind: str,
    *bounds: tuple[str, float],
    names: str = "ab",
    restriction: syntax.Restriction | None = None,
    percentile: float | None = None,
) -> RuleSet:
    """A correlation over rules that look for a word in `Tag`, by `User`, within 10 s."""
    bodies = tuple(
        syntax.RuleBody(
            Rule(name, f"Rule {name}", Level.LOW),
            PLACE,
            "process_creation",
            {"sel": syntax.Test("Tag", (syntax.Text((name,)),))},
            syntax.Named("sel"),
            silent=True,
        )
        for name in names
    )
    fields = ("Number",) if kind.startswith("value_") else ()
    restrictions = () if restriction is None else (restriction,)
    correlation = syntax.Correlation(
        Rule("all", "All", Level.HIGH),
        PLACE,
        kind,
        tuple(syntax.Feed(name, name, ("User",), fields, restrictions) for name in names),
        ("User",),
        10_000,
        tuple(syntax.Bound(operator, number) for operator, number in bounds),
        percentile,
    )
    return RuleSet(bodies, correlations=(correlation,))


def make_event(serial: int, second: float, tag: str, user: str = "root", number: float | None = 1) -> Event:
    time_ms = TIME_MS + int(second * 1000)
    view = View("process_creation", "exec", "success", {"Tag": tag, "User": user, "Number": number})
    return Event(EventId("audit", None, time_ms, serial), "audit", views=(view,))


def test_each_group_is_counted_by_itself() -> None:
    events = [make_event(1, 0, "a"), make_event(2, 1, "b", "bin"), make_event(3, 9, "b"), make_event(4, 30, "a")]
    found = explain_correlation(make_set("event_count", ("gte", 2)), "all", events)
    assert (found.wanted, found.timespan_ms, found.counts) == (">= 2 events", 10_000, {"a": 2, "b": 2})
    assert found.fired == ("1700000009.000:3",)
    root, other = found.groups
    assert (root.by, root.reached) == ({"User": "root"}, "2 events by 1700000009.000:3")
    assert [one.event for one in root.contributions] == ["1700000000.000:1", "1700000009.000:3", "1700000030.000:4"]
    assert (other.by, other.reached) == ({"User": "bin"}, "1 event by 1700000001.000:2")


@pytest.mark.parametrize(
    ("ruleset", "wanted", "reached"),
    [
        (make_set("value_count", ("gt", 1)), "> 1: different values of Number", "2 different values"),
        (make_set("value_sum", ("gte", 9)), ">= 9: sum of Number", "a sum of 9"),
        (make_set("value_avg", ("gte", 5)), ">= 5: avg of Number", "an average of 7"),
        (make_set("value_median", ("gte", 5)), ">= 5: median of Number", "a median of 7"),
        (make_set("value_percentile", ("gte", 5), percentile=90), ">= 5: percentile of Number", "a percentile of 7"),
        (make_set("temporal"), "each of a, b", "2 of 2 rules (seen: b, a)"),
        (make_set("temporal", ("gte", 1)), ">= 1 of a, b", "2 of 2 rules (seen: b, a)"),
        (make_set("temporal_ordered"), "each of a, b in this order", "1 of 2 rules in order (seen: b)"),
    ],
)
def test_every_kind_says_what_it_reached(ruleset: RuleSet, wanted: str, reached: str) -> None:
    events = [make_event(1, 0, "b", number=7), make_event(2, 1, "a", number=2)]
    found = explain_correlation(ruleset, "all", events)
    assert found.wanted == wanted == describe_wanted(ruleset.correlations[0])
    assert found.groups[0].reached.startswith(reached)


def test_what_only_the_end_of_the_window_tells() -> None:
    found = explain_correlation(
        make_set("event_count", ("lt", 3)), "all", [make_event(1, 0, "a"), make_event(2, 1, "a")]
    )
    assert found.fired == ("1700000001.000:2",)


def test_a_filter_on_the_correlation_counts() -> None:
    daemon = syntax.Restriction(
        {"it": syntax.Test("User", (syntax.Text(("daemon",)),))}, syntax.Not(syntax.Named("it"))
    )
    events = [make_event(1, 0, "a", "daemon"), make_event(2, 1, "a", "daemon"), make_event(3, 2, "a")]
    found = explain_correlation(make_set("event_count", ("gte", 2), restriction=daemon), "all", events)
    assert (found.fired, found.counts) == ((), {"a": 1, "b": 0})


def test_a_correlation_over_a_correlation() -> None:
    lower = make_set("event_count", ("gte", 2))
    upper = syntax.Correlation(
        Rule("top", "Top", Level.HIGH),
        PLACE,
        "event_count",
        (syntax.Feed("all", "all", ("User",)),),
        ("User",),
        60_000,
        (syntax.Bound("gte", 2),),
    )
    ruleset = RuleSet(lower.bodies, correlations=(*lower.correlations, upper))
    events = [make_event(number, second, "a") for number, second in enumerate((0, 1, 30, 31))]
    found = explain_correlation(ruleset, "top", events)
    assert (found.counts, found.fired) == ({"all": 2}, ("1700000031.000:3",))
    assert found.groups[0].reached == "2 events by 1700000031.000:3"


EVENTS = st.lists(
    st.tuples(st.integers(0, 40), st.sampled_from("abx"), st.sampled_from(("root", "bin")), st.integers(-3, 5)),
    max_size=14,
)


@settings(max_examples=150, deadline=None)
@given(EVENTS, st.sampled_from(("event_count", "value_count", "value_sum", "value_avg", "temporal")), st.integers(1, 4))
def test_it_fires_where_a_group_got_far_enough(made: list[tuple[int, str, str, int]], kind: str, number: int) -> None:
    events = [make_event(serial, *parts) for serial, parts in enumerate(sorted(made))]
    found = explain_correlation(make_set(kind, ("gte", number)), "all", events)
    assert bool(found.fired) == any(group.reached_number >= number for group in found.groups)
