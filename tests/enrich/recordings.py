"""Recorded logs through decode and enrich, as `replay` does it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from watchdogd.collect.files import read_files
from watchdogd.decode.decoder import Decoder
from watchdogd.enrich.baseline import Baseline
from watchdogd.enrich.enricher import Enricher
from watchdogd.enrich.identity import Identity
from watchdogd.enrich.own import OwnProcesses
from watchdogd.enrich.process import ProcessTree
from watchdogd.entities import Event, Process, ProcessKey, Record
from watchdogd.ports import SystemClock
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


def make_enricher(tree: ProcessTree | None = None) -> Enricher:
    return Enricher(ProcessTree() if tree is None else tree, Identity(SystemClock()), Baseline(), OwnProcesses(()))


def enrich_log(path: Path) -> Iterator[Event]:
    """Every event of the log with its context."""
    decoder, enricher = Decoder(Counters(), live=False), make_enricher()
    for records in read_files([str(path)], Counters()):
        yield from map(enricher.enrich, decoder.feed(records, 0).events)
    yield from map(enricher.enrich, decoder.drain().events)


def enrich_lines(lines: Iterable[str], enricher: Enricher | None = None) -> list[Event]:
    """Lines as auditd writes them; one enricher may see several batches."""
    decoder, enricher = Decoder(Counters(), live=False), enricher or make_enricher()
    records = [Record("audit_log", None, line.encode()) for line in lines]
    return [enricher.enrich(event) for part in (decoder.feed(records, 0), decoder.drain()) for event in part.events]


def is_exec(event: Event) -> bool:
    return any(view.category == "process_creation" for view in event.views)


def render_tree(events: Iterable[Event]) -> str:
    """Processes as an indented tree in order of their first event: pid, image and argv of each exec."""
    tree = _Drawing()
    for event in events:
        if event.process is not None:
            tree.add(event, event.process)
    return "".join(f"{line}\n" for key, parent in tree.parents.items() if parent is None for line in tree.draw(key, 0))


class _Drawing:
    def __init__(self) -> None:
        self.parents: dict[ProcessKey, ProcessKey | None] = {}
        self.images: dict[ProcessKey, list[str]] = {}
        self.outside: dict[ProcessKey, int | None] = {}

    def add(self, event: Event, process: Process) -> None:
        chain = (process, *event.lineage)
        for member, above in zip(chain, (*chain[1:], None), strict=True):
            if member.key not in self.parents:
                self.parents[member.key] = above.key if above else None
                self.outside[member.key] = member.ppid
        names = self.images.setdefault(process.key, [])
        if is_exec(event):
            names.append(describe_image(process))
        elif not names:
            names.append(f"{process.exe} (its exec is not in the log)")

    def draw(self, key: ProcessKey, depth: int) -> Iterator[str]:
        indent = "    " * depth
        above = f" below {self.outside[key]}" if self.parents[key] is None else ""
        first, *later = self.images.get(key, ["?"])
        yield f"{indent}{key.pid}{above} {first}"
        yield from (f"{indent}  then {image}" for image in later)
        for child, parent in self.parents.items():
            if parent == key:
                yield from self.draw(child, depth + 1)


def describe_image(process: Process) -> str:
    return f"{process.exe} {[*process.argv]!r}"
