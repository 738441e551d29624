"""Samples beside the rules: raw audit lines in which a rule must match, or must not.

A rule file `FOLDER/.../NAME.yml` has its samples in a folder `tests/NAME/` beside it or beside any folder above it, up
to the rule folder: `fires*.log` (each must make the rule match) and `quiet*.log` (none may). Lines are audit's own; a
file whose first line begins with `{` holds one JSON object of fields a line instead, for what has no audit line
(host metrics); `@category` there names another view than the rule's own, `@time_ms` the time; without it lines are ten
seconds apart. Samples of a service's rule (sshd, sudo, auth, cron, syslog) hold lines of `journalctl -o json` or of
/var/log/auth.log. What stands in `tests/NAME/ID/` (a rule's id, or its `name`) is about that rule of the file alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec
from msgspec.structs import replace

from watchdogd.decode.decoder import Decoder
from watchdogd.decode.journal import JournalDecoder
from watchdogd.enrich.baseline import Baseline
from watchdogd.enrich.enricher import Enricher
from watchdogd.enrich.identity import Identity
from watchdogd.enrich.own import OwnProcesses
from watchdogd.enrich.process import ProcessTree
from watchdogd.entities import Event, EventId, FieldMap, Position, Record, View
from watchdogd.errors import Place, Problem
from watchdogd.match.engine import Engine
from watchdogd.match.explain import Explainer, Finding, first_line, name_id
from watchdogd.match.files import LEFT_OUT, find_rule_files, show_path
from watchdogd.match.library import RuleSet
from watchdogd.match.logsources import SERVICES
from watchdogd.match.syntax import Correlation, RuleBody
from watchdogd.ports import SystemClock
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from watchdogd.entities import Match, Rule

_RuleT = TypeVar("_RuleT", RuleBody, Correlation)

MAX_SAMPLE_BYTES = 4 << 20
"""Larger samples fail unread: a reload waits for them."""
APART_MS = 10_000
"""Lines of fields without a time of their own are this far apart, as samples of the host's metrics are."""

PASSED, FAILED, MISSING, SKIPPED = "passed", "failed", "missing", "skipped"
_SHOWN = 4
_CURSOR = b'"__CURSOR"'
"""What no line of fields has, and every entry of the journal."""
_LOSSES = ("decode_garbage_lines_total", "decode_incomplete_events_total")


class SampleResult(msgspec.Struct, frozen=True):
    """What one sample said of one rule: PASSED, FAILED, MISSING (the rule has none) or SKIPPED (it is inactive)."""

    rule_id: str
    title: str
    rule_path: str
    status: str
    path: str = ""
    """The sample's; empty where there is none."""
    expected: str = ""
    """`match` or `no match`."""
    matched: tuple[str, ...] = ()
    """Events in which the rule did match, as `time:serial`."""
    line: int | None = None
    """Where to look: the event that must not match, or the one that comes nearest."""
    message: str = ""

    @property
    def problem(self) -> Problem | None:
        """What is wrong, for a report; None where nothing is."""
        if self.status == FAILED:
            return Problem(
                Place(self.path, self.line), f"{self.title!r}: {self.message}", f"the rule is {self.rule_path}"
            )
        if self.status == MISSING:
            return Problem(Place(self.rule_path), self.message, severity="warning")
        return None


class SampleError(Exception):
    """A sample that cannot be read as one."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


def run_samples(
    ruleset: RuleSet, folders: Sequence[Path], only: Collection[str] | None = None
) -> tuple[SampleResult, ...]:
    """Hold the samples of all rules (or of the ids in `only`, and what builds on them) against them.

    Each sample has an engine of its own, in which nothing is but the rule and what it builds on. Reads files, and never
    raises for what they hold. Rules of which only correlations hear need no samples.
    """
    reasons = {rule.id: reason for rule, reason in ruleset.inactive}
    results: list[SampleResult] = []
    everything: list[RuleBody | Correlation] = [
        *ruleset.bodies,
        *(found for found in ruleset.correlations if not found.copy_of),
    ]
    only = None if only is None else _add_above(ruleset, only)
    for found in everything:
        rule = found.rule
        if only is not None and rule.id not in only:
            continue
        base = SampleResult(rule.id, rule.title, rule.path, SKIPPED)
        if rule.id in reasons:
            results.append(replace(base, message=f"inactive: {reasons[rule.id]}"))
            continue
        paths = find_samples(found, folders)
        if not paths and not found.silent:
            results.append(replace(base, status=MISSING, message=f"{rule.title!r} has no samples"))
        results += [_run_sample(ruleset, found, path, base) for path in paths]
    return tuple(results)


def _add_above(ruleset: RuleSet, only: Collection[str]) -> set[str]:
    """Those rules and all correlations that build on one of them."""
    wanted = set(only)
    for found in ruleset.correlations:  # each stands behind those that it builds on
        if any(feed.rule_id in wanted for feed in found.feeds):
            wanted.add(found.rule.id)
    return wanted


def find_samples(found: RuleBody | Correlation, folders: Sequence[Path]) -> list[Path]:
    """Return the sample files of a rule, those that fire first; a silent rule has only those that name it."""
    path = Path(found.rule.path)
    names = [found.rule.id, name] if (name := getattr(found, "name", "")) else [found.rule.id]
    for place in _list_places(path, folders):
        if place.is_dir():
            files = [] if found.silent else _list_files(place)
            return files + [file for name in names for file in _list_files(place / name)]
    return []


def _list_places(path: Path, folders: Sequence[Path]) -> Iterator[Path]:
    """Where a rule file's samples may be: beside it first, then folder by folder up to its rule folder."""
    tops = [folder for folder in folders if path.is_relative_to(folder)]
    for parent in path.parents:
        yield parent / LEFT_OUT / path.stem
        if not tops or parent in tops:
            return


