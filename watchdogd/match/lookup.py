"""Which rules can match at all, so that cost hardly grows with their number.

Each rule has up to three sets of atoms (`index`), of which an event must hold one atom each. Whole values and names
behind the last slash are looked up by hash, parts of values are all sought at once by one automaton (RE2::Set, linear
time), patterns by RE2's own filter. What a text holds is remembered: values come again and again.

What is remembered depends on nothing but the text it is remembered by, and is bounded in bytes.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, NamedTuple

from watchdogd.entities import VOLATILE_FIELDS
from watchdogd.match.index import PART, may_be_volatile
from watchdogd.match.memory import Budget, Memory, Recent
from watchdogd.match.subject import show_bytes, show_value
from watchdogd.match.tables import Masks, Parts, Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from watchdogd.entities import AuditRecord, FieldTriple, FieldValue, Likeness, View
    from watchdogd.match.index import Atoms

_KINDS_LIMIT = 512
"""More types of records than there are: an attacker made them up."""
_NEVER_AGAIN = frozenset({"SYSCALL"})
"""Records that hold a pid: no whole body comes again."""
PIDS = frozenset({"ProcessId", "ParentProcessId"})
"""What views of equal likeness differ in."""
_NUMBER_TEXT = re.compile(r"[a-z0-9_|,()/.: -]*")
_REGISTER_TEXT = re.compile(r"[a-z0-9_|,]*")
"""What a number's interpretation may hold, case-folded: names of errors; names of flags and the like."""


class _Field(Memory):
    """One field of a view."""

    __slots__ = ("name", "table")

    def __init__(self, name: str, table: Table) -> None:
        super().__init__()
        self.name = name
        self.table = table


class ViewIndex:
    """Rules that see views of one category."""

    def __init__(self, clauses_by_number: Mapping[int, Sequence[Atoms]]) -> None:
        self._masks = Masks(clauses_by_number)
        tables: dict[str | None, Table] = {}
        for atom, mask in self._masks.atoms.items():
            tables.setdefault(atom.field, Table()).add(atom, mask)
        for table in tables.values():
            table.close()
        self._lines = tables.pop(None, None)
        self._fields = [_Field(name, table) for name, table in tables.items() if name is not None]
        self.is_steady = self._lines is None and PIDS.isdisjoint(tables)
        """Whether it finds the same in views of equal likeness."""
        self._budget = Budget()
        self._budget.members += self._fields

    def find(self, view: View, records: Sequence[AuditRecord]) -> Sequence[int]:
        """Numbers of the rules that the view may satisfy."""
        found = 0
        get = view.fields.get
        for field in self._fields:
            value = get(field.name)
            if value is None:
                continue
            if isinstance(value, tuple):
                for one in value:
                    if one is not None:
                        found |= self._look_up(field, one)
                continue
            mask = field.young.get(value) if value.__class__ is str else None
            found |= self._look_up(field, value) if mask is None else mask
        if self._lines is not None:
            found |= self._find_in_lines(self._lines, view, records)
        return self._masks.list_rules(found)

    def _look_up(self, field: _Field, value: FieldValue) -> int:
        text = show_value(value)
        mask: int | None = field.young.get(text)
        if mask is None:
            mask = field.old.get(text)
            if mask is None:
                mask = field.table.find(text)
            self._budget.keep(field, text, mask, sys.getsizeof(text))
        return mask

    def _find_in_lines(self, lines: Table, view: View, records: Sequence[AuditRecord]) -> int:
        found = 0
        for record in records:
            found |= lines.find(show_bytes(record.line))
        for value in view.fields.values():
            for one in value if isinstance(value, tuple) else (value,):
                if one is not None:
                    found |= lines.find(show_value(one))
        return found


class _Kind(Memory):
    """Records of one type: `constant` are the bits of all, `bodies` remembers whole bodies where some come again."""

    __slots__ = ("bodies", "constant", "idle", "parts", "tables", "upper", "words")

    def __init__(self, constant: int, tables: dict[str, list[Table]], parts: dict[int, list[_Part]]) -> None:
        super().__init__()
        self.constant = constant
        self.tables = tables
        self.parts = parts
        self.upper = any(field.isupper() for field in tables)
        self.idle = not (tables or parts)
        self.bodies: Memory | None = None
        self.words = Memory()
        """Bits of single fields."""


class _Part(NamedTuple):
    """Where a part counts: in one field (None: in the line), of one type of record ("" for any)."""

    field: str | None
    kind: str
    mask: int


