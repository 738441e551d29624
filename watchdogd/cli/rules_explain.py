"""`watchdogd rules explain RULE FILE`: condition by condition, why a rule did or did not match."""

from __future__ import annotations

import heapq
import itertools
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from watchdogd.cli.options import add_config_option, add_rules_option, find_rules
from watchdogd.errors import WatchdogdError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

    from rich.console import Console

    from watchdogd.entities import Event, Rule
    from watchdogd.match.explain import Explanation, Finding
    from watchdogd.match.explain_correlation import CorrelationExplanation
    from watchdogd.match.library import RuleSet
    from watchdogd.match.syntax import RuleBody

HELP = "why a rule did or did not match the events of a log"
DESCRIPTION = (
    "Shows part by part why a rule matches or does not: by default the events that match, or else those that come"
    " nearest."
)
_NEAREST = 3
_SHOWN_VALUES = 6
_SHOWN_FEW = 3
_SHOWN_REST = 12
_SHOWN_GROUPS = 5
_VALUE_CHARS = 120


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_config_option(parser)
    add_rules_option(parser)
    parser.add_argument("rule", metavar="RULE", help="id, title or file of the rule")
    parser.add_argument("file", metavar="FILE", help="audit log (also .gz .xz .zst) or sample; - is standard input")
    parser.add_argument("--event", metavar="TIME:SERIAL", help="explain this event alone: `1700000000.123:45` or `45`")
    parser.add_argument("--limit", type=int, default=10, metavar="N", help="at most so many matching events (10)")
    parser.add_argument("--full", action="store_true", help="text: every part, also of alternatives that do not hold")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="json: one object")


def run(args: argparse.Namespace) -> int:
    """Print the explanation. 0 whether it matches or not; 2 without such a rule, event or file."""
    from watchdogd.config import load_config  # noqa: PLC0415 - start-up of other commands
    from watchdogd.match.sources import choose_sources, load_sources  # noqa: PLC0415

    config = load_config(args.config, environ=os.environ, overrides={})
    ruleset = load_sources(choose_sources(config, args.rules, Path.cwd()))
    rules = find_rules(ruleset, args.rule)
    rule = rules[-1]  # of several in one file the last builds on the others
    body = next((body for body in ruleset.bodies if body.rule.id == rule.id), None)
    reason = {found.id: why for found, why in ruleset.inactive}.get(rule.id, "")
    if reason:
        raise WatchdogdError(f"{rule.title!r} is inactive, so it matches nothing: {reason}")
    if body is None:
        return _run_correlation(args, ruleset, rule)
    events = read_events(args.file, body.view)
    found = choose(body, events, args.event, args.limit)
    if args.event is not None and not found:
        raise WatchdogdError(f"{args.file}: no event {args.event}")
    if args.format == "json":
        _print_json({"rule": _name(rule), "events": found})
    else:
        print_explanations(rule, found, full=args.full)
    return 0


def read_events(name: str, view: str) -> Iterator[Event]:
    """Events of a log, or of a sample of fields. Raises SourceError, and WatchdogdError for a bad sample."""
    from watchdogd.collect.files import read_files  # noqa: PLC0415 - start-up of other commands
    from watchdogd.samples import SampleError, read_audit, read_fields  # noqa: PLC0415
    from watchdogd.telemetry import Counters  # noqa: PLC0415

    counters = Counters()
    rest = (record.data for records in read_files([name], counters) for record in records)
    first = next(rest, b"")
    lines = itertools.chain([first], rest)
    try:
        yield from read_fields(lines, view) if first.lstrip().startswith(b"{") else read_audit(lines, counters)
    except SampleError as error:
        raise WatchdogdError(f"{name}:{error.line or 1}: {error.message}") from error


def choose(body: RuleBody, events: Iterable[Event], wanted: str | None, limit: int) -> list[Explanation]:
    """Explanations of the event that is wanted, else of those that match, else of the few that come nearest."""
    from watchdogd.match.explain import Explainer  # noqa: PLC0415 - start-up of other commands

    explainer = Explainer(body)
    matching: list[Explanation] = []
    nearest: list[tuple[float, int, Explanation]] = []
    for number, explanation in enumerate(one for event in events for one in explainer.explain(event)):
        if wanted is not None:
            if wanted in (explanation.event, explanation.event.rpartition(":")[2]):
                matching.append(explanation)
        elif explanation.held:
            matching.append(explanation)
            if len(matching) >= limit:
                break
        elif not matching:
            heapq.heappush(nearest, (explanation.near, -number, explanation))
            if len(nearest) > _NEAREST:
                heapq.heappop(nearest)
    if matching or wanted is not None:
        return matching
    nearest.sort(key=lambda found: found[:2], reverse=True)
    return [explanation for _, _, explanation in nearest]


