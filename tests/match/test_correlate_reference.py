"""Correlations against a second evaluation: naive, over all events of a group at once, written from the rules' text."""

from __future__ import annotations

import math
import operator
import statistics
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.size import choose_examples
from watchdogd.entities import Event, EventId, FieldMap, Level, Match, Rule, View
from watchdogd.errors import Place
from watchdogd.match import syntax
from watchdogd.match.engine import Engine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

pytestmark = pytest.mark.sampled

CATEGORY = "process_creation"
SPAN_MS = 10_000
TIME_MS = 1_700_000_000_000
PLACE = Place("rules/made.yml")
OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "lt": operator.lt,
    "lte": operator.le,
    "gt": operator.gt,
    "gte": operator.ge,
    "eq": operator.eq,
    "neq": operator.ne,
}
AT_ONCE = ("gt", "gte")


class Made(NamedTuple):
    """An event of the tests: `tags` are the rules that it satisfies."""

    serial: int
    time_ms: int
    tags: tuple[str, ...]
    user: str
    number: int | None

    @property
    def id(self) -> EventId:
        return EventId("audit", None, self.time_ms, self.serial)

    def build(self) -> Event:
        fields: FieldMap = {"Tag": self.tags, "User": self.user, "Number": self.number}
        return Event(self.id, "audit", views=(View(CATEGORY, "exec", "success", fields),))


def make_rule(name: str) -> Rule:
    return Rule(id=name, title=name, level=Level.HIGH, product="linux", category=CATEGORY)


def make_bodies(*names: str) -> tuple[syntax.RuleBody, ...]:
    return tuple(
        syntax.RuleBody(
            rule=make_rule(name),
            place=PLACE,
            view=CATEGORY,
            detections={"selection": syntax.Test("Tag", (syntax.Text((name,)),))},
            condition=syntax.Named("selection"),
            silent=True,
        )
        for name in names
    )


def make_correlation(
    kind: str,
    bounds: Sequence[tuple[str, float]] = (),
    *,
    tags: str = "abc",
    percentile: float | None = None,
    expression: syntax.Condition | None = None,
) -> syntax.Correlation:
    fields = ("Number",) if kind.startswith("value_") else ()
    return syntax.Correlation(
        rule=make_rule("together"),
        place=PLACE,
        kind=kind,
        feeds=tuple(syntax.Feed(tag, tag, ("User",), fields) for tag in tags),
        group_by=("User",),
        timespan_ms=SPAN_MS,
        bounds=tuple(syntax.Bound(name, number) for name, number in bounds),
        percentile=percentile,
        expression=expression,
    )


def find_percentile(numbers: Sequence[float], percentile: float) -> float:
    """Linear between the two nearest ranks, as numpy's default and SQL's `percentile_cont`."""
    ordered = sorted(numbers)
    place = (len(ordered) - 1) * percentile / 100
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    return low + (high - low) * (place - math.floor(place))


def is_in_order(events: Sequence[Made], tags: str) -> bool:
    """Whether events of their own satisfy the rules one after the other."""
    rest = sorted(events, key=lambda made: (made.time_ms, made.serial))
    for tag in tags:
        place = next((number for number, made in enumerate(rest) if tag in made.tags), None)
        if place is None:
            return False
        rest = rest[place + 1 :]
    return True


def measure(correlation: syntax.Correlation, events: Sequence[Made]) -> float | None:  # noqa: PLR0911 - one for each kind
    """The number that the bounds ask about."""
    numbers = [made.number for made in events if made.number is not None]
    match correlation.kind:
        case "event_count":
            return len(events)
        case "value_count":
            return len(set(numbers))
        case "temporal":
            rules = {feed.reference for feed in correlation.feeds}
            return len({tag for made in events for tag in made.tags} & rules)
        case "value_sum":
            return sum(numbers) if numbers else None
        case "value_avg":
            return statistics.fmean(numbers) if numbers else None
        case "value_median":
            return statistics.median(numbers) if numbers else None
    return find_percentile(numbers, correlation.percentile or 0) if numbers else None


def holds(correlation: syntax.Correlation, events: Sequence[Made]) -> bool:
    tags = "".join(feed.reference for feed in correlation.feeds)
    if correlation.expression is not None:
        return evaluate(correlation.expression, {tag for made in events for tag in made.tags})
    if correlation.kind == "temporal_ordered":
        return is_in_order(events, tags)
    number = measure(correlation, events)
    if not correlation.bounds:
        return number == len(tags)
    return number is not None and all(OPERATORS[bound.operator](number, bound.number) for bound in correlation.bounds)


def evaluate(condition: syntax.Condition, seen: set[str]) -> bool:
    if isinstance(condition, syntax.Named):
        return condition.name in seen
    if isinstance(condition, syntax.Not):
        return not evaluate(condition.item, seen)
    answers = [evaluate(item, seen) for item in condition.items]
    return all(answers) if condition.every else any(answers)


def takes_part(correlation: syntax.Correlation, made: Made) -> bool:
    feeds = {feed.reference for feed in correlation.feeds}
    return not feeds.isdisjoint(made.tags) and (not correlation.feeds[0].fields or made.number is not None)


def expect_at_once(correlation: syntax.Correlation, arriving: Sequence[Made]) -> list[tuple[str, int]]:
    """Group and serial of the completing event of each firing, for what is true the moment an event makes it so."""
    found: list[tuple[str, int]] = []
    for group in ("ann", "bob"):
        taken: list[Made] = []
        holding, fired_ms = False, 0
        for made in arriving:
            if made.user.casefold() != group or made in taken or not takes_part(correlation, made):
                continue
            newest_ms = max([made.time_ms, *(other.time_ms for other in taken)])
            if made.time_ms < newest_ms - SPAN_MS:
                continue
            taken.append(made)
            window = [other for other in taken if other.time_ms >= newest_ms - SPAN_MS]
            if not holds(correlation, window):
                holding = False
            elif not holding or newest_ms - fired_ms >= SPAN_MS:
                holding, fired_ms = True, newest_ms
                found.append((group, made.serial))
    return sorted(found)


