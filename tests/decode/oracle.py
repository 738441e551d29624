"""Compares our records with what libauparse 3.0.9 reads out of the same files (data/third_party/auparse_oracle)."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from watchdogd.decode.decoder import Decoder
from watchdogd.entities import Record
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from watchdogd.entities import AuditRecord

Triple = tuple[str, str, str]
EventKey = tuple[str | None, int, int]

USER_NAMES = frozenset(
    "auid uid gid euid suid fsuid egid sgid fsgid ouid ogid old-auid id".split()  # noqa: SIM905 - easier to read
)
"""auparse looked them up on the machine that made the oracle."""


class Difference(NamedTuple):
    """One field that is not the same."""

    file: str
    type: str
    ours: Triple | None
    theirs: Triple | None


class Comparison:
    """What was found over all files."""

    def __init__(self) -> None:
        self.records = 0
        self.missing: list[tuple[str, EventKey, str]] = []
        self.fields = 0
        self.raw: list[Difference] = []
        self.interpreted_fields = 0
        self.interpreted: list[Difference] = []


def compare(folder: Path) -> Comparison:
    """All files of the oracle but those that are interpreted text, which holds no raw records."""
    result = Comparison()
    oracle = folder / "auparse_oracle"
    for expected in sorted(oracle.rglob("*.auparse.jsonl")):
        name = str(expected.relative_to(oracle)).removesuffix(".auparse.jsonl")
        if name.endswith("_enriched.log"):
            continue
        ours = read_ours((folder / name).read_bytes())
        theirs = read_theirs(expected)
        for key, records in theirs.items():
            _compare_event(result, name, key, ours.get(key, []), records)
    return result


def read_ours(data: bytes) -> dict[EventKey, list[tuple[str, list[Triple]]]]:
    """Records by event, in the order of the file."""
    decoder = Decoder(Counters(), live=False)
    lines = [Record("oracle", None, line) for line in data.split(b"\n") if line]
    events = [*decoder.feed(lines, 0).events, *decoder.drain().events]
    found: dict[EventKey, list[tuple[str, list[Triple]]]] = {}
    for event in events:
        key = (event.id.node, event.id.time_ms, event.id.serial)
        found.setdefault(key, []).extend((record.type, list(record.fields)) for record in _shown(event.records))
    return found


def _shown(records: tuple[AuditRecord, ...]) -> Iterator[AuditRecord]:
    """auparse hides EOE."""
    return (record for record in records if record.type != "EOE")


def read_theirs(path: Path) -> dict[EventKey, list[tuple[str, list[Triple]]]]:
    """Records by event. Their fields begin with node and type, which we keep apart."""
    found: dict[EventKey, list[tuple[str, list[Triple]]]] = {}
    for line in path.read_text().splitlines():
        event = json.loads(line)
        key = (event["host"], event["sec"] * 1000 + event["milli"], event["serial"])
        for record in event["records"]:
            fields = [
                (name, raw, interpreted or "")
                for name, raw, interpreted in record["fields"]
                if name not in {"type", "node"}
            ]
            found.setdefault(key, []).append((record["type"], fields))
    return found


def _compare_event(
    result: Comparison,
    name: str,
    key: EventKey,
    ours: list[tuple[str, list[Triple]]],
    theirs: list[tuple[str, list[Triple]]],
) -> None:
    waiting = list(ours)
    seen: list[tuple[str, list[Triple]]] = []
    for kind, fields in theirs:
        if (kind, fields) in seen:
            continue  # the file holds it twice; we count the second one as a duplicate
        seen.append((kind, fields))
        result.records += 1
        index = next((at for at, (own, _) in enumerate(waiting) if own == kind), None)
        if index is None:
            result.missing.append((name, key, kind))
            continue
        _, own_fields = waiting.pop(index)
        _compare_fields(result, name, kind, own_fields, fields)


def _compare_fields(result: Comparison, name: str, kind: str, ours: list[Triple], theirs: list[Triple]) -> None:
    result.fields += len(theirs)
    own = Counter((field, raw.rstrip("\r")) for field, raw, _ in ours)
    their = Counter((field, raw.rstrip("\r")) for field, raw, _ in theirs)
    for field, raw in (their - own).elements():
        result.raw.append(Difference(name, kind, None, (field, raw, "")))
    for field, raw in (own - their).elements():
        result.raw.append(Difference(name, kind, (field, raw, ""), None))
    values = {(field, raw): value for field, raw, value in ours}
    for field, raw, value in theirs:
        mine = values.get((field, raw.rstrip("\r")))
        if field in USER_NAMES or mine is None:
            continue
        result.interpreted_fields += 1
        if escape_as_auparse(mine) != value.removesuffix("\\015").removesuffix("\r"):
            result.interpreted.append(Difference(name, kind, (field, raw, mine), (field, raw, value)))


def escape_as_auparse(text: str) -> str:
    """auparse shows control characters in octal; we keep them and escape where we print."""
    return "".join(f"\\{ord(char):03o}" if ord(char) < 32 or ord(char) == 127 else char for char in text)
