"""Whether a record satisfies a selection, remembered by the pieces of its line that the selection can depend on."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from watchdogd.entities import VOLATILE_FIELDS
from watchdogd.match import syntax
from watchdogd.match.index import find_types
from watchdogd.match.memory import Memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from watchdogd.match.compile import Compiled
    from watchdogd.match.memory import Budget
    from watchdogd.match.subject import RecordSubject

_JOINED = frozenset({"SYSCALL"})
"""Records of which one piece may say what another means, or what lies between them: i386's socketcall does."""


def ask_records(compiled: Compiled, budget: Budget) -> Callable[[Sequence[Any]], bool]:
    """One record must satisfy the whole selection; another selection may find another record."""
    holds = compiled.holds
    types = find_types(compiled.detection)
    memory = Memory()
    budget.members.append(memory)
    names = set(list_fields(compiled.detection))
    asked = {name.casefold() for name in names if name is not None}
    changing = {kind for kind, volatile in VOLATILE_FIELDS.items() if not volatile.isdisjoint(asked)} | _JOINED
    recallable = None not in names

    def hold(subject: RecordSubject) -> bool:
        pieces = subject.pieces if recallable and subject.type not in changing else ()
        if not pieces:
            return holds(subject)
        key = (subject.type, pieces)
        known: bool | None = memory.young.get(key)
        if known is None:
            known = memory.old.get(key)
            if known is None:
                known = holds(subject)
            budget.keep(memory, key, known, sum(map(sys.getsizeof, pieces)))
        return known

    def hold_in_one(subjects: Sequence[RecordSubject]) -> bool:
        for subject in subjects:  # noqa: SIM110 - as in `compile`
            if (types is None or subject.type.casefold() in types) and hold(subject):
                return True
        return False

    return hold_in_one


def list_fields(detection: syntax.Detection) -> Iterator[str | None]:
    """All fields that a detection looks at; None is the line."""
    if isinstance(detection, syntax.Group):
        for item in detection.items:
            yield from list_fields(item)
    else:
        yield detection.field
        yield from _list_others(detection.values)


def _list_others(values: Sequence[syntax.Value]) -> Iterator[str]:
    for value in values:
        if isinstance(value, syntax.OtherField):
            yield value.field
        elif isinstance(value, syntax.AnyOf):
            yield from _list_others(value.values)