def expect_at_the_end(correlation: syntax.Correlation, arriving: Sequence[Made]) -> list[tuple[str, int]]:
    """As above, for what only the end of a window can tell; events come in the order of their times."""
    found: list[tuple[str, int]] = []
    for group in ("ann", "bob"):
        events = [made for made in arriving if made.user.casefold() == group and takes_part(correlation, made)]
        while events:
            end_ms = events[0].time_ms + SPAN_MS
            window = [made for made in events if made.time_ms <= end_ms]
            if holds(correlation, list(dict.fromkeys(window))):
                found.append((group, window[-1].serial))
            events = [made for made in events if made.time_ms > end_ms]
    return sorted(found)


def run(correlation: syntax.Correlation, arriving: Sequence[Made]) -> list[tuple[str, int]]:
    engine = Engine(syntax.RuleSet(make_bodies("a", "b", "c"), correlations=(correlation,)))
    matches: list[Match] = []
    for made in arriving:
        matches += (firing.match for firing in engine.advance(made.time_ms))
        matches += engine.judge(made.build())
    matches += (firing.match for firing in engine.finish())
    assert all(match.rule.id == "together" for match in matches)
    return sorted((match.fields["User"].casefold(), match.event_ids[-1].serial) for match in matches)


@st.composite
def make_events(draw: st.DrawFn, *, in_order: bool = False) -> list[Made]:
    """Few groups and a short time, so that windows fill; some come late, some twice."""
    seconds = draw(st.lists(st.integers(0, 45), max_size=24))
    if draw(st.booleans()) or in_order:
        seconds.sort()
    events = [
        Made(
            serial,
            TIME_MS + second * 1000,
            tuple(sorted(draw(st.sets(st.sampled_from("abc"), min_size=1, max_size=2)))),
            draw(st.sampled_from(("ann", "Ann", "bob"))),
            draw(st.sampled_from((None, -5, 0, 1, 2, 3, 40))),
        )
        for serial, second in enumerate(seconds, 1)
    ]
    if in_order:
        return events
    for made in draw(st.lists(st.sampled_from(events), max_size=4)) if events else ():
        events.insert(draw(st.integers(events.index(made) + 1, len(events))), made)
    return events


NOT_B = syntax.Junction((syntax.Named("a"), syntax.Not(syntax.Named("b"))), every=True)
A_AND_ONE_OF_THE_OTHERS = syntax.Junction(
    (syntax.Named("a"), syntax.Junction((syntax.Named("b"), syntax.Named("c")), every=False)), every=True
)
KINDS = ("event_count", "value_count", "value_sum", "value_avg", "value_median", "temporal")


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data(), number=st.integers(0, 6), name=st.sampled_from(AT_ONCE))
@settings(deadline=None, max_examples=choose_examples(40))
def test_what_holds_at_once(kind: str, data: st.DataObject, number: int, name: str) -> None:
    correlation = make_correlation(kind, [(name, number)])
    arriving = data.draw(make_events())
    assert run(correlation, arriving) == expect_at_once(correlation, arriving)


@given(arriving=make_events(), percentile=st.sampled_from((0.0, 25.0, 90.0, 99.5, 100.0)), number=st.integers(0, 6))
@settings(deadline=None, max_examples=choose_examples(40))
def test_percentiles(arriving: list[Made], percentile: float, number: int) -> None:
    correlation = make_correlation("value_percentile", [("gte", number)], percentile=percentile)
    assert run(correlation, arriving) == expect_at_once(correlation, arriving)


@pytest.mark.parametrize("kind", ["temporal", "temporal_ordered"])
@given(arriving=make_events(), tags=st.sampled_from(("ab", "abc", "ca")))
@settings(deadline=None, max_examples=choose_examples(40))
def test_rules_that_occur_together(kind: str, arriving: list[Made], tags: str) -> None:
    correlation = make_correlation(kind, tags=tags)
    assert run(correlation, arriving) == expect_at_once(correlation, arriving)


@given(arriving=make_events())
@settings(deadline=None, max_examples=choose_examples(40))
def test_a_condition_over_the_names_of_rules(arriving: list[Made]) -> None:
    correlation = make_correlation("temporal", expression=A_AND_ONE_OF_THE_OTHERS)
    assert run(correlation, arriving) == expect_at_once(correlation, arriving)


@pytest.mark.parametrize("kind", KINDS)
@given(
    arriving=make_events(in_order=True),
    number=st.integers(0, 4),
    name=st.sampled_from(sorted(set(OPERATORS) - set(AT_ONCE))),
    least=st.sampled_from((None, 1)),
)
@settings(deadline=None, max_examples=choose_examples(40))
def test_what_only_the_end_can_tell(kind: str, arriving: list[Made], number: int, name: str, least: int | None) -> None:
    bounds = [(name, number), *([("gte", least)] if least is not None else [])]
    correlation = make_correlation(kind, bounds)
    assert run(correlation, arriving) == expect_at_the_end(correlation, arriving)


@given(arriving=make_events(in_order=True))
@settings(deadline=None, max_examples=choose_examples(40))
def test_what_must_not_happen(arriving: list[Made]) -> None:
    correlation = make_correlation("temporal", tags="ab", expression=NOT_B)
    assert run(correlation, arriving) == expect_at_the_end(correlation, arriving)
