"""Correlations against a reference that remembers everything and computes anew at each event."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watchdogd.entities import CorrelationRow, Event, EventId, Level, Match, Rule, View
from watchdogd.errors import Place
from watchdogd.match import correlate, syntax
from watchdogd.match.correlate import KEPT_MS, LATE_MS, SETTLED_MS, Correlator, Hit
from watchdogd.match.engine import Engine
from watchdogd.match.library import RuleSet
from watchdogd.match.subject import ViewSubject
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from watchdogd.entities import FieldMap

SPAN_MS = 60_000
PLACE = Place("made here")


def make_rule(name: str) -> Rule:
    return Rule(id=name, title=name.title(), level=Level.HIGH)


def correlation(kind: str, *feeds: str, above: str = "together", **more: Any) -> syntax.Correlation:  # noqa: ANN401 - any of its fields
    group = more.pop("group_by", ("user",))
    fields = more.pop("fields", ())
    made = tuple(syntax.Feed(feed, feed, group, fields, ()) for feed in feeds)
    settings: dict[str, Any] = {"timespan_ms": SPAN_MS, **more}
    return syntax.Correlation(make_rule(above), PLACE, kind, made, group, **settings)


def gte(number: float) -> tuple[syntax.Bound, ...]:
    return (syntax.Bound("gte", number),)


class Bench:
    """Offers events to a correlator and keeps what came of them."""

    def __init__(self, *correlations: syntax.Correlation, rows: Sequence[CorrelationRow] = ()) -> None:
        self.counters = Counters()
        self.correlator = Correlator(correlations, lambda *_: lambda _: True)
        self.correlator.count_in(self.counters)
        self.correlator.restore(rows)
        self.serial = 0

    def hit(self, rule: str, time_ms: int, serial: int | None = None, **fields: Any) -> list[Match]:  # noqa: ANN401 - any of a view's fields
        self.serial += 1
        event_id = EventId("audit_log", None, time_ms, self.serial if serial is None else serial)
        view = View("process_creation", "start", "success", {"user": "ann", **fields})
        event = Event(event_id, "audit_log", views=(view,))
        match = Match(make_rule(rule), (event_id,), {}, "process_creation")
        return self.correlator.offer(event, [Hit(rule, match, (ViewSubject(view),))])

    def hit_several(self, rules: str, time_ms: int, **fields: Any) -> list[Match]:  # noqa: ANN401 - as above
        self.serial += 1
        event_id = EventId("audit_log", None, time_ms, self.serial)
        view = View("process_creation", "start", "success", {"user": "ann", **fields})
        hits = [
            Hit(rule, Match(make_rule(rule), (event_id,), {}, "process_creation"), (ViewSubject(view),))
            for rule in rules
        ]
        return self.correlator.offer(Event(event_id, "audit_log", views=(view,)), hits)

    def advance(self, time_ms: int) -> list[Match]:
        return [firing.match for firing in self.correlator.advance(time_ms)]


def test_event_count_fires_once_and_again_after_a_timespan() -> None:
    bench = Bench(correlation("event_count", "a", bounds=gte(3)))
    fired = [time_s for time_s in range(0, 200, 10) if bench.hit("a", time_s * 1000)]
    assert fired == [20, 80, 140]


def test_event_count_needs_them_within_the_timespan() -> None:
    bench = Bench(correlation("event_count", "a", bounds=gte(3)))
    assert not any(bench.hit("a", time_s * 1000) for time_s in range(0, 1000, 31))


def test_groups_are_apart_and_compare_without_case() -> None:
    bench = Bench(correlation("event_count", "a", bounds=gte(2)))
    assert not bench.hit("a", 0, user="ann")
    assert not bench.hit("a", 1, user="bob")
    (match,) = bench.hit("a", 2, user="ANN")
    assert match.group == ("ann",)
    assert match.fields == {"user": "ann", "count": "2"}
    assert [event.serial for event in match.event_ids] == [1, 3]
    assert match.first_seen_ms == 0


def test_an_event_without_the_groups_field_takes_no_part() -> None:
    bench = Bench(correlation("event_count", "a", bounds=gte(1), group_by=("tty",)))
    assert not bench.hit("a", 0)
    assert bench.hit("a", 1, tty="pts0")


def test_an_event_of_several_values_belongs_to_each_group() -> None:
    bench = Bench(correlation("event_count", "a", bounds=gte(2), group_by=("path",)))
    assert not bench.hit("a", 0, path=("/a", "/b"))
    (match,) = bench.hit("a", 1, path="/b")
    assert match.group == ("/b",)


def test_more_groups_than_one_event_may_have_are_counted() -> None:
    bench = Bench(correlation("event_count", "a", bounds=gte(1), group_by=("path",)))
    assert len(bench.hit("a", 0, path=tuple(f"/{number}" for number in range(20)))) == 16
    assert bench.counters.get("match_correlation_combinations_dropped_total") == 4


def test_the_same_event_counts_once() -> None:
    bench = Bench(correlation("event_count", "a", "b", bounds=gte(2)))
    assert not bench.hit("a", 0, serial=7)
    assert not bench.hit("a", 0, serial=7)
    assert not bench.hit("b", 0, serial=7), "one event that satisfies two rules is one event"
    assert bench.hit("b", 1, serial=8)


def test_value_count_counts_different_values() -> None:
    bench = Bench(correlation("value_count", "a", bounds=gte(3), fields=("host",)))
    hosts = ["x", "X", "y", "y", "z"]
    assert [bool(bench.hit("a", time, host=host)) for time, host in enumerate(hosts)] == [False] * 4 + [True]


def test_temporal_takes_any_order_and_ordered_only_its_own() -> None:
    plain, ordered = Bench(correlation("temporal", "a", "b")), Bench(correlation("temporal_ordered", "a", "b"))
    assert not plain.hit("b", 0)
    assert plain.hit("a", 1)
    assert not ordered.hit("b", 0)
    assert not ordered.hit("a", 1)
    assert ordered.hit("b", 2)


def test_one_event_is_no_sequence() -> None:
    bench = Bench(correlation("temporal_ordered", "a", "b"))
    assert not bench.hit("a", 5, serial=1)
    assert not bench.hit("b", 5, serial=1)
    assert bench.hit("b", 5, serial=2)


def test_an_expression_over_the_rules() -> None:
    named = syntax.Named
    either = syntax.Junction((named("a"), syntax.Junction((named("b"), named("c")), every=False)), every=True)
    bench = Bench(correlation("temporal", "a", "b", "c", expression=either))
    assert not bench.hit("b", 0)
    assert bench.hit("a", 1)


def test_what_did_not_follow_is_known_when_the_timespan_is_over() -> None:
    lonely = syntax.Junction((syntax.Named("a"), syntax.Not(syntax.Named("b"))), every=True)
    bench = Bench(correlation("temporal", "a", "b", expression=lonely))
    assert not bench.hit("a", 0)
    assert not bench.advance(SPAN_MS + SETTLED_MS)
    (match,) = bench.advance(SPAN_MS + SETTLED_MS + 1)
    assert match.group == ("ann",)
    bench.hit("a", 100_000)
    bench.hit("b", 100_001)
    assert not bench.advance(1_000_000)


@pytest.mark.parametrize(
    ("operator", "number", "events", "fires"),
    [
        ("lt", 3, 2, True),
        ("lt", 3, 3, False),
        ("lte", 3, 3, True),
        ("eq", 2, 2, True),
        ("eq", 2, 3, False),
        ("neq", 2, 1, True),
    ],
)
def test_upper_bounds_are_judged_at_the_end(operator: str, number: int, events: int, *, fires: bool) -> None:
    bench = Bench(correlation("event_count", "a", bounds=(syntax.Bound(operator, number),)))
    assert not any(bench.hit("a", time) for time in range(events))
    assert bool(bench.advance(10 * SPAN_MS)) is fires


@pytest.mark.parametrize(
    ("kind", "more", "number"),
    [
        ("value_sum", {}, "16"),
        ("value_avg", {}, "4"),
        ("value_median", {}, "3.5"),
        ("value_percentile", {"percentile": 75.0}, "4.75"),
    ],
)
def test_numbers(kind: str, more: dict[str, Any], number: str) -> None:
    bench = Bench(correlation(kind, "a", bounds=gte(float(number)), fields=("size",), **more))
    found = [bench.hit("a", time, size=size) for time, size in enumerate([2, "3", 4, 7, "no number"])]
    (match,) = found[3]
    assert number in match.fields.values()


def test_chains() -> None:
    below = correlation("event_count", "a", above="burst", bounds=gte(2))
    top = correlation("temporal_ordered", "burst", "b", above="burst then b")
    bench = Bench(below, top)
    bench.hit("a", 0)
    assert [match.rule.id for match in bench.hit("a", 1)] == ["burst"]
    assert [match.rule.id for match in bench.hit("b", 2)] == ["burst then b"]


def test_a_silent_correlation_only_feeds() -> None:
    below = correlation("event_count", "a", above="burst", bounds=gte(2), silent=True)
    bench = Bench(below, correlation("temporal", "burst", "b", above="top"))
    assert not bench.hit("b", 0)
    assert not bench.hit("a", 1)
    assert [match.rule.id for match in bench.hit("a", 2)] == ["top"]


def test_late_events_count_inside_the_window_and_are_counted_outside() -> None:
    bench = Bench(correlation("event_count", "a", bounds=gte(3)))
    bench.hit("a", 100_000)
    bench.hit("a", 60_000)
    assert not bench.hit("a", 39_999)
    assert bench.counters.get("match_correlation_late_total") == 1
    assert bench.hit("a", 50_000)


def test_what_comes_much_too_late_counts_apart() -> None:
    """A clock that was set back, or a log read after a pause while new events come by the other source."""
    bench = Bench(correlation("event_count", "a", bounds=gte(3)))
    bench.hit("a", 10**13)
    bench.hit("a", 10**13 + 1)
    assert not bench.hit("a", 1_000)
    assert not bench.hit("a", 2_000)
    assert bench.hit("a", 10**13 + 2)
    (match,) = bench.hit("a", 3_000)
    assert (match.group, [event.time_ms for event in match.event_ids]) == (("ann",), [1_000, 2_000, 3_000])
    assert bench.counters.snapshot() == {}


def test_a_clock_set_back_twice_begins_anew() -> None:
    bench = Bench(correlation("event_count", "a", bounds=gte(2)))
    bench.hit("a", 2 * 10**13)
    bench.hit("a", 10**13)
    assert not bench.hit("a", 1_000)
    assert bench.hit("a", 2_000)
    assert bench.counters.get("match_correlation_restarts_total") == 1


def test_windows_close_by_the_wall_where_the_clock_was_set_back() -> None:
    bench = Bench(correlation("event_count", "a", bounds=(syntax.Bound("lt", 3),)))
    bench.hit("a", 10**13)
    assert bench.advance(10**13 + 1) == []
    assert not bench.correlator.advance(5 * 10**12, is_wall=True)
    assert [
        f.match.event_ids[-1].time_ms for f in bench.correlator.advance(5 * 10**12 + SPAN_MS * 2, is_wall=True)
    ] == [10**13]


def test_a_log_read_after_a_pause_gives_its_windows_their_time() -> None:
    """Or else what is still unread would be taken for what never happened."""
    rule = correlation("event_count", "a", bounds=(syntax.Bound("lt", 3),))
    before = Bench(rule)
    before.hit("a", 0, serial=1)
    now_ms = 100 * SPAN_MS
    after = Bench(rule)
    after.correlator.restore(before.correlator.take_changes(), now_ms)
    assert after.advance(now_ms + 10_000) == []
    after.hit("a", 1_000, serial=2)
    after.hit("a", 2_000, serial=3)
    after.hit("a", SPAN_MS * 50, serial=4)
    assert after.advance(now_ms + 20_000) == []
    (match,) = after.advance(now_ms + 2 * SPAN_MS + 20_000)
    assert [event.serial for event in match.event_ids] == [4]


def test_an_event_that_satisfies_several_rules_is_judged_once() -> None:
    bench = Bench(correlation("temporal", "a", "b"))
    bench.hit("b", 0)
    assert bench.hit("a", 5_000)
    assert not bench.hit("a", SPAN_MS + 1)
    assert bench.hit_several("ab", SPAN_MS + 5_000)
    assert not bench.hit_several("ab", SPAN_MS + 6_000), "it has held all the time"


def test_a_number_that_two_rules_find_in_one_event_counts_once() -> None:
    bench = Bench(correlation("value_sum", "a", "b", bounds=gte(4), fields=("size",)))
    assert not bench.hit_several("ab", 0, size=2)
    (match,) = bench.hit_several("ab", 1, size=2)
    assert match.fields["sum"] == "4"


def test_what_did_not_fit_shows_in_the_number_and_not_in_what_builds_on_it() -> None:
    below = correlation("event_count", "a", above="burst", bounds=gte(2))
    top = correlation("value_sum", "burst", above="top", bounds=gte(6), fields=("count",))
    bench = Bench(below, top)
    found = [match.fields for time in range(0, 3 * SPAN_MS, 1_000) for match in bench.hit("a", time)]
    assert [fields.get("count", fields.get("sum")) for fields in found] == ["2", "3+", "3+", "6"]


def test_all_windows_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correlate, "ENTRIES_OF_ALL", 20)
    bench = Bench(correlation("value_sum", "a", bounds=gte(1_000), fields=("size",)))
    for number in range(50):
        bench.hit("a", number, user=f"user{number // 5}", size=1)
    assert sum(len(group.window.entries) for group in bench.correlator._running[0].groups.values()) <= 20
    assert bench.counters.get("match_correlation_groups_evicted_total") >= 6


def test_groups_are_bounded_and_evictions_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correlate, "GROUPS_OF_ONE", 10)
    bench = Bench(correlation("event_count", "a", bounds=gte(2)))
    for number in range(15):
        bench.hit("a", number, user=f"user{number}")
    assert bench.counters.get("match_correlation_groups_evicted_total") == 5
    assert not bench.hit("a", 20, user="user0"), "forgotten"
    assert bench.hit("a", 21, user="user14")


def test_quiet_groups_are_forgotten() -> None:
    bench = Bench(correlation("event_count", "a", bounds=gte(2)))
    for number in range(100):
        bench.hit("a", number * 60_000, user=f"user{number}")
    gone = [row for row in bench.correlator.take_changes() if row.state is None]
    assert 80 < len(gone) < 100


def test_groups_are_forgotten_where_nothing_happens_any_more() -> None:
    bench = Bench(correlation("event_count", "a", bounds=gte(2)))
    bench.hit("a", 0)
    assert [row.state is None for row in bench.correlator.take_changes()] == [False]
    bench.correlator.advance(SPAN_MS + KEPT_MS, is_wall=True)
    assert bench.correlator.take_changes() == []
    bench.correlator.advance(SPAN_MS + KEPT_MS + 1, is_wall=True)
    assert [row.state for row in bench.correlator.take_changes()] == [None]


def test_state_survives_and_events_read_again_change_nothing() -> None:
    rule = correlation("event_count", "a", bounds=gte(3))
    before = Bench(rule)
    before.hit("a", 0, serial=1)
    before.hit("a", 1, serial=2)
    rows = before.correlator.take_changes()
    assert before.correlator.take_changes() == []
    after = Bench(rule, rows=rows)
    assert not after.hit("a", 0, serial=1)
    assert not after.hit("a", 1, serial=2)
    (match,) = after.hit("a", 2, serial=3)
    assert [event.serial for event in match.event_ids] == [1, 2, 3]


@pytest.mark.parametrize(
    "nasty", ["\udcff\ud800", "\x00", "nul\x00\x1f", '"\\u0041', "\u202e", "x" * 10_000, "\ufb01\u0130\u00df", ""]
)
def test_whatever_the_text_it_is_kept_over_a_restart(nasty: str) -> None:
    rule = correlation("value_count", "a", bounds=gte(3), fields=("size",))
    before = Bench(rule)
    before.hit("a", 0, user=nasty, size="one")
    before.hit("a", 1, user=nasty, size=nasty)
    after = Bench(rule, rows=before.correlator.take_changes())
    after.serial = 10
    assert not after.hit("a", 2, user=nasty, size=nasty)
    (match,) = after.hit("a", 3, user=nasty, size="three")
    assert match.fields["user"][:256] == nasty[:256]
    gone = Bench(correlation("event_count", "a", bounds=gte(3)))
    gone.correlator.restore(after.correlator.take_changes())
    assert [row.state for row in gone.correlator.take_changes()] == [None]


def test_numbers_beyond_64_bits_are_kept_over_a_restart() -> None:
    rule = correlation("value_sum", "a", bounds=gte(2**81), fields=("size",))
    before = Bench(rule)
    before.hit("a", 0, size=2**80)
    after = Bench(rule, rows=before.correlator.take_changes())
    after.serial = 10
    assert after.hit("a", 1, size=2**80)


def test_long_texts_that_differ_at_their_end_differ() -> None:
    bench = Bench(correlation("event_count", "a", bounds=gte(2)))
    bench.hit("a", 0, user="x" * 10_000 + "1")
    assert not bench.hit("a", 1, user="x" * 10_000 + "2")
    assert bench.hit("a", 2, user="x" * 10_000 + "1")


def test_state_of_another_correlation_is_dropped() -> None:
    before = Bench(correlation("event_count", "a", bounds=gte(3)))
    before.hit("a", 0)
    rows = before.correlator.take_changes()
    after = Bench(correlation("event_count", "a", bounds=gte(2)), rows=rows)
    assert not after.hit("a", 1)
    gone = [row for row in after.correlator.take_changes() if row.state is None]
    assert [row.digest for row in gone] == [rows[0].digest]


def test_a_state_that_cannot_be_read_is_counted() -> None:
    rule = correlation("event_count", "a", bounds=gte(2))
    before = Bench(rule)
    before.hit("a", 0)
    (row,) = before.correlator.take_changes()
    correlator = Correlator([rule], lambda *_: lambda _: True)
    counters = Counters()
    correlator.count_in(counters)
    correlator.restore([CorrelationRow(row.rule_id, row.digest, row.group_key, b"\xff", 0)])
    assert counters.get("match_correlation_states_unread_total") == 1


def test_a_reload_keeps_what_is_the_same() -> None:
    same, other = correlation("event_count", "a", bounds=gte(2)), correlation("temporal", "a", "b", above="other")
    old = Bench(same, other)
    old.hit("a", 0)
    new = Bench(same)
    new.correlator.adopt(old.correlator)
    new.serial = 10
    assert new.hit("a", 1)
    assert any(row.state is None for row in new.correlator.take_changes()), "the state of the other one goes"


def test_engine_reads_fields_where_the_rule_matched() -> None:
    detections: dict[str, syntax.Detection] = {"selection": syntax.Test("Image", (syntax.Text((syntax.MANY, "/ssh")),))}
    body = syntax.RuleBody(
        make_rule("a"), PLACE, "process_creation", detections, syntax.Named("selection"), silent=True
    )
    engine = Engine(RuleSet((body,), (), (correlation("event_count", "a", bounds=gte(2), group_by=("User",)),)))
    found = []
    for serial in range(2):
        fields: FieldMap = {"Image": "/usr/bin/ssh", "User": "ann"}
        event = Event(
            EventId("audit_log", None, serial, serial), "audit_log", views=(View("process_creation", "", "", fields),)
        )
        found.append([match.rule.id for match in engine.judge(event)])
        again = Event(event.id, "audit_log", views=event.views, seen_before=True)
        assert engine.judge(again) == []
    assert found == [[], ["together"]]


# --- the reference ------------------------------------------------------------------------------------------------

FEEDS = ("a", "b", "c")
KINDS = ("event_count", "value_count", "temporal", "temporal_ordered", "value_sum", "value_avg", "value_median")
Offer = tuple[int, int, str, str, int]
"""Time in s, serial, rule, user, value."""


def measure_naively(kind: str, seen: list[Offer]) -> float:  # noqa: PLR0911 - one for each kind
    values = sorted(value for *_, value in {(time, serial, value) for time, serial, _, _, value in seen})
    match kind:
        case "event_count":
            return len({serial for _, serial, *_ in seen})
        case "value_count":
            return len(set(values))
        case "temporal":
            return len({rule for _, _, rule, *_ in seen})
        case "temporal_ordered":
            ordered = sorted(seen)
            chains = (
                length
                for length in range(1, len(FEEDS) + 1)
                for chosen in itertools.combinations(FEEDS, length)
                if occurs_in_order(chosen, ordered)
            )
            return max(chains, default=0)
        case "value_sum":
            return math.fsum(values)
        case "value_avg":
            return math.fsum(values) / len(values)
    middle = len(values) // 2
    return values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2


def occurs_in_order(chosen: tuple[str, ...], ordered: list[Offer]) -> bool:
    waiting, last = list(chosen), -1
    for _, serial, rule, *_ in ordered:
        if waiting and rule == waiting[0] and serial != last:
            waiting.pop(0)
            last = serial
    return not waiting


def fire_naively(kind: str, bound: int, offers: list[Offer]) -> list[int]:
    """Places of the offers at which a correlation fires."""
    seen: dict[str, list[Offer]] = defaultdict(list)
    newest: dict[str, int] = {}
    fired: dict[str, int | None] = {}
    places = []
    for place, offer in enumerate(offers):
        time, _, _, user, _ = offer
        top = newest.get(user, time)
        if time < top - (SPAN_MS + LATE_MS) // 1000:
            user = f"{user}, late"
            top = newest.get(user, time)
        if time < top - SPAN_MS // 1000 or offer in seen[user]:
            continue
        seen[user].append(offer)
        newest[user] = top = max(top, time)
        window = [one for one in seen[user] if one[0] >= top - SPAN_MS // 1000]
        if measure_naively(kind, window) < bound:
            fired[user] = None
            continue
        last = fired.get(user)
        if last is None or top - last >= SPAN_MS // 1000:
            fired[user] = top
            places.append(place)
    return places


@st.composite
def offers(draw: st.DrawFn) -> list[Offer]:
    """Events in nearly the right order, some twice; serials rise with time."""
    times = sorted(draw(st.lists(st.integers(0, 300), min_size=1, max_size=30)))
    made = [
        (time, serial, draw(st.sampled_from(FEEDS)), draw(st.sampled_from("xy")), draw(st.integers(0, 5)))
        for serial, time in enumerate(times)
    ]
    for _ in range(draw(st.integers(0, 5))):
        place = draw(st.integers(0, len(made) - 1))
        made.insert(draw(st.integers(0, len(made))), made[place])
    for _ in range(draw(st.integers(0, 5))):
        place = draw(st.integers(0, len(made) - 1))
        made.insert(max(0, place - draw(st.integers(0, 3))), made.pop(place))
    return made


@given(kind=st.sampled_from(KINDS), bound=st.integers(1, 5), sequence=offers(), restart=st.integers(0, 30))
@settings(deadline=None, max_examples=300)
def test_fires_as_the_reference_does_over_a_restart(kind: str, bound: int, sequence: list[Offer], restart: int) -> None:
    bound = min(bound, 3) if kind.startswith("temporal") else bound
    fields = ("size",) if kind.startswith("value") else ()
    rule = correlation(kind, *FEEDS, bounds=gte(bound), fields=fields)
    bench = Bench(rule)
    rows: dict[str, CorrelationRow] = {}
    places = []
    for place, (time, serial, feed, user, value) in enumerate(sequence):
        if place == restart:
            rows.update((row.group_key, row) for row in bench.correlator.take_changes())
            bench = Bench(rule, rows=[row for row in rows.values() if row.state is not None])
        if bench.hit(feed, time * 1000, serial, user=user, size=value):
            places.append(place)
    assert places == fire_naively(kind, bound, sequence)
