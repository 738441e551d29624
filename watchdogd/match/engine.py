"""Holds events against rules."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from watchdogd.entities import Match
from watchdogd.match import syntax
from watchdogd.match.compile import Compiled, compile_body
from watchdogd.match.evidence import collect_fields, find_names
from watchdogd.match.index import find_clauses, find_types
from watchdogd.match.lookup import RecordIndex, ViewIndex
from watchdogd.match.subject import RecordSubject, ViewSubject

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from watchdogd.entities import Event, Rule
    from watchdogd.match.index import Atoms
    from watchdogd.match.library import RuleSet
    from watchdogd.match.subject import Subject

    Holds: TypeAlias = Callable[[Sequence[Subject]], bool]


class _Judged(NamedTuple):
    """A rule ready to judge; `positive` are the detections that stand without `not`."""

    rule: Rule
    holds: Holds
    positive: tuple[Compiled, ...]


class Engine:
    """Immutable once built: a reload builds another one and swaps the reference."""

    def __init__(self, ruleset: RuleSet) -> None:
        """Compile every active rule. Raises ValueError where RE2 refuses a pattern (the reader checks that)."""
        self._rules: list[_Judged] = []
        clauses: dict[str, dict[int, tuple[Atoms, ...]]] = {}
        for body in ruleset.bodies:
            if body.view and body.condition is not None:
                clauses.setdefault(body.view, {})[len(self._rules)] = find_clauses(body)
                self._rules.append(_compile_rule(body, body.condition))
        of_records = clauses.pop(syntax.RECORDS, None)
        self._records = None if of_records is None else RecordIndex(of_records)
        self._views = {view: ViewIndex(by_number) for view, by_number in clauses.items()}

    def judge(self, event: Event) -> list[Match]:
        """All rules that the event satisfies, in the order of the set, each once. Events of our own are not judged."""
        if event.own:
            return []
        matches: dict[int, Match] = {}
        records = event.records
        if self._records is not None and records:
            numbers = self._records.find(records)
            if numbers:
                self._judge_records(event, numbers, matches)
        if event.categories is None or not self._views.keys().isdisjoint(event.categories):
            for view in event.views:
                index = self._views.get(view.category)
                numbers = () if index is None else index.find(view, records)
                if numbers:
                    subject = ViewSubject(view, records)
                    for number in numbers:
                        if number not in matches:
                            self._hold(number, event, view.category, [("", subject)], matches)
        return [matches[number] for number in sorted(matches)] if matches else []

    def _judge_records(self, event: Event, numbers: Sequence[int], matches: dict[int, Match]) -> None:
        subjects = [RecordSubject(record) for record in event.records]
        named = [(f"{subject.type}.", subject) for subject in subjects]
        for number in numbers:
            self._hold(number, event, syntax.RECORDS, named, matches)

    def _hold(
        self,
        number: int,
        event: Event,
        category: str,
        named: Sequence[tuple[str, Subject]],
        matches: dict[int, Match],
    ) -> None:
        judged = self._rules[number]
        if judged.holds([subject for _, subject in named]):
            fields = collect_fields(judged.positive, named)
            matches[number] = Match(judged.rule, (event.id,), fields, category)


def _compile_rule(body: syntax.RuleBody, condition: syntax.Condition) -> _Judged:
    detections = compile_body(body)
    types = {name: find_types(detection) for name, detection in body.detections.items()}
    if body.view == syntax.RECORDS:
        asks = {name: _ask_records(compiled, types[name]) for name, compiled in detections.items()}
    else:
        asks = {name: _ask_view(compiled) for name, compiled in detections.items()}
    positive = tuple(detections[name] for name in dict.fromkeys(find_names(condition)))
    return _Judged(body.rule, _compile_condition(condition, asks), positive)


def _compile_condition(condition: syntax.Condition, asks: dict[str, Holds]) -> Holds:
    if isinstance(condition, syntax.Named):
        return asks[condition.name]
    if isinstance(condition, syntax.Not):
        inner = _compile_condition(condition.item, asks)
        return lambda subjects: not inner(subjects)
    items = [_compile_condition(item, asks) for item in condition.items]
    if len(items) == 1:
        return items[0]
    if condition.every:
        return lambda subjects: all(item(subjects) for item in items)
    return lambda subjects: any(item(subjects) for item in items)


def _ask_view(compiled: Compiled) -> Holds:
    """One view must satisfy the whole rule: it is the only subject."""
    holds = compiled.holds
    return lambda subjects: holds(subjects[0])


def _ask_records(compiled: Compiled, types: frozenset[str] | None) -> Holds:
    """One record must satisfy the whole selection; another selection may find another record."""
    holds = compiled.holds
    if types is None:
        return lambda subjects: any(holds(subject) for subject in subjects)
    return lambda subjects: any(holds(subject) for subject in subjects if _folded_type(subject) in types)


def _folded_type(subject: Subject) -> str:
    return subject.folded("type")[0]