def print_explanations(rule: Rule, found: list[Explanation], *, full: bool) -> None:
    """The rule, then event by event a tree of yes and no."""
    console = _open_console()
    matches = sum(explanation.held for explanation in found)
    _print(console, f"{rule.title} ({rule.path})", style="bold")
    if not found:
        _print(console, "no events")
    elif not matches and len(found) > 1:
        _print(console, "nothing matches; what comes nearest:")
    for explanation in found:
        line = f"line {explanation.line}, " if explanation.line else ""
        word = "matches" if explanation.held else "does not match"
        console.print()
        _print(
            console, f"{explanation.event} ({line}{explanation.subject or 'nothing to look at'}) {word}", style="bold"
        )
        if explanation.note:
            _print(console, f"  {explanation.note}")
        if explanation.condition is not None:
            _print_finding(console, explanation.condition, 1, None if full else _VALUE_CHARS)


def _print_finding(console: Console, finding: Finding, depth: int, max_chars: int | None) -> None:
    """One line for the part, then its own parts. `max_chars` None: nothing is cut or left out."""
    from rich.text import Text  # noqa: PLC0415 - start-up of other commands

    from watchdogd.write.formats.text import escape_controls  # noqa: PLC0415

    text = Text("  " * depth)
    text.append("yes " if finding.held else "no  ", "green" if finding.held else "red")
    text.append(escape_controls(finding.text))
    if finding.seen:
        text.append(escape_controls(f"   saw {_show_values(finding.seen, max_chars)}"), "cyan")
    if finding.note:
        text.append(f"   ({escape_controls(finding.note)})", "dim")
    console.print(text)
    told = finding.items if max_chars is None else _choose_items(finding)
    for item in finding.items:
        if item in told:
            _print_finding(console, item, depth + 1, max_chars)
    if len(told) < len(finding.items):
        rest = [item.text for item in finding.items if item not in told]
        names = ", ".join(rest[:_SHOWN_REST]) + (", ..." if len(rest) > _SHOWN_REST else "")
        _print(console, f"{'  ' * (depth + 1)}no  the others: {names}", style="dim")


def _show_values(seen: tuple[str, ...], max_chars: int | None) -> str:
    shown = seen if max_chars is None else seen[:_SHOWN_VALUES]
    values = [
        repr(value) if max_chars is None or len(value) <= max_chars else f"{value[:max_chars]!r}..." for value in shown
    ]
    more = len(seen) - len(shown)
    return ", ".join(values) + (f" and {more} more" if more else "")


def _choose_items(finding: Finding) -> list[Finding]:
    """Of alternatives those that hold, or else those that come nearest; of what must all hold, everything."""
    items = list(finding.items)
    if not finding.text.endswith(("one of", "any of")) or len(items) <= _SHOWN_FEW:
        return items
    held = [item for item in items if item.held]
    nearest = max(item.near for item in items)
    return held or [item for item in items if item.near == nearest and nearest > 0]


def _run_correlation(args: argparse.Namespace, ruleset: RuleSet, rule: Rule) -> int:
    from watchdogd.match.explain_correlation import explain_correlation  # noqa: PLC0415 - as above
    from watchdogd.samples import select_rules  # noqa: PLC0415

    part = select_rules(ruleset, rule.id)
    explanation = explain_correlation(part, rule.id, read_events(args.file, part.bodies[0].view if part.bodies else ""))
    if args.format == "json":
        _print_json({"rule": _name(rule), "correlation": explanation})
    else:
        print_correlation(rule, explanation)
    return 0


def print_correlation(rule: Rule, explanation: CorrelationExplanation) -> None:
    """What it asks for, what each rule matched, and how far each group got."""
    console = _open_console()
    _print(console, f"{rule.title} ({rule.path})", style="bold")
    _print(console, f"wants {explanation.wanted} within {explanation.timespan_ms / 1000:g} s ({explanation.kind})")
    for name, count in explanation.counts.items():
        _print(console, f"  {name} matches {count} events")
    said = f"fires at {', '.join(explanation.fired[:_SHOWN_VALUES])}" if explanation.fired else "does not fire"
    _print(console, said, style="green" if explanation.fired else "red")
    for group in explanation.groups[:_SHOWN_GROUPS]:
        by = ", ".join(f"{name}={value!r}" for name, value in group.by.items()) or "all events"
        _print(console, f"  {by}: {len(group.contributions)} events count; at most {group.reached}")
    if len(explanation.groups) > _SHOWN_GROUPS:
        _print(console, f"  ... {len(explanation.groups) - _SHOWN_GROUPS} more groups", style="dim")


def _open_console() -> Console:
    from watchdogd.cli.display import TextConsole  # noqa: PLC0415 - as above

    return TextConsole()


def _print(console: Console, text: str, *, style: str | None = None) -> None:
    from watchdogd.write.formats.text import escape_controls  # noqa: PLC0415 - as above

    console.print(escape_controls(text), style=style)


def _print_json(data: dict[str, object]) -> None:
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(data)).decode() + "\n")


def _name(rule: Rule) -> dict[str, str]:
    return {"id": rule.id, "title": rule.title, "path": rule.path}
