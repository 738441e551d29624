"""Which rules can match at all: found by what each of them needs, so that cost hardly grows with their number.

Of every rule one set of atoms is kept, of which an event must hold at least one: whole values and names behind the
last slash are looked up by hash, parts of values are all sought at once by one automaton (RE2::Set, linear time).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import re2

from watchdogd.match import syntax

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from watchdogd.match.subject import RecordSubject, Subject

_COMMON = frozenset({"type", "syscall", "SYSCALL", "arch", "success", "nametype", "User", "Syscall", "metric"})
"""Fields whose whole value says little: a rule is found by something else if it can be."""
_EXACT_BELOW = 10**15
"""Whole numbers up to here are written the same as integers and as floats."""
_AUTOMATON_BYTES = 256 << 20
"""Upper bound, not what is taken; RE2 needs room for 20 states or it refuses (which is checked)."""
_LONG_CHARS = 5

WHOLE, BASE, PART = "whole", "base", "part"


class Atom(msgspec.Struct, frozen=True):
    """Something a rule cannot do without: a whole value, what follows its last slash, or any part of it."""

    field: str | None
    """None: the raw lines."""
    text: str
    kind: str
    types: frozenset[str] | None = None
    """In the record view: the only record types in which it counts, None for any."""


Atoms = frozenset[Atom]


def find_atoms(body: syntax.RuleBody) -> Atoms | None:
    """Atoms of which the rule needs at least one to match; None where there is no such set."""
    return None if body.condition is None else _of_condition(body.condition, body.detections)


def find_types(detection: syntax.Detection) -> frozenset[str] | None:
    """Record types, case-folded, outside which a detection cannot match; None where it names none."""
    if isinstance(detection, syntax.Test):
        atoms = _of_test(detection) if detection.field == "type" else None
        if atoms is None or any(atom.kind != WHOLE for atom in atoms):
            return None
        return frozenset(atom.text for atom in atoms)
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
    if test.negated:
        return None
    return _join((_of_value(test.field, value) for value in test.values), every=test.every)


def _of_value(field: str | None, value: syntax.Value) -> Atoms | None:
    match value:
        case syntax.AnyOf():
            return _join((_of_value(field, inner) for inner in value.values), every=False)
        case syntax.Number(number=int() as number) if abs(number) < _EXACT_BELOW:
            return frozenset({Atom(field, str(number), WHOLE if field else PART)})
        case syntax.Text(parts=(str() as whole,)) if field is not None:
            return frozenset({Atom(field, whole.casefold(), WHOLE)})
        case syntax.Text(parts=(syntax.MANY, str() as end)) if field and "/" in end and not end.endswith("/"):
            return frozenset({Atom(field, end.casefold().rpartition("/")[2], BASE)})
        case syntax.Text():
            literal = max((part for part in value.parts if isinstance(part, str)), key=len, default="")
            return frozenset({Atom(field, literal.casefold(), PART)}) if literal else None
    return None


def _join(parts: Iterable[Atoms | None], *, every: bool) -> Atoms | None:
    """`and` keeps the part that says most; `or` needs them all."""
    found = list(parts)
    known = [atoms for atoms in found if atoms is not None]
    if every:
        return min(known, key=_weigh, default=None)
    return frozenset().union(*known) if len(known) == len(found) else None


def _weigh(atoms: Atoms) -> tuple[int, int]:
    """How little the atoms say: the worst of them counts, then their number."""
    return max((_weigh_atom(atom) for atom in atoms), default=0), len(atoms)


def _weigh_atom(atom: Atom) -> int:
    if atom.field in _COMMON:
        return 4
    if atom.kind == PART:
        return 2 if len(atom.text) >= _LONG_CHARS else 3
    return 1


class _Parts:
    """Finds which of many texts occur in a text, all in one pass."""

    def __init__(self, numbers_by_text: dict[str, set[int]]) -> None:
        self._numbers = list(numbers_by_text.values())
        options = re2.Options()
        options.literal = True
        options.never_capture = True
        options.log_errors = False
        options.max_mem = _AUTOMATON_BYTES
        self._set = re2.Set.SearchSet(options)
        for text in numbers_by_text:
            self._set.Add(_encode(text))
        self._set.Compile()
        self._works = all(place in (self._set.Match(_encode(text)) or ()) for place, text in enumerate(numbers_by_text))

    def find(self, text: str, found: set[int]) -> None:
        """Add the rules whose text occurs; all of them where RE2 has refused to build the automaton."""
        places: Iterable[int] = self._set.Match(_encode(text)) or () if self._works else range(len(self._numbers))
        for place in places:
            found |= self._numbers[place]


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


class _Table:
    """What is looked up in one field."""

    def __init__(self) -> None:
        self.whole: dict[str, set[int]] = {}
        self.base: dict[str, set[int]] = {}
        self.part: dict[str, set[int]] = {}
        self.parts: _Parts | None = None

    def add(self, atom: Atom, number: int) -> None:
        tables = {WHOLE: self.whole, BASE: self.base, PART: self.part}
        tables[atom.kind].setdefault(atom.text, set()).add(number)

    def close(self) -> None:
        if self.part:
            self.parts = _Parts(self.part)

    def find(self, texts: Sequence[str], found: set[int]) -> None:
        for text in texts:
            if self.whole and (numbers := self.whole.get(text)):
                found |= numbers
            if self.base and (numbers := self.base.get(text.rpartition("/")[2])):
                found |= numbers
            if self.parts is not None:
                self.parts.find(text, found)


class Index:
    """Numbers of rules by their atoms. Rules without atoms are always candidates."""

    def __init__(self, atoms_by_number: dict[int, Atoms | None]) -> None:
        self._always = tuple(number for number, atoms in atoms_by_number.items() if atoms is None)
        self._tables: dict[str, dict[str, _Table]] = {}
        """By record type, "" for any; then by field."""
        self._lines = _Table()
        for number, atoms in atoms_by_number.items():
            for atom in atoms or ():
                for table in self._tables_of(atom):
                    table.add(atom, number)
        for table in (self._lines, *(table for tables in self._tables.values() for table in tables.values())):
            table.close()

    def _tables_of(self, atom: Atom) -> list[_Table]:
        field = atom.field
        if field is None:
            return [self._lines]
        return [self._tables.setdefault(kind, {}).setdefault(field, _Table()) for kind in atom.types or ("",)]

    def find(self, subject: Subject) -> set[int]:
        """Candidates of the rules that see one view."""
        found = set(self._always)
        self._look_up(subject, "", found)
        if self._lines.parts is not None:
            self._lines.parts.find("\n".join(subject.folded_lines()), found)
        return found

    def find_in_records(self, subjects: Sequence[RecordSubject]) -> set[int]:
        """Candidates of the rules that see records; records of types that no rule names are not even decoded."""
        found = set(self._always)
        for subject in subjects:
            self._look_up(subject, "", found)
            self._look_up(subject, subject.folded_type, found)
        if self._lines.parts is not None:
            self._lines.parts.find("\n".join(line for subject in subjects for line in subject.folded_lines()), found)
        return found

    def _look_up(self, subject: Subject, kind: str, found: set[int]) -> None:
        tables = self._tables.get(kind)
        if tables is not None:
            for field, table in tables.items():
                table.find(subject.folded(field), found)
