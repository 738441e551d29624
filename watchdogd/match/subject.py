"""What a rule is held against: one view of an event, or one raw record, with its values in the forms tests need."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from watchdogd.entities import VOLATILE_FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from watchdogd.entities import AuditRecord, FieldTriple, FieldValue, View


class Subject(Protocol):
    """Values by field name. A field may have several values; any of them may satisfy a test."""

    def values(self, field: str) -> tuple[FieldValue, ...]:
        """Every value of a field, None among them; empty where the field is absent."""

    def plain(self, field: str) -> tuple[str, ...]:
        """Every value as text."""

    def folded(self, field: str) -> tuple[str, ...]:
        """Every value as text case-folded."""

    def lines(self) -> tuple[str, ...]:
        """Text that keywords are sought in, one piece for each line or value."""

    def folded_lines(self) -> tuple[str, ...]:
        """As `lines`, case-folded."""


class SourceSubject(Subject, Protocol):
    """A subject that correlations read."""

    def shown(self, field: str) -> tuple[FieldValue, ...]:
        """Every value in the one form to count and group by: interpreted where there is one."""


class _Texts:
    """The forms of each field, made when first asked for."""

    __slots__ = ("_folded", "_folded_lines", "_lines", "_plain")

    def __init__(self) -> None:
        self._plain: dict[str, tuple[str, ...]] | None = None
        self._folded: dict[str, tuple[str, ...]] | None = None
        self._lines: tuple[str, ...] | None = None
        self._folded_lines: tuple[str, ...] | None = None

    def values(self, field: str) -> tuple[FieldValue, ...]:
        raise NotImplementedError

    def find_lines(self) -> Iterable[str]:
        raise NotImplementedError

    def plain(self, field: str) -> tuple[str, ...]:
        """Every value as text."""
        known = self._plain
        if known is None:
            known = self._plain = {}
        texts = known.get(field)
        if texts is None:
            texts = tuple([show_value(value) for value in self.values(field) if value is not None])
            known[field] = texts
        return texts

    def folded(self, field: str) -> tuple[str, ...]:
        """Every value as text case-folded."""
        known = self._folded
        if known is None:
            known = self._folded = {}
        texts = known.get(field)
        if texts is None:
            found = [show_value(value).casefold() for value in self.values(field) if value is not None]
            texts = known[field] = tuple(found)
        return texts

    def lines(self) -> tuple[str, ...]:
        """Text that keywords are sought in."""
        if self._lines is None:
            self._lines = tuple(self.find_lines())
        return self._lines

    def folded_lines(self) -> tuple[str, ...]:
        """As `lines`, case-folded."""
        if self._folded_lines is None:
            self._folded_lines = tuple([text.casefold() for text in self.lines()])
        return self._folded_lines


class ViewSubject(_Texts):
    """One view of an event; keywords are sought in the event's raw lines and in the view's values."""

    __slots__ = ("_fields", "_records")

    def __init__(self, view: View, records: tuple[AuditRecord, ...] = ()) -> None:
        super().__init__()
        self._fields = view.fields
        self._records = records

    def values(self, field: str) -> tuple[FieldValue, ...]:
        """Every value of a field."""
        if field not in self._fields:
            return ()
        value = self._fields[field]
        return value if isinstance(value, tuple) else (value,)

    def shown(self, field: str) -> tuple[FieldValue, ...]:
        """As `values`: a view has one form of each."""
        return self.values(field)

    def find_lines(self) -> Iterable[str]:
        """Lines first, then the values."""
        for record in self._records:
            yield show_bytes(record.line)
        for field in self._fields:
            yield from self.plain(field)


class RecordSubject(_Texts):
    """One raw audit record under auditd's names, `type` included; both raw and interpreted values are values.

    A name in upper case (`SYSCALL`, `AUID`) is auditd's own way to ask for the interpreted value alone. Keywords are
    sought in the line as written, and in values that the line holds in hex (a PROCTITLE's command line).
    """

    __slots__ = ("_record", "type")

    def __init__(self, record: AuditRecord) -> None:
        self._record = record
        self.type = record.type
        self._plain = self._folded = self._lines = self._folded_lines = None

    @property
    def pieces(self) -> tuple[bytes, ...]:
        """See `AuditRecord.pieces`."""
        return self._record.pieces

    def values(self, field: str) -> tuple[FieldValue, ...]:
        """Every value of a field, raw before interpreted."""
        if field == "type":
            return (self.type,)
        if not self._record.may_have(field):
            return ()
        found: tuple[str, ...] = ()
        for name, raw, interpreted in self._record.fields:
            if name == field:
                found += (raw,) if raw == interpreted else (raw, interpreted)
        if found or not field.isupper():
            return found
        return tuple([interpreted for name, _, interpreted in self._record.fields if name.upper() == field])

    def shown(self, field: str) -> tuple[FieldValue, ...]:
        """Every interpreted value of a field."""
        if field == "type":
            return (self.type,)
        found = tuple([interpreted for name, _, interpreted in self._record.fields if name == field])
        return found or self.values(field)

    def find_lines(self) -> Iterable[str]:
        """Return the line, then what it holds in another form."""
        yield show_bytes(self._record.line)
        yield from find_hidden_text(self.type, self._record.fields)


class GroupSubject(_Texts):
    """A correlation that holds, as the correlations above it see it: the group's values and the number."""

    __slots__ = ("_fields",)

    def __init__(self, fields: Mapping[str, str]) -> None:
        super().__init__()
        self._fields = fields

    def values(self, field: str) -> tuple[FieldValue, ...]:
        """The field's one value."""
        return (self._fields[field],) if field in self._fields else ()

    def shown(self, field: str) -> tuple[FieldValue, ...]:
        """As `values`."""
        return self.values(field)

    def find_lines(self) -> Iterable[str]:
        """All values."""
        return self._fields.values()


def find_hidden_text(kind: str, fields: Iterable[FieldTriple]) -> Iterator[str]:
    """Values that a record of type `kind` holds in another form, above all in hex: keywords are sought in them, too."""
    volatile = VOLATILE_FIELDS.get(kind, ())
    for name, raw, interpreted in fields:
        if interpreted == raw or name in volatile or raw.startswith('"'):
            continue
        if len(raw) > len(interpreted) or "\\x" in interpreted:  # escaped bytes make a text longer than its hex
            yield interpreted


def show_value(value: FieldValue) -> str:
    """Return a value as rules compare it: a whole number without its fraction."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:  # noqa: PLR2004 - beyond, e-notation
        return str(int(value))
    return str(value)


def show_bytes(line: bytes) -> str:
    r"""Return a raw line as text; bytes that are not UTF-8 become `\xNN`."""
    return line.decode("utf-8", "backslashreplace")
