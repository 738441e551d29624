"""Holds events against rules."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from watchdogd.entities import LazyFields, LazyViews, Match, View
from watchdogd.match import syntax
from watchdogd.match.compile import (
    Compiled,
    compile_body,
    compile_detection,
    forget_patterns,
    join_all,
    join_any,
)
from watchdogd.match.correlate import Correlator, Hit
from watchdogd.match.evidence import collect_fields, find_names
from watchdogd.match.index import find_clauses
from watchdogd.match.lookup import PIDS, RecordIndex, ViewIndex
from watchdogd.match.memory import Budget, Recent
from watchdogd.match.recall import ask_records, list_fields
from watchdogd.match.subject import RecordSubject, ViewSubject

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from watchdogd.entities import Event, Likeness, Rule
    from watchdogd.match.correlate import Firing
    from watchdogd.match.index import Atoms
    from watchdogd.match.library import RuleSet
    from watchdogd.match.subject import SourceSubject, Subject

    Holds: TypeAlias = Callable[[Sequence[Subject]], bool]


_NOT_AUDITS = frozenset({"JOURNAL"})
"""Types of records that rules of `service: auditd`, and those without a log source, do not see."""
_CATEGORIES_LIMIT = 64
"""More sets of categories than there are."""


class _Judged(NamedTuple):
    """A rule ready to judge; `positive` are the detections that stand without `not`."""

    rule: Rule
    holds: Holds
    positive: tuple[Compiled, ...]
    silent: bool
    """Only correlations hear of it."""
    steady: bool
    """It sees the same in views of equal likeness."""


class Engine:
    """Rules ready to judge, and what their correlations have seen. A reload builds another one and swaps it in."""

    def __init__(self, ruleset: RuleSet) -> None:
        """Compile every active rule. Raises ValueError where RE2 refuses a pattern (the reader checks that)."""
        views = {body.rule.id: body.view for body in ruleset.bodies}

        def restrict(rule_id: str, restriction: syntax.Restriction) -> Holds:
            return compile_restriction(restriction, views.get(rule_id, ""))

        self.correlator = Correlator(ruleset.correlations, restrict)
        self._fed = self.correlator.fed_by
        self._rules: list[_Judged] = []
        self._recalled = Budget()
        self._far = Recent()
        """Likenesses of events that satisfy no rule, and whose views are alike, too: they need not be made."""
        clauses: dict[str, dict[int, tuple[Atoms, ...]]] = {}
        for body in ruleset.bodies:
            if body.view and body.condition is not None:
                clauses.setdefault(body.view, {})[len(self._rules)] = find_clauses(body)
                self._rules.append(_compile_rule(body, body.condition, self._recalled))
        of_records = clauses.pop(syntax.RECORDS, None)
        self._records = None if of_records is None else RecordIndex(of_records)
        self._views = {view: ViewIndex(by_number) for view, by_number in clauses.items()}
        self._by_categories: dict[frozenset[str], tuple[ViewIndex, ...]] = {}
        forget_patterns()

    def judge(self, event: Event) -> list[Match]:
        """All rules that the event satisfies, in the order of the set, each once. Events of our own are not judged."""
        if event.own:
            return []
        likeness = event.likeness
        is_known = likeness is not None and _tell_likeness(event.views) is likeness
        if is_known and self._far.find(likeness):
            return []
        matches: dict[int, Match] = {}
        hits: list[Hit] = []
        records = event.records
        numbers: Sequence[int] = ()
        if self._records is not None and records and records[0].type not in _NOT_AUDITS:
            numbers = self._records.find(records) if likeness is None else self._records.find_alike(records, likeness)
            if numbers:
                self._judge_records(event, numbers, matches, hits)
        is_far = not self._may_see(event) or self._judge_views(event, matches, hits)
        if not matches:
            if is_known and is_far and not numbers:
                self._far.keep(likeness, value=True)
            return []
        found = [matches[number] for number in sorted(matches) if not self._rules[number].silent]
        if hits and not event.seen_before:
            found += self.correlator.offer(event, hits)
        return found

    def advance(self, time_ms: int, *, is_wall: bool = False) -> list[Firing]:
        """Correlations that hold because the window of their events has passed at this time (see Correlator)."""
        return self.correlator.advance(time_ms, is_wall=is_wall) if is_wall or self.correlator.waits else []

    def finish(self) -> list[Firing]:
        """Correlations that hold because there will be no more events."""
        return self.correlator.finish() if self.correlator.waits else []

    def _judge_records(self, event: Event, numbers: Sequence[int], matches: dict[int, Match], hits: list[Hit]) -> None:
        subjects = [RecordSubject(record) for record in event.records]
        for number in numbers:
            self._hold(number, event, syntax.RECORDS, subjects, matches, hits)

    def _may_see(self, event: Event) -> bool:
        """False where no view of the event can satisfy a rule, which the outline of its views shows without them."""
        categories = event.categories
        if categories is None:
            return True
        indexes = self._by_categories.get(categories)
        if indexes is None:
            indexes = tuple(index for view, index in self._views.items() if view in categories)
            if len(self._by_categories) < _CATEGORIES_LIMIT:
                self._by_categories[categories] = indexes
        if not indexes:
            return False
        views = event.views
        outline = views.outline if isinstance(views, LazyViews) and views.likeness is None else None
        if outline is None:
            return True
        everything = View("", "", "", outline)
        return any(index.find(everything, event.records) for index in indexes)

    def _judge_views(self, event: Event, matches: dict[int, Match], hits: list[Hit]) -> bool:
        """True where no view satisfies any rule, and no view of equal likeness does."""
        is_far = True
        for view in event.views:
            index = self._views.get(view.category)
            if index is None:
                continue
            numbers = index.find(view, event.records)
            is_far = is_far and index.is_steady
            if numbers:
                is_far = is_far and all(self._rules[number].steady for number in numbers)
                subject = ViewSubject(view, event.records)
                for number in numbers:
                    if number not in matches:
                        self._hold(number, event, view.category, [subject], matches, hits)
        return is_far and not matches

    def _hold(
        self,
        number: int,
        event: Event,
        category: str,
        subjects: Sequence[SourceSubject],
        matches: dict[int, Match],
        hits: list[Hit],
    ) -> None:
        judged = self._rules[number]
        if judged.holds(subjects):
            fields = LazyFields(partial(_collect, judged.positive, subjects))
            match = matches[number] = Match(judged.rule, (event.id,), fields, category)
            if judged.rule.id in self._fed:
                hits.append(Hit(judged.rule.id, match, _put_first(judged.positive, subjects)))


def _compile_rule(body: syntax.RuleBody, condition: syntax.Condition, recalled: Budget) -> _Judged:
    detections = compile_body(body)
    if body.view == syntax.RECORDS:
        asks = {name: ask_records(compiled, recalled) for name, compiled in detections.items()}
    else:
        asks = {name: _ask_view(compiled) for name, compiled in detections.items()}
    positive = tuple(detections[name] for name in dict.fromkeys(find_names(condition)))
    asked = {name for compiled in detections.values() for name in list_fields(compiled.detection)}
    steady = None not in asked and PIDS.isdisjoint(asked)
    return _Judged(body.rule, _compile_condition(condition, asks), positive, body.silent, steady)


def compile_restriction(restriction: syntax.Restriction, view: str) -> Holds:
    """Compile a filter that acts on what a correlation takes from one rule, of that view."""
    detections = {name: compile_detection(detection) for name, detection in restriction.detections.items()}
    if view == syntax.RECORDS:
        asks = {name: ask_records(found, Budget()) for name, found in detections.items()}
    else:
        asks = {name: _ask_view(found) for name, found in detections.items()}
    return _compile_condition(restriction.condition, asks)


def _tell_likeness(views: Sequence[View]) -> Likeness | None:
    return views.likeness if isinstance(views, LazyViews) else None


def _collect(positive: Sequence[Compiled], subjects: Sequence[SourceSubject]) -> dict[str, str]:
    """Fields of a match; those of records are named by the record's type, too."""
    return collect_fields(
        positive,
        [(f"{subject.type}." if isinstance(subject, RecordSubject) else "", subject) for subject in subjects],
    )


def _put_first(positive: Sequence[Compiled], subjects: Sequence[SourceSubject]) -> Sequence[SourceSubject]:
    """The records that satisfy a selection before the others: a correlation reads its fields there."""
    if len(subjects) == 1:
        return subjects
    return sorted(subjects, key=lambda subject: not any(compiled.holds(subject) for compiled in positive))


def _compile_condition(condition: syntax.Condition, asks: dict[str, Holds]) -> Holds:
    if isinstance(condition, syntax.Named):
        return asks[condition.name]
    if isinstance(condition, syntax.Not):
        inner = _compile_condition(condition.item, asks)
        return lambda subjects: not inner(subjects)
    items = [_compile_condition(item, asks) for item in condition.items]
    if len(items) == 1:
        return items[0]
    return join_all(items) if condition.every else join_any(items)


def _ask_view(compiled: Compiled) -> Holds:
    """One view must satisfy the whole rule: it is the only subject."""
    holds = compiled.holds
    return lambda subjects: holds(subjects[0])