def _list_files(folder: Path) -> list[Path]:
    return [*sorted(folder.glob("fires*.log")), *sorted(folder.glob("quiet*.log"))]


def find_leftovers(folders: Sequence[Path]) -> list[Problem]:
    """Sample folders that belong to no rule file, and files in the others that are no samples: slips of the pen."""
    problems: list[Problem] = []
    files, _ = find_rule_files(folders)
    for place in sorted({place for folder in folders for place in folder.rglob(LEFT_OUT) if place.is_dir()}):
        stems = {path.stem for path in files if path.is_relative_to(place.parent)}
        for entry in sorted(place.iterdir()):
            if entry.is_dir() and entry.name not in stems:
                message = "these samples belong to no rule"
                problems.append(
                    Problem(Place(show_path(entry)), message, f"no file is called {entry.name}.yml", "warning")
                )
            elif entry.is_dir():
                problems += _find_strangers(entry)
    return problems


def _find_strangers(folder: Path) -> Iterator[Problem]:
    samples = set(_list_files(folder))
    for entry in sorted(folder.iterdir()):
        if entry.is_file() and entry not in samples and not entry.name.startswith((".", "README")):
            yield Problem(Place(show_path(entry)), "is no sample", "fires*.log or quiet*.log", "warning")


def _run_sample(ruleset: RuleSet, found: RuleBody | Correlation, path: Path, base: SampleResult) -> SampleResult:
    must_match = path.name.startswith("fires")
    base = replace(base, path=show_path(path), expected="match" if must_match else "no match")
    part = select_rules(ruleset, found.rule.id)
    try:
        events = list(read_sample(path, part.bodies[0].view if part.bodies else ""))
    except SampleError as error:
        return replace(base, status=FAILED, message=error.message, line=error.line)
    matching = _find_matching(Engine(part), found.rule.id, events)
    base = replace(base, matched=tuple(map(name_id, matching)))
    if bool(matching) is must_match:
        return replace(base, status=PASSED)
    if matching:
        line = next((_find_line(event) for event in events if event.id == matching[0]), None)
        message = f"the rule must not match here, and event {name_id(matching[0])} does"
        return replace(base, status=FAILED, message=message, line=line)
    line, message = _explain_silence(part, found.rule, events)
    return replace(base, status=FAILED, message=f"the rule must match here, and no event does{message}", line=line)


def _find_matching(engine: Engine, rule_id: str, events: Sequence[Event]) -> list[EventId]:
    """Events that complete a match, in order. Behind the last one time goes on, and closes every window."""
    matches: list[Match] = []
    for event in events:
        matches += [firing.match for firing in engine.advance(event.id.time_ms)]
        matches += engine.judge(event)
    matches += [firing.match for firing in engine.finish()]
    return list(dict.fromkeys(match.event_ids[-1] for match in matches if match.rule.id == rule_id))


def _find_line(event: Event) -> int | None:
    return first_line(event) if event.records else event.id.serial


def select_rules(ruleset: RuleSet, rule_id: str) -> RuleSet:
    """Return the rule of that id and all that it builds on, as a set in which it alerts by itself."""
    wanted = {rule_id}
    correlations: list[Correlation] = []
    for correlation in reversed(ruleset.correlations):  # each stands behind those that it builds on
        if correlation.rule.id in wanted:
            wanted.update(feed.rule_id for feed in correlation.feeds)
            correlations.append(correlation)
    return RuleSet(
        tuple(_speak(body, rule_id) for body in ruleset.bodies if body.rule.id in wanted),
        correlations=tuple(_speak(correlation, rule_id) for correlation in reversed(correlations)),
    )


def _speak(found: _RuleT, rule_id: str) -> _RuleT:
    return replace(found, silent=False) if found.rule.id == rule_id else found


