"""Which rules can match at all: found by what each of them needs, so that cost hardly grows with their number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from watchdogd.match import syntax

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from watchdogd.match.subject import RecordSubject, Subject

_COMMON = {"type": 3, "syscall": 2, "SYSCALL": 2, "arch": 2, "success": 2, "nametype": 2, "User": 2}
"""Fields whose value says little: a rule is found by another one if it has one."""
_EXACT_BELOW = 10**15
"""Whole numbers up to here are written the same as integers and as floats."""


class Atom(msgspec.Struct, frozen=True):
    """One value that a rule cannot do without: a whole value, or (`base`) what follows its last slash."""

    field: str
    text: str
    base: bool
    types: frozenset[str] | None = None
    """In the record view: the only record types in which it counts, None for any."""


Atoms = frozenset[Atom]


def find_atoms(body: syntax.RuleBody) -> Atoms | None:
    """Atoms of which the rule needs at least one to match; None where there is no such set."""
    return None if body.condition is None else _of_condition(body.condition, body.detections)


def find_types(detection: syntax.Detection) -> frozenset[str] | None:
    """Record types, in lower case, outside which a detection cannot match; None where it names none."""
    if isinstance(detection, syntax.Test):
        atoms = _of_test(detection) if detection.field == "type" else None
        return None if atoms is None or any(atom.base for atom in atoms) else frozenset(atom.text for atom in atoms)
    found = [find_types(item) for item in detection.items]
    named = [types for types in found if types is not None]
    if detection.every:
        return min(named, key=len, default=None)
    return frozenset().union(*named) if len(named) == len(found) else None


def _of_condition(condition: syntax.Condition, detections: dict[str, syntax.Detection]) -> Atoms | None:
    if isinstance(condition, syntax.Named):
        detection = detections[condition.name]
        atoms, types = _of_detection(detection), find_types(detection)
        return None if atoms is None else frozenset(msgspec.structs.replace(atom, types=types) for atom in atoms)
    if isinstance(condition, syntax.Not):
        return None
    return _join((_of_condition(item, detections) for item in condition.items), every=condition.every)


def _of_detection(detection: syntax.Detection) -> Atoms | None:
    if isinstance(detection, syntax.Test):
        return _of_test(detection)
    return _join((_of_detection(item) for item in detection.items), every=detection.every)


def _of_test(test: syntax.Test) -> Atoms | None:
    if test.field is None or test.negated:
        return None
    field = test.field
    return _join((_of_value(field, value) for value in test.values), every=test.every)


def _of_value(field: str, value: syntax.Value) -> Atoms | None:
    match value:
        case syntax.Text(parts=(str() as whole,)):
            return frozenset({Atom(field, whole.lower(), base=False)})
        case syntax.Text(parts=(syntax.MANY, str() as end)) if not end.endswith("/") and "/" in end:
            return frozenset({Atom(field, end.lower().rpartition("/")[2], base=True)})
        case syntax.Number(number=int() as number) if abs(number) < _EXACT_BELOW:
            return frozenset({Atom(field, str(number), base=False)})
        case syntax.AnyOf():
            return _join((_of_value(field, inner) for inner in value.values), every=False)
    return None


def _join(parts: Iterable[Atoms | None], *, every: bool) -> Atoms | None:
    """`and` keeps the part that says most; `or` needs them all."""
    found = list(parts)
    known = [atoms for atoms in found if atoms is not None]
    if every:
        return min(known, key=_weigh, default=None)
    return frozenset().union(*known) if len(known) == len(found) else None


def _weigh(atoms: Atoms) -> tuple[int, int]:
    return max((_COMMON.get(atom.field, 1) for atom in atoms), default=0), len(atoms)


class Index:
    """Numbers of rules by their atoms. Rules without atoms are always candidates."""

    def __init__(self, atoms_by_number: dict[int, Atoms | None]) -> None:
        self._always = tuple(number for number, atoms in atoms_by_number.items() if atoms is None)
        self._whole: dict[tuple[str, str], set[int]] = {}
        self._base: dict[tuple[str, str], set[int]] = {}
        self._fields: set[str] = set()
        self._fields_by_type: dict[str, set[str]] = {}
        for number, atoms in atoms_by_number.items():
            for atom in atoms or ():
                table = self._base if atom.base else self._whole
                table.setdefault((atom.field, atom.text), set()).add(number)
                for fields in self._fields_of(atom):
                    fields.add(atom.field)

    def _fields_of(self, atom: Atom) -> list[set[str]]:
        if atom.types is None:
            return [self._fields]
        return [self._fields_by_type.setdefault(kind, set()) for kind in atom.types]

    def find(self, subject: Subject) -> set[int]:
        """Candidates of the rules that see one view."""
        found = set(self._always)
        self._look_up(subject, self._fields, found)
        return found

    def find_in_records(self, subjects: Iterable[RecordSubject]) -> set[int]:
        """Candidates of the rules that see records; records of types that no rule names are not even decoded."""
        found = set(self._always)
        for subject in subjects:
            self._look_up(subject, self._fields, found)
            self._look_up(subject, self._fields_by_type.get(subject.folded_type, ()), found)
        return found

    def _look_up(self, subject: Subject, fields: Iterable[str], found: set[int]) -> None:
        whole: Callable[[tuple[str, str]], set[int] | None] = self._whole.get
        base = self._base.get
        for field in fields:
            for text in subject.folded(field):
                if numbers := whole((field, text)):
                    found |= numbers
                if numbers := base((field, text.rpartition("/")[2])):
                    found |= numbers
