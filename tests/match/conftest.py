"""Rules from text, and events made by hand: what decoding does to a line is another room's test."""

from __future__ import annotations

from textwrap import dedent, indent
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import pytest

from watchdogd.entities import Event, EventId, FieldTriple, Position, View
from watchdogd.match import syntax
from watchdogd.match.engine import Engine
from watchdogd.match.files import find_layers
from watchdogd.match.library import gather_problems
from watchdogd.match.link import link
from watchdogd.match.placeholders import Placeholders, read_placeholders
from watchdogd.match.sigma import read_file

if TYPE_CHECKING:
    from pathlib import Path

RULE_ID = "5f0b3f4e-6a1c-4a53-9a7e-0f6f1f7d1c01"


class HandMadeRecord(msgspec.Struct, frozen=True):
    """An audit record with the fields it is given."""

    type: str
    fields: tuple[FieldTriple, ...]
    line: bytes
    position: Position | None = None
    pieces: tuple[bytes, ...] = ()
    body: bytes = b""

    def may_have(self, name: str) -> bool:
        return bool(name)

    def read_piece(self, piece: bytes) -> tuple[FieldTriple, ...] | None:
        raise NotImplementedError(piece)

    def get(self, name: str) -> str | None:
        return next((raw for field, raw, _ in self.fields if field == name), None)


def make_record(kind: str, line: bytes | None = None, **fields: str | tuple[str, str]) -> HandMadeRecord:
    """A value is raw and interpreted alike, or a pair of them."""
    triples = tuple((name, *((value, value) if isinstance(value, str) else value)) for name, value in fields.items())
    raw = " ".join([f"type={kind}", *(f"{name}={value}" for name, value, _ in triples)])
    return HandMadeRecord(kind, triples, raw.encode("utf-8", "surrogateescape") if line is None else line)


class MakeEvent(Protocol):
    def __call__(self, *parts: HandMadeRecord | View, own: bool = False) -> Event: ...


@pytest.fixture
def make_event() -> MakeEvent:
    def make(*parts: HandMadeRecord | View, own: bool = False) -> Event:
        records = tuple(part for part in parts if isinstance(part, HandMadeRecord))
        views = tuple(part for part in parts if isinstance(part, View))
        identity = EventId("audit", None, 1_700_000_000_000, 7)
        return Event(identity, "audit", records=records, views=views, own=own)

    return make


class MakeRecord(Protocol):
    def __call__(self, kind: str, line: bytes | None = None, **fields: str | tuple[str, str]) -> HandMadeRecord: ...


@pytest.fixture(name="make_record", scope="session")
def make_record_fixture() -> MakeRecord:
    return make_record


class MakeView(Protocol):
    def __call__(self, category: str = "process_creation", /, **fields: Any) -> View: ...  # noqa: ANN401 - odd values are tested


@pytest.fixture
def make_view() -> MakeView:
    def make(category: str = "process_creation", /, **fields: Any) -> View:  # noqa: ANN401 - odd values are tested
        return View(category, "exec", "success", fields)

    return make


def link_folders(
    *folders: Path, overrides: syntax.Overrides | None = None, placeholders: Path | None = None
) -> syntax.RuleSet:
    """Read and link in this process, as `library.load_rules` does with another one."""
    layers, problems = find_layers(folders)
    values = Placeholders() if placeholders is None else read_placeholders(placeholders)
    read = [[read_file(path, values) for path in layer] for layer in layers]
    return link([*read, gather_problems(folders, read, problems)], overrides or syntax.Overrides())


class WriteRule(Protocol):
    def __call__(
        self, detection: str, *, source: str = ..., name: str = ..., rule_id: str = ..., more: str = ...
    ) -> Path: ...


@pytest.fixture
def write_rule(tmp_path: Path) -> WriteRule:
    """Writes a rule file around a detection."""

    def write(
        detection: str,
        *,
        source: str = "{product: linux, category: process_creation}",
        name: str = "rule.yml",
        rule_id: str = RULE_ID,
        more: str = "",
    ) -> Path:
        path = tmp_path / "rules" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f"title: A rule\nid: {rule_id}\nlevel: medium\nlogsource: {source}\n{dedent(more)}"
            f"detection:\n{indent(dedent(detection).strip(), '  ')}\n",
            encoding="utf-8",
        )
        return path

    return write


class MakeEngine(Protocol):
    def __call__(self, detection: str, *, source: str = ...) -> Engine: ...


@pytest.fixture
def make_engine(write_rule: WriteRule) -> MakeEngine:
    """An engine of one rule."""

    def make(detection: str, *, source: str = "{product: linux, category: process_creation}") -> Engine:
        ruleset = link_folders(write_rule(detection, source=source).parent)
        assert ruleset.warnings == ()
        return Engine(ruleset)

    return make