def read_sample(path: Path, category: str) -> Iterator[Event]:
    """Events of one sample file; `category` is the view of lines of fields. Raises SampleError."""
    try:
        if not path.is_file():
            raise SampleError("is not a file")
        with path.open("rb") as file:
            data = file.read(MAX_SAMPLE_BYTES + 1)
    except OSError as error:
        raise SampleError(f"cannot be read: {error.strerror or error}") from error
    lines = data.splitlines()
    if len(data) > MAX_SAMPLE_BYTES:
        raise SampleError(f"is larger than {MAX_SAMPLE_BYTES >> 20} MiB")
    if not lines:
        raise SampleError("is empty")
    is_service = category in SERVICES
    if lines[0].lstrip().startswith(b"{") and not (is_service and _CURSOR in lines[0]):
        yield from read_fields(lines, category)
        return
    counters = Counters()
    yield from read_entries(lines, counters) if is_service else read_audit(lines, counters)
    for name in _LOSSES:
        if counters.get(name):
            of = "entries of the journal or lines of syslog" if is_service else "audit records"
            raise SampleError(f"{name} is {counters.get(name)}: some lines are cut off or are no {of}")


def read_audit(lines: Iterable[bytes], counters: Counters) -> Iterator[Event]:
    """Events of raw audit lines with their context, as replay sees them; positions count lines from 1."""
    decoder = Decoder(counters, live=False)
    enricher = Enricher(ProcessTree(), Identity(SystemClock()), Baseline(), OwnProcesses(()))
    for number, line in enumerate(lines, 1):
        record = Record("sample", Position("sample", "", number, number), line)
        yield from map(enricher.enrich, decoder.feed([record], 0).events)
    yield from map(enricher.enrich, decoder.drain().events)


def read_entries(lines: Iterable[bytes], counters: Counters) -> Iterator[Event]:
    """Events of entries of the journal (`journalctl -o json`) or of lines of syslog; positions count lines from 1."""
    decoder = JournalDecoder(counters)
    for number, line in enumerate(lines, 1):
        record = Record("sample", Position("sample", "", number, number), line)
        yield from decoder.feed([record], 0).events


def read_fields(lines: Iterable[bytes], category: str) -> Iterator[Event]:
    """Events of one JSON object of fields a line, each with one view. Raises SampleError."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            fields = msgspec.json.decode(line, type=FieldMap)
        except msgspec.MsgspecError as error:
            raise SampleError(f"not a JSON object of fields: {error}", number) from error
        yield _build_event(fields, category, number)


def _build_event(fields: FieldMap, category: str, number: int) -> Event:
    given, time_ms = fields.pop("@category", category), fields.pop("@time_ms", (number - 1) * APART_MS)
    if not isinstance(given, str) or not isinstance(time_ms, int):
        raise SampleError("@category is a text and @time_ms a whole number", number)
    event_id = EventId(given, None, time_ms, number)
    return Event(event_id, given, views=(View(given, "sample", "success", fields),))


def _explain_silence(part: RuleSet, rule: Rule, events: Sequence[Event]) -> tuple[int | None, str]:
    """Line of the event that comes nearest to a match, and what it lacks."""
    body = next((body for body in part.bodies if body.rule.id == rule.id), None)
    if body is None:
        return None, _count_matches(part, events)
    explainer = Explainer(body)
    found = [(event, explanation) for event in events for explanation in explainer.explain(event)]
    if not found:
        return None, ""
    event, nearest = max(found, key=lambda pair: pair[1].near)
    if nearest.condition is None:
        return None, f": {nearest.note}"
    lacks = "; ".join(list_lacks(nearest.condition))
    return _find_line(event), f": {nearest.event} comes nearest and lacks: {lacks}"


def list_lacks(finding: Finding) -> Iterator[str]:
    """Say what does not hold, part by part."""
    if finding.held:
        return
    if finding.text == "not":
        yield f"the absence of {finding.items[0].text!r}"
        return
    name, joint, _ = finding.text.partition(", any of")
    if not joint:
        name, joint, _ = finding.text.partition(", all of")
    if joint and finding.items:
        lacking = [item.text for item in finding.items if not item.held]
        more = f" (and {len(lacking) - _SHOWN} more)" if len(lacking) > _SHOWN else ""
        yield f"{name} {(' and ' if 'all' in joint else ' or ').join(lacking[:_SHOWN])}{more}"
    elif not finding.items:
        yield f"{finding.text} ({finding.note})" if finding.note else finding.text
    elif finding.text == "one of":
        yield " or ".join(item.text for item in finding.items)
    else:
        for item in finding.items:
            yield from list_lacks(item)


def _count_matches(part: RuleSet, events: Sequence[Event]) -> str:
    """What a correlation's own rules said."""
    said = []
    for body in part.bodies:
        engine = Engine(RuleSet((replace(body, silent=False),)))
        said.append(f"{body.rule.title!r} matches {sum(bool(engine.judge(event)) for event in events)}")
    return f" (of {len(events)} events {', '.join(said)})"
