"""Which rules can match at all, so that cost hardly grows with their number.

Each rule has up to three sets of atoms (`index`), of which an event must hold one atom each. Whole values and names
behind the last slash are looked up by hash, parts of values are all sought at once by one automaton (RE2::Set, linear
time), patterns by RE2's own filter. What a text holds is remembered: values come again and again.

Sets of rules are whole numbers with a bit for each rule and each of its sets: a rule is found where all of its bits
are. What is remembered depends on nothing but the text it is remembered by, and is bounded in bytes.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

import re2

from watchdogd.entities import VOLATILE_FIELDS
from watchdogd.match.index import BASE, PART, PATTERN, WHOLE, Atom, may_be_volatile
from watchdogd.match.subject import find_hidden_text, show_bytes, show_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from watchdogd.entities import AuditRecord, FieldTriple, FieldValue, View
    from watchdogd.match.index import Atoms

_DEPTH = 3
"""How many sets of atoms of a rule are asked for; the rule itself is asked in any case."""
_AUTOMATON_BYTES = 256 << 20
"""Upper bound, not what is taken; RE2 needs room for 20 states or it refuses (which is checked)."""
_REMEMBERED_BYTES = 3 << 19
"""Two generations of this size are kept, of records and of each view."""
_REMEMBERED_CHARS = 512
_ENTRY_BYTES = 160
"""What a remembered text takes beside its characters, about."""
_KINDS_LIMIT = 512
"""More types of records than there are: an attacker made them up."""
_NUMBER_TEXT = re.compile(r"[a-z0-9_|,()/.: -]*")
_REGISTER_TEXT = re.compile(r"[a-z0-9_|,]*")
"""What a number's interpretation may hold, case-folded: names of errors; names of flags and the like."""


class Masks:
    """Bits of rules. `lacking` are those of rules with fewer sets of atoms than there is room for."""

    def __init__(self, clauses_by_number: Mapping[int, Sequence[Atoms]]) -> None:
        self._numbers = list(clauses_by_number)
        size = self._size = len(self._numbers)
        self._first = (1 << size) - 1
        self.all = (1 << size * _DEPTH) - 1
        self._lacking = 0
        self.atoms: dict[Atom, int] = {}
        for place, clauses in enumerate(clauses_by_number.values()):
            for level in range(_DEPTH):
                bit = 1 << (level * size + place)
                if level >= len(clauses):
                    self._lacking |= bit
                    continue
                for atom in clauses[level]:
                    self.atoms[atom] = self.atoms.get(atom, 0) | bit
        self._always = self._lacking & self._first

    def list_rules(self, found: int) -> Sequence[int]:
        """Numbers of the rules of which all bits were found."""
        size = self._size
        if not (found & self._first or self._always):
            return ()
        found |= self._lacking
        whole = found & (found >> size) & (found >> 2 * size) & self._first
        numbers = []
        while whole:
            lowest = whole & -whole
            numbers.append(self._numbers[lowest.bit_length() - 1])
            whole ^= lowest
        return numbers


class _Parts:
    """Finds which of many texts occur in a text, all in one pass."""

    def __init__(self, masks: Mapping[str, int]) -> None:
        self._masks = list(masks.values())
        options = re2.Options()
        options.literal = True
        options.never_capture = True
        options.log_errors = False
        options.max_mem = _AUTOMATON_BYTES
        self._set = re2.Set.SearchSet(options)
        for text in masks:
            self._set.Add(_encode(text))
        self._set.Compile()
        self._works = all(place in (self._set.Match(_encode(text)) or ()) for place, text in enumerate(masks))

    def find(self, text: bytes) -> int:
        """Bits of the texts that occur; all of them where RE2 has refused to build the automaton."""
        found = 0
        places: Iterable[int] = self._set.Match(text) or () if self._works else range(len(self._masks))
        for place in places:
            found |= self._masks[place]
        return found


