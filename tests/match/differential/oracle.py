"""The second opinion: rules as SQL, made by pysigma-backend-sqlite, asked of events as rows.

Two forms. `ask_rows` takes the backend as it is, over columns of one value each. `Recorded` is for what is really
logged, where a field has several values: there each test that the backend converts is asked of each (`AnyValue`).
"""

from __future__ import annotations

import copy
import json
import re
import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from sigma.backends.sqlite.sqlite import sqliteBackend
from sigma.collection import SigmaCollection
from sigma.processing.pipeline import ProcessingItem, ProcessingPipeline
from sigma.processing.transformations import ValueListPlaceholderTransformation
from sigma.rule import SigmaRule
from sigma.types import SigmaCIDRExpression, SigmaExists, SigmaExpansion, SigmaFieldReference, SigmaNull

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from sigma.conversion.state import ConversionState

    from watchdogd.entities import AuditRecord, View

Scalar = str | int | float | None
LINES = "raw lines"


@contextmanager
def open_database() -> Iterator[sqlite3.Connection]:
    """In memory, with Python's `re` behind REGEXP."""

    def search(pattern: str, text: Scalar) -> bool:
        return text is not None and re.search(pattern, str(text), re.ASCII) is not None

    with closing(sqlite3.connect(":memory:")) as database:
        database.create_function("REGEXP", 2, search, deterministic=True)
        yield database


def make_pipeline(placeholders: Mapping[str, Sequence[Scalar]]) -> ProcessingPipeline:
    """Placeholders are filled in by pySigma."""
    return ProcessingPipeline(
        items=[ProcessingItem(ValueListPlaceholderTransformation())],
        vars={name: list(values) for name, values in placeholders.items()},
    )


def make_backend(placeholders: Mapping[str, Sequence[Scalar]] | None = None, **options: object) -> sqliteBackend:
    """The backend as it is."""
    pipeline = make_pipeline(placeholders or {})
    return sqliteBackend(pipeline, fulltext_field=LINES, collate_nocase=True, **options)  # type: ignore[no-untyped-call]


def fill_table(
    database: sqlite3.Connection, columns: Mapping[str, str], rows: Sequence[Mapping[str, Scalar]], table: str = "logs"
) -> None:
    """One row for each event, `rowid` from 1 on. `columns`: name to SQLite's type."""
    database.execute(f"DROP TABLE IF EXISTS {table}")
    declared = ", ".join(f'"{name}" {kind}' for name, kind in columns.items())
    database.execute(f"CREATE TABLE {table} ({declared})")
    marks = ", ".join("?" for _ in columns)
    database.executemany(f"INSERT INTO {table} VALUES ({marks})", [[row.get(name) for name in columns] for row in rows])


def convert(backend: sqliteBackend, rule: Mapping[str, Any]) -> list[str]:
    """Conditions of a rule in SQL; any will do. Raises SigmaError."""
    parsed = SigmaRule.from_dict(copy.deepcopy(dict(rule)))
    queries: list[str] = backend.convert(SigmaCollection([parsed]))
    return [query.partition(" WHERE ")[2] for query in queries]


def ask_rows(
    database: sqlite3.Connection, rule: Mapping[str, Any], placeholders: Mapping[str, Sequence[Scalar]]
) -> set[int]:
    """Numbers of the rows that satisfy the rule, from 1 on."""
    backend = make_backend(placeholders)
    where = " OR ".join(f"({query})" for query in convert(backend, rule))
    return {number for (number,) in database.execute(f"SELECT rowid FROM logs WHERE {where}")}