class RecordIndex:
    """Rules that see raw records. Records of types that no rule asks for are not even decoded.

    Parts of all fields and lines are sought at once; what was found is then sought in its field.
    """

    def __init__(self, clauses_by_number: Mapping[int, Sequence[Atoms]]) -> None:
        self._masks = Masks(clauses_by_number)
        self._tables: dict[str, dict[str, Table]] = {}
        """By record type, "" for any; then by field."""
        parts: dict[str, list[_Part]] = {}
        for atom, mask in self._masks.atoms.items():
            for kind in atom.types if atom.types is not None and atom.field is not None else ("",):
                if atom.kind == PART:
                    parts.setdefault(atom.text, []).append(_Part(atom.field, kind, mask))
                if atom.field is not None:
                    self._tables.setdefault(kind, {}).setdefault(atom.field, Table()).add(atom, mask)
        for tables in self._tables.values():
            for table in tables.values():
                table.close_whole()
        self._parts = list(parts.values())
        self._texts = list(parts)
        self._automaton = Parts(self._texts)
        self._kinds: dict[str, _Kind] = {}
        self._budget = Budget()
        self._bodies = Budget()
        self._alike = Recent()

    def find_alike(self, records: Sequence[AuditRecord], likeness: Likeness) -> Sequence[int]:
        """As `find`, remembered by the likeness of the records' event."""
        numbers: Sequence[int] | None = self._alike.find(likeness)
        if numbers is None:
            numbers = self.find(records)
            self._alike.keep(likeness, numbers)
        return numbers

    def find(self, records: Sequence[AuditRecord]) -> Sequence[int]:
        """Numbers of the rules that the records may satisfy."""
        found = 0
        kinds = self._kinds
        for record in records:
            kind = kinds.get(record.type) or self._open(record.type)
            if kind.constant:
                found |= kind.constant
            if kind.idle:
                continue
            mask = None if kind.bodies is None else kind.bodies.young.get(record.body)
            if mask is None:
                mask = self._find_in_pieces(kind, record)
            if mask:
                found |= mask
        return self._masks.list_rules(found)

    def _find_in_pieces(self, kind: _Kind, record: AuditRecord) -> int:
        pieces = record.pieces
        if not pieces:
            return self._read(kind, record.fields, show_bytes(record.line))
        found = 0
        for piece in pieces:
            mask = kind.young.get(piece)
            found |= self._look_up(kind, record, piece) if mask is None else mask
        if kind.bodies is not None and len(pieces) > 1:
            body = record.body
            self._bodies.keep(kind.bodies, body, found, sys.getsizeof(body))
        return found

    def _open(self, name: str) -> _Kind:
        if len(self._kinds) >= _KINDS_LIMIT:
            self._kinds.clear()
            self._budget, self._bodies = Budget(), Budget()
        folded = name.casefold()
        tables: dict[str, list[Table]] = {}
        for kind in ("", folded):
            for field, table in self._tables.get(kind, {}).items():
                tables.setdefault(field, []).append(table)
        constant = self._find_constant(name, tables)
        parts = {
            place: here
            for place, every in enumerate(self._parts)
            if (here := [part for part in every if part.kind in {"", folded} and part.field != "type"])
        }
        asked = {field: [table for table in found if table.has_whole] for field, found in tables.items()}
        opened = self._kinds[name] = _Kind(constant, {field: found for field, found in asked.items() if found}, parts)
        self._budget.members += (opened, opened.words)
        if name not in VOLATILE_FIELDS:
            opened.bodies = opened
        elif name not in _NEVER_AGAIN:
            opened.bodies = Memory()
            self._bodies.members.append(opened.bodies)
        return opened

    def _find_constant(self, name: str, tables: dict[str, list[Table]]) -> int:
        """Bits that all records of a type have, or might have in what is volatile."""
        folded = name.casefold()
        constant = 0
        for table in tables.pop("type", ()):
            constant |= table.find_whole(name)
            for text, mask in table.part.items():
                if text in folded:
                    constant |= mask
        for field in VOLATILE_FIELDS.get(name, ()):
            possible = _NUMBER_TEXT if field == "exit" else _REGISTER_TEXT
            for table in (*tables.get(field, ()), *tables.get(field.upper(), ())):
                constant |= table.find_possible(possible)
        header = f"type={folded} msg=audit(0.0:0): "
        for atom, mask in self._masks.atoms.items():
            if atom.field is None and (atom.text in header or may_be_volatile(atom, name)):
                constant |= mask
        return constant

    def _look_up(self, kind: _Kind, record: AuditRecord, piece: bytes) -> int:
        mask: int | None = kind.old.get(piece)
        if mask is None:
            triples = record.read_piece(piece)
            if triples is None:
                return self._masks.all
            mask = self._read(kind, triples, f"): {show_bytes(piece)}") & ~kind.constant
        self._budget.keep(kind, piece, mask, sys.getsizeof(piece))
        return mask

    def _read(self, kind: _Kind, triples: Sequence[FieldTriple], line: str) -> int:
        """Bits of all that the fields hold, and of what the line holds, be it in another form."""
        found = 0
        texts = [line]
        tables, known = kind.tables, kind.words.young.get
        for triple in triples:
            field, raw, interpreted = triple
            if field in tables or (kind.upper and field.upper() in tables):
                mask = known(triple)
                found |= self._read_field(kind, triple) if mask is None else mask
            if interpreted != raw and raw[1:-1] != interpreted:
                texts.append(interpreted)
        text = line if len(texts) == 1 else "\n".join(texts)
        for place in self._automaton.find(text.casefold()):
            for part in kind.parts.get(place, ()):
                if part.field is None or _holds(triples, part.field, self._texts[place]):
                    found |= part.mask
        return found

    def _read_field(self, kind: _Kind, triple: FieldTriple) -> int:
        """Bits of whole values, names and patterns; parts are sought elsewhere."""
        found: int | None = kind.words.old.get(triple)
        if found is None:
            field, raw, interpreted = triple
            found = 0
            tables = kind.tables.get(field, [])
            for table in (*tables, *kind.tables.get(field.upper(), ())) if kind.upper else tables:
                if table.sees_quotes or raw[:1] != '"':
                    found |= table.find_whole(raw)
                if interpreted != raw:
                    found |= table.find_whole(interpreted)
        if kind.bodies is kind:  # words of other records are mostly new
            self._budget.keep(kind.words, triple, found, sum(map(sys.getsizeof, triple)))
        return found


def _holds(triples: Sequence[FieldTriple], field: str, text: str) -> bool:
    """Whether a field of that name, be it in the other case, holds the case-folded text."""
    is_upper = field.isupper()
    for name, raw, interpreted in triples:
        is_asked = name == field or (is_upper and name.upper() == field)
        if is_asked and (text in raw.casefold() or text in interpreted.casefold()):
            return True
    return False