class _Patterns:
    """Finds which of many regular expressions match, sought only where texts occur that they cannot do without."""

    def __init__(self, masks: Mapping[str, int]) -> None:
        self._masks = list(masks.values())
        self._filter = re2.Filter()
        options = re2.Options()
        options.log_errors = False
        for pattern in masks:
            self._filter.Add(pattern, options)
        self._filter.Compile()

    def find(self, text: str) -> int:
        """Bits of the patterns that match; a lone surrogate is matched as `pattern_matcher` does."""
        found = 0
        try:
            encoded = text.encode()
        except UnicodeEncodeError:
            encoded = text.encode("utf-8", "backslashreplace")
        for place in self._filter.Match(encoded) or ():
            found |= self._masks[place]
        return found


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


class _Table:
    """What is looked up in one field."""

    def __init__(self) -> None:
        self.whole: dict[str, int] = {}
        self._base: dict[str, int] = {}
        self._part: dict[str, int] = {}
        self._pattern: dict[str, int] = {}
        self._parts: _Parts | None = None
        self._patterns: _Patterns | None = None

    def add(self, atom: Atom, mask: int) -> None:
        texts = {WHOLE: self.whole, BASE: self._base, PART: self._part, PATTERN: self._pattern}[atom.kind]
        texts[atom.text] = texts.get(atom.text, 0) | mask

    def close(self) -> None:
        self._parts = _Parts(self._part) if self._part else None
        self._patterns = _Patterns(self._pattern) if self._pattern else None

    def find(self, text: str) -> int:
        folded = text.casefold()
        found = self.whole.get(folded, 0)
        if self._base:
            found |= self._base.get(folded.rpartition("/")[2], 0)
        if self._parts is not None:
            found |= self._parts.find(_encode(folded))
        if self._patterns is not None:
            found |= self._patterns.find(text)
        return found

    def find_possible(self, possible: re.Pattern[str]) -> int:
        """Bits of what a number, or its interpretation, might hold; both are of these characters alone."""
        found = 0
        for texts in (self.whole, self._base, self._part):
            for text, mask in texts.items():
                if possible.fullmatch(text):
                    found |= mask
        for mask in self._pattern.values():
            found |= mask
        return found


class _Memory:
    """Bits by text, in two generations: what is not asked for while one of them fills up is forgotten."""

    __slots__ = ("old", "young")

    def __init__(self) -> None:
        self.young: dict[bytes | str, int] = {}
        self.old: dict[bytes | str, int] = {}


class _Budget:
    """Bounds the memories that share it, in bytes."""

    def __init__(self) -> None:
        self._spent = 0
        self.members: list[_Memory] = []

    def keep(self, memory: _Memory, text: bytes | str, mask: int) -> None:
        if len(text) > _REMEMBERED_CHARS:
            return
        self._spent += sys.getsizeof(text) + sys.getsizeof(mask) + _ENTRY_BYTES
        if self._spent > _REMEMBERED_BYTES:
            self._spent = 0
            for member in self.members:
                member.old, member.young = member.young, {}
        memory.young[text] = mask


class _Field(_Memory):
    """One field of a view."""

    __slots__ = ("name", "table")

    def __init__(self, name: str, table: _Table) -> None:
        super().__init__()
        self.name = name
        self.table = table


class ViewIndex:
    """Rules that see views of one category."""

    def __init__(self, clauses_by_number: Mapping[int, Sequence[Atoms]]) -> None:
        self._masks = Masks(clauses_by_number)
        tables: dict[str | None, _Table] = {}
        for atom, mask in self._masks.atoms.items():
            tables.setdefault(atom.field, _Table()).add(atom, mask)
        for table in tables.values():
            table.close()
        self._lines = tables.pop(None, None)
        self._fields = [_Field(name, table) for name, table in tables.items() if name is not None]
        self._budget = _Budget()
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
        mask = field.young.get(text)
        if mask is None:
            mask = field.old.get(text)
            if mask is None:
                mask = field.table.find(text)
            self._budget.keep(field, text, mask)
        return mask

    def _find_in_lines(self, lines: _Table, view: View, records: Sequence[AuditRecord]) -> int:
        found = 0
        for record in records:
            found |= lines.find(show_bytes(record.line))
        for value in view.fields.values():
            for one in value if isinstance(value, tuple) else (value,):
                if one is not None:
                    found |= lines.find(show_value(one))
        return found


