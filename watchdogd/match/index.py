"""What a rule cannot do without: of each of these sets of atoms an event must hold at least one.

`lookup` finds rules by them, so that cost hardly grows with the number of rules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import re2

from watchdogd.entities import VOLATILE_FIELDS
from watchdogd.match import syntax
from watchdogd.match.compile import TRUTHS

if TYPE_CHECKING:
    from collections.abc import Sequence

_COMMON = frozenset({"type", "arch", "success", "nametype", "User", "metric"})
"""Fields whose whole value says little: a rule is found by something else if it can be."""
_CALLS = frozenset({"syscall", "SYSCALL", "Syscall"})
_VOLATILE = VOLATILE_FIELDS["SYSCALL"]
_EXACT_BELOW = 10**15
"""Whole numbers up to here are written the same as integers and as floats."""
_LONG_CHARS = 5

_WORD = r"(?:[0-9a-f]{1,16}|-?[0-9]{0,20}|i?t?e?m?s?|it?e?m?|p{0,2}i?d?|a[0-3]?)"
_HEADER = "type= msg=audit(.:): "
_IN_HEADER = re2.compile(r"(?s)(?:|\(|.*t\()[0-9.:]*[0-9][0-9.:]*(?:|\)|\):|\): .*)")
_IN_CALL = re2.compile(rf"(?s)(?:|e?x?i?t?=|.*exit=|.*a0=){_WORD}(?:[ =]{_WORD})*(?:|au|aui|auid|auid=.*)")
_IN_PATH = re2.compile(r"(?s)(?:|i?n?o?d?e?=|.*inode=)[0-9]+(?:| d?e?v?=?| dev=.*)")
"""Case-folded texts of which a part, or all, may lie in the volatile text of a line: they are believed to be there."""

WHOLE, BASE, PART, PATTERN = "whole", "base", "part", "pattern"


class Atom(msgspec.Struct, frozen=True):
    """A whole value, what follows its last slash, any part of it (all three case-folded), or a regular expression."""

    field: str | None
    """None: the raw lines."""
    text: str
    kind: str
    types: frozenset[str] | None = None
    """In the record view: the only record types in which it counts, None for any."""


Atoms = frozenset[Atom]


def find_clauses(body: syntax.RuleBody) -> tuple[Atoms, ...]:
    """Sets of atoms; the rule needs at least one atom of each to match. The set that says most comes first."""
    if body.condition is None:
        return ()
    return tuple(sorted(dict.fromkeys(_of_condition(body.condition, body.detections)), key=_weigh))


def find_types(detection: syntax.Detection) -> frozenset[str] | None:
    """Record types, case-folded, outside which a detection cannot match; None where it names none."""
    if isinstance(detection, syntax.Test):
        clauses = _of_test(detection) if detection.field == "type" else []
        named = [atoms for atoms in clauses if all(atom.kind == WHOLE for atom in atoms)]
        return frozenset(atom.text for atom in min(named, key=len)) if named else None
    found = [find_types(item) for item in detection.items]
    named_types = [types for types in found if types is not None]
    if detection.every:
        return min(named_types, key=len, default=None)
    return frozenset().union(*named_types) if len(named_types) == len(found) else None


def _of_condition(condition: syntax.Condition, detections: dict[str, syntax.Detection]) -> list[Atoms]:
    if isinstance(condition, syntax.Named):
        return _of_detection(detections[condition.name])
    if isinstance(condition, syntax.Not):
        return []
    return _join([_of_condition(item, detections) for item in condition.items], every=condition.every)


def _of_detection(detection: syntax.Detection) -> list[Atoms]:
    """One record must satisfy all of a map: where it names types, the rest counts in records of those alone."""
    if isinstance(detection, syntax.Test):
        clauses = _of_test(detection)
    else:
        clauses = _join([_of_detection(item) for item in detection.items], every=detection.every)
    types = find_types(detection)
    if types is None:
        return clauses
    return [frozenset(_narrow(atom, types) for atom in atoms) for atoms in clauses]


def _narrow(atom: Atom, types: frozenset[str]) -> Atom:
    return msgspec.structs.replace(atom, types=types if atom.types is None else atom.types & types)


def _of_test(test: syntax.Test) -> list[Atoms]:
    if test.negated:
        return []
    return _join([_of_value(test.field, value) for value in test.values], every=test.every)


def _of_value(field: str | None, value: syntax.Value) -> list[Atoms]:
    if isinstance(value, syntax.AnyOf):
        return _join([_of_value(field, inner) for inner in value.values], every=False)
    atoms = _read_value(field, value)
    return [atoms] if atoms else []


def _read_value(field: str | None, value: syntax.Value) -> Atoms | None:  # noqa: PLR0911 - one for each type
    match value:
        case syntax.Number(number=int() as number) if abs(number) < _EXACT_BELOW:
            return frozenset({Atom(field, str(number), WHOLE if field else PART)})
        case syntax.Truth() if field is not None:
            return frozenset(Atom(field, text, WHOLE) for text in TRUTHS[value.value])
        case syntax.Pattern() if field is not None:
            return frozenset({Atom(field, value.pattern, PATTERN)})
        case syntax.Text(parts=(str() as whole,)) if field is not None:
            return frozenset({Atom(field, whole.casefold(), WHOLE)})
        case syntax.Text(parts=(syntax.MANY, str() as end)) if field and "/" in end and not end.endswith("/"):
            return frozenset({Atom(field, end.casefold().rpartition("/")[2], BASE)})
        case syntax.Text():
            literal = max((part for part in value.parts if isinstance(part, str)), key=len, default="")
            return frozenset({Atom(field, literal.casefold(), PART)}) if literal else None
    return None


def _join(parts: Sequence[list[Atoms]], *, every: bool) -> list[Atoms]:
    """`and` keeps all sets; `or` takes one set of each part, the one that says most."""
    if every:
        return [atoms for part in parts for atoms in part]
    if not parts or not all(parts):
        return []
    return [frozenset().union(*(min(part, key=_weigh) for part in parts))]


def _weigh(atoms: Atoms) -> tuple[int, int]:
    """How little the atoms say: the worst of them counts, then their number."""
    return max((_weigh_atom(atom) for atom in atoms), default=0), len(atoms)


def _weigh_atom(atom: Atom) -> int:
    if may_be_volatile(atom, "SYSCALL") or (
        atom.field in _VOLATILE and (atom.types is None or "syscall" in atom.types)
    ):
        return 5
    if atom.field in _COMMON:
        return 4
    if atom.field in _CALLS or atom.kind == PATTERN:
        return 3
    if atom.kind == PART:
        return 2 if len(atom.text) >= _LONG_CHARS else 3
    return 1


def may_be_volatile(atom: Atom, kind: str) -> bool:
    """True where a record of that type might hold the atom in text that `AuditRecord.pieces` leave out."""
    if atom.field is not None:
        return False
    if atom.text in _HEADER or _IN_HEADER.fullmatch(atom.text):
        return True
    pattern = {"SYSCALL": _IN_CALL, "PATH": _IN_PATH}.get(kind)
    return pattern is not None and pattern.fullmatch(atom.text) is not None