class AnyValue(sqliteBackend):
    """Each test is asked of each value of a field. Values are text; what reads as a number is one, too."""

    compare_op_expression = (
        "CASE WHEN {field} GLOB '[0-9+-]*' AND NOT {field} GLOB '*[^0-9.+-]*' THEN CAST({field} AS REAL) END "
        "{operator} {value}"
    )

    def __init__(self) -> None:
        super().__init__(fulltext_field=LINES, collate_nocase=True)  # type: ignore[no-untyped-call]
        self._inside: dict[str, str] = {}

    def escape_and_quote_field(self, field: str) -> str:
        return self._inside.get(field) or str(super().escape_and_quote_field(field))  # type: ignore[no-untyped-call]

    def convert_condition_field_eq_val(self, cond: Any, state: ConversionState) -> Any:  # noqa: ANN401 - pySigma's
        value = cond.value
        if isinstance(value, SigmaExpansion | SigmaCIDRExpression) or self._inside:
            return super().convert_condition_field_eq_val(cond, state)
        names = [cond.field, *([value.field] if isinstance(value, SigmaFieldReference) else [])]
        self._inside = {name: f"v{place}.value" for place, name in enumerate(names)}
        try:
            test = super().convert_condition_field_eq_val(cond, state)
        finally:
            self._inside = {}
        sources = ", ".join(f"json_each(payload, {path_of(name)}) v{place}" for place, name in enumerate(names))
        if isinstance(value, SigmaNull) or (isinstance(value, SigmaExists) and not value.exists):
            return f"(NOT EXISTS (SELECT 1 FROM {sources} WHERE NOT ({test})))"
        return f"(EXISTS (SELECT 1 FROM {sources} WHERE {test}))"

    def convert_condition_field_eq_val_num(self, cond: Any, state: ConversionState) -> Any:  # noqa: ANN401 - pySigma's
        del state
        return f"{self.escape_and_quote_field(cond.field)} = '{cond.value.number}'"

    def convert_condition_val(self, cond: Any, state: ConversionState) -> Any:  # noqa: ANN401 - pySigma's
        if self._inside:
            return super().convert_condition_val(cond, state)
        self._inside = {LINES: "v0.value"}
        try:
            test = super().convert_condition_val(cond, state)
        finally:
            self._inside = {}
        return f"(EXISTS (SELECT 1 FROM json_each(payload, {path_of(LINES)}) v0 WHERE {test}))"


def path_of(name: str) -> str:
    """Where a field stands in the payload, as SQL text."""
    return "'$.\"" + name.replace("'", "''") + "\"'"


class Recorded:
    """Events that were logged: their views and records as rows."""

    def __init__(self, database: sqlite3.Connection) -> None:
        """In a database that is empty."""
        self._database = database
        self._database.execute("CREATE TABLE logs (event INTEGER, category TEXT, payload TEXT)")
        self._database.execute("CREATE INDEX by_category ON logs (category)")

    def add(self, number: int, category: str, payload: Mapping[str, Sequence[Scalar]]) -> None:
        """One view or record of the event of that number."""
        self._database.execute("INSERT INTO logs VALUES (?, ?, ?)", (number, category, json.dumps(payload)))

    def ask_views(self, rule: Mapping[str, Any], category: str) -> set[int]:
        """Events of which one view satisfies the whole rule."""
        where = " OR ".join(f"({query})" for query in convert(AnyValue(), rule))
        return self._find("logs", f"category = '{category}' AND ({where})")

    def ask_records(self, rule: Mapping[str, Any]) -> set[int]:
        """Events in which some record satisfies each selection: one flag for each, then the rule over the flags."""
        detection = rule["detection"]
        names = [name for name in detection if name != "condition"]
        columns = []
        for place, name in enumerate(names):
            alone = {**rule, "detection": {"only": detection[name], "condition": "only"}}
            where = " OR ".join(f"({query})" for query in convert(AnyValue(), alone))
            columns.append(f"MAX(COALESCE(({where}), 0)) AS flag{place}")
        flags = {name: {f"flag{place}": 1} for place, name in enumerate(names)}
        over = {**rule, "detection": {**flags, "condition": detection["condition"]}}
        having = " OR ".join(f"({query})" for query in convert(make_backend(), over))
        grouped = f"(SELECT event, {', '.join(columns)} FROM logs WHERE category = 'auditd' GROUP BY event)"
        return self._find(grouped, having)

    def _find(self, source: str, where: str) -> set[int]:
        return {number for (number,) in self._database.execute(f"SELECT DISTINCT event FROM {source} WHERE {where}")}


def flatten_view(view: View, lines: Iterable[str]) -> dict[str, list[Scalar]]:
    """All values of a view as text; its event's lines and they are what keywords are sought in."""
    payload: dict[str, list[Scalar]] = {}
    for name, value in view.fields.items():
        values = value if isinstance(value, tuple) else (value,)
        payload[name] = [None if one is None else _show(one) for one in values]
    texts = [text for values in payload.values() for text in values if text is not None]
    return {**payload, LINES: [*lines, *texts]}


def flatten_record(record: AuditRecord, hidden: Callable[..., Iterable[str]]) -> dict[str, list[Scalar]]:
    """A record's values, raw and interpreted; in upper case the interpreted ones. `hidden`: what is there in hex."""
    payload: dict[str, list[Scalar]] = {"type": [record.type]}
    upper: dict[str, list[Scalar]] = {}
    for name, raw, interpreted in record.fields:
        if name != "type":
            payload.setdefault(name, []).extend(dict.fromkeys((raw, interpreted)))
            upper.setdefault(name.upper(), []).append(interpreted)
    line = record.line.decode("utf-8", "backslashreplace")
    return {**upper, **payload, LINES: [line, *hidden(record.type, record.fields)]}


def _show(value: str | float) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