class _Kind(_Memory):
    """Records of one type. `constant` are the bits that all of them have."""

    __slots__ = ("constant", "idle", "tables")

    def __init__(self, constant: int, tables: dict[str, list[_Table]], *, idle: bool) -> None:
        super().__init__()
        self.constant = constant
        self.tables = tables
        self.idle = idle


class RecordIndex:
    """Rules that see raw records. Records of types that no rule asks for are not even decoded."""

    def __init__(self, clauses_by_number: Mapping[int, Sequence[Atoms]]) -> None:
        self._masks = Masks(clauses_by_number)
        self._tables: dict[str, dict[str, _Table]] = {}
        """By record type, "" for any; then by field."""
        self._lines = _Table()
        self._has_lines = False
        for atom, mask in self._masks.atoms.items():
            if atom.field is not None:
                for kind in atom.types or ("",):
                    self._tables.setdefault(kind, {}).setdefault(atom.field, _Table()).add(atom, mask)
            else:
                self._lines.add(atom, mask)
                self._has_lines = True
        for table in (self._lines, *(table for tables in self._tables.values() for table in tables.values())):
            table.close()
        self._kinds: dict[str, _Kind] = {}
        self._budget = _Budget()

    def find(self, records: Sequence[AuditRecord]) -> Sequence[int]:
        """Numbers of the rules that the records may satisfy."""
        found = 0
        kinds = self._kinds
        for record in records:
            kind = kinds.get(record.type) or self._open(record.type)
            found |= kind.constant
            if kind.idle:
                continue
            pieces = record.pieces
            for piece in pieces:
                mask = kind.young.get(piece)
                found |= self._look_up(kind, record, piece) if mask is None else mask
            if not pieces:
                found |= self._read(kind, record.type, record.fields, show_bytes(record.line))
        return self._masks.list_rules(found)

    def _open(self, name: str) -> _Kind:
        if len(self._kinds) >= _KINDS_LIMIT:
            self._kinds.clear()
            self._budget = _Budget()
        folded = name.casefold()
        tables: dict[str, list[_Table]] = {}
        for kind in ("", folded):
            for field, table in self._tables.get(kind, {}).items():
                tables.setdefault(field, []).append(table)
        constant = 0
        for table in tables.pop("type", ()):
            constant |= table.find(name)
        for field in VOLATILE_FIELDS.get(name, ()):
            possible = _NUMBER_TEXT if field == "exit" else _REGISTER_TEXT
            for table in (*tables.get(field, ()), *tables.get(field.upper(), ())):
                constant |= table.find_possible(possible)
        if self._has_lines:
            constant |= self._lines.find(f"type={name} msg=audit(0.0:0): ")
            for atom, mask in self._masks.atoms.items():
                if may_be_volatile(atom, name):
                    constant |= mask
        opened = self._kinds[name] = _Kind(constant, tables, idle=not (tables or self._has_lines))
        self._budget.members.append(opened)
        return opened

    def _look_up(self, kind: _Kind, record: AuditRecord, piece: bytes) -> int:
        mask = kind.old.get(piece)
        if mask is None:
            triples = record.read_piece(piece)
            if triples is None:
                return self._masks.all
            mask = self._read(kind, record.type, triples, f"): {show_bytes(piece)}")
        self._budget.keep(kind, piece, mask)
        return mask

    def _read(self, kind: _Kind, name: str, triples: Sequence[FieldTriple], line: str) -> int:
        found = 0
        tables = kind.tables
        if tables:
            for field, raw, interpreted in triples:
                for table in tables.get(field, ()):
                    found |= table.find(raw)
                    if interpreted != raw:
                        found |= table.find(interpreted)
                for table in tables.get(field.upper(), ()):
                    found |= table.find(interpreted)
        if self._has_lines:
            found |= self._lines.find(line)
            for text in find_hidden_text(name, triples):
                found |= self._lines.find(text)
        return found
