"""`watchdogd rules test`: runs the samples beside the rules, and says what was expected and what matched."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import msgspec

from watchdogd.cli.options import add_config_option, add_rules_option, find_rules

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from watchdogd.errors import Problem
    from watchdogd.samples import SampleResult

HELP = "run the samples beside the rules"
DESCRIPTION = "Runs the samples beside the rules, in which each rule must match (fires*.log) or must not (quiet*.log)."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_config_option(parser)
    add_rules_option(parser)
    parser.add_argument(
        "rules_wanted", nargs="*", metavar="RULE", help="only these, by id, title or file (default: all)"
    )
    parser.add_argument("--strict", action="store_true", help="a rule without samples fails the test too")
    parser.add_argument(
        "--format", choices=("text", "json", "junit"), default="text", help="json: one object; junit: XML"
    )
    parser.add_argument("--verbose", action="store_true", help="text: say what passed, too")


def run(args: argparse.Namespace) -> int:
    """Print what the samples said. 0 fine, 1 one failed (with --strict: or a warning), 2 rules cannot be loaded."""
    from watchdogd.config import load_config  # noqa: PLC0415 - start-up of other commands
    from watchdogd.match.sources import choose_sources, load_sources  # noqa: PLC0415
    from watchdogd.samples import FAILED, find_leftovers, run_samples  # noqa: PLC0415

    config = load_config(args.config, environ=os.environ, overrides={})
    sources = choose_sources(config, args.rules, Path.cwd())
    ruleset = load_sources(sources)
    only = {rule.id for text in args.rules_wanted for rule in find_rules(ruleset, text)} or None
    results = run_samples(ruleset, sources.folders, only)
    problems = [problem for result in results if (problem := result.problem) is not None]
    if only is None:
        problems += find_leftovers(sources.folders)
    if args.format == "json":
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(document(results, problems))).decode() + "\n")
    elif args.format == "junit":
        sys.stdout.write(render_junit(results))
    else:
        from watchdogd.write.formats.text import escape_controls  # noqa: PLC0415

        sys.stdout.writelines(f"{escape_controls(line)}\n" for line in render(results, problems, verbose=args.verbose))
    failed = any(result.status == FAILED for result in results)
    return 1 if failed or (args.strict and problems) else 0


def render(results: Sequence[SampleResult], problems: Sequence[Problem], *, verbose: bool) -> Iterator[str]:
    """Lines for a person: what is wrong, then the sum."""
    if verbose:
        for result in results:
            yield f"{result.status:<7}  {result.title}  {result.path or result.message}"
    for problem in problems:
        yield str(problem)
    counts = [(sum(result.status == name for result in results), text) for name, text in _COUNTED]
    yield ", ".join(f"{count} {text}" for count, text in counts)


_COUNTED = (
    ("passed", "passed"),
    ("failed", "failed"),
    ("missing", "without samples"),
    ("skipped", "inactive"),
)


def document(results: Sequence[SampleResult], problems: Sequence[Problem]) -> dict[str, object]:
    """Everything as plain data."""
    return {
        "results": [msgspec.to_builtins(result) for result in results],
        "problems": [
            {
                **msgspec.to_builtins(problem.place),
                **{key: getattr(problem, key) for key in ("severity", "message", "hint")},
            }
            for problem in problems
        ],
        "counts": {name: sum(result.status == name for result in results) for name, _ in _COUNTED},
    }


def render_junit(results: Sequence[SampleResult]) -> str:
    """JUnit's XML: a rule is a class, a sample is a case; rules without samples and inactive ones are skipped."""
    failures = sum(result.status == "failed" for result in results)
    skipped = sum(result.status in ("missing", "skipped") for result in results)
    suite = ET.Element(
        "testsuite",
        {
            "name": "watchdogd rules test",
            "tests": str(len(results)),
            "failures": str(failures),
            "errors": "0",
            "skipped": str(skipped),
        },
    )
    for result in results:
        name = Path(result.path).name if result.path else "samples"
        case = ET.SubElement(
            suite,
            "testcase",
            {"classname": _clean(result.title), "name": _clean(name), "file": _clean(result.path or result.rule_path)},
        )
        if result.status == "failed":
            failure = ET.SubElement(case, "failure", {"message": _clean(result.message), "type": "sample"})
            failure.text = _clean(
                f"{result.path}:{result.line or 1}\nrule: {result.rule_path} ({result.rule_id})\n"
                f"expected: {result.expected}\nmatched: {', '.join(result.matched) or 'no event'}"
            )
        elif result.status in ("missing", "skipped"):
            ET.SubElement(case, "skipped", {"message": _clean(result.message)})
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _clean(text: str) -> str:
    """Text that XML 1.0 may hold: it has no way at all to write control characters or lone surrogates."""
    return "".join(
        char if char in "\t\n\r" or " " <= char < "\ud800" or "\ue000" <= char <= "\ufffd" or char >= "\U00010000"
        else f"\\u{ord(char):04x}"
        for char in text
    )  # fmt: skip
