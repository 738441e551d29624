"""`watchdogd check`: every mistake in configuration and rules at once, and what would be in force."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from watchdogd.cli.options import add_config_option, add_rules_option
from watchdogd.entities import Level
from watchdogd.errors import Problem, ProblemsError, RuleError, WatchdogdError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

    from watchdogd.config import Config
    from watchdogd.entities import Rule
    from watchdogd.errors import Place
    from watchdogd.match.sources import RuleSources
    from watchdogd.match.syntax import FileReading, RuleSet
    from watchdogd.webhook_settings import WebhookSettings

HELP = "check configuration and rules, and show what would be in force"


class Report(msgspec.Struct, frozen=True):
    """What was found. `rules` is None where the rules cannot be loaded."""

    config: Config
    folders: tuple[Path, ...]
    problems: tuple[Problem, ...]
    rules: tuple[Rule, ...] | None
    inactive: tuple[tuple[Rule, str], ...]
    config_file: str | None
    """As its problems name it."""
    is_config_usable: bool
    """Where it is not, settings hold defaults in the place of what is wrong."""

    def count(self, severity: str) -> int:
        """Problems of one severity."""
        return sum(problem.severity == severity for problem in self.problems)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_config_option(parser)
    add_rules_option(parser)
    parser.add_argument("--strict", action="store_true", help="a warning fails the check too")
    parser.add_argument(
        "--format",
        choices=("text", "json", "github"),
        default="text",
        help="json: one object; github: annotations of GitHub Actions",
    )


def run(args: argparse.Namespace) -> int:
    """Print the report. 0 fine, 1 at least one error (with --strict also warnings), 2 nothing to check."""
    report = examine(args.config, args.rules, Path.cwd(), dict(os.environ))
    if args.format == "json":
        sys.stdout.write(msgspec.json.encode(document(report)).decode() + "\n")
    elif args.format == "github":
        sys.stdout.writelines(f"{annotate(problem)}\n" for problem in report.problems)
    else:
        sys.stdout.writelines(f"{line}\n" for line in render(report))
    failures = report.count("error") + (report.count("warning") if args.strict else 0)
    return 1 if failures else 0


def examine(path: Path | None, given: Sequence[Path], cwd: Path, environ: dict[str, str]) -> Report:
    """Load what `run` would load. Raises WatchdogdError where a named file or folder is not there to be checked."""
    from watchdogd.config import read_config  # noqa: PLC0415 - start-up of other commands
    from watchdogd.marks import read_text  # noqa: PLC0415
    from watchdogd.match.sources import choose_sources  # noqa: PLC0415

    for folder in given:
        if not folder.is_dir():
            raise WatchdogdError(f"--rules {folder}: no such folder")
    problems: list[Problem] = []
    try:
        if path is not None:
            read_text(path)
        config, problems = read_config(path, environ=environ)
    except ProblemsError as error:
        if any(problem.place.line is None for problem in error.problems):
            raise
        problems = list(error.problems)
        config, _ = read_config(None, environ={})
    source = None if path is None else str(path)
    usable = not any(problem.severity == "error" for problem in problems)
    if usable and path is not None:
        problems += try_services(config, path)
    chosen = choose_sources(config, given, cwd)
    folders = chosen.folders
    try:
        rules, warnings = lint_rules(chosen)
    except RuleError as error:
        return Report(config, folders, (*problems, *error.problems), None, (), source, usable)
    if path is not None and usable:
        problems += _warn_names(config, rules, path)
        problems.sort(key=lambda problem: (problem.place.line or 0, problem.place.column or 0))
    return Report(config, folders, (*problems, *warnings), rules.rules, rules.inactive, source, usable)


def _warn_names(config: Config, rules: RuleSet, path: Path) -> list[Problem]:
    """Where the configuration names rules and tags that there are not."""
    from watchdogd.marks import load_documents, read_text  # noqa: PLC0415 - as above
    from watchdogd.routing_checks import warn_names  # noqa: PLC0415
    from watchdogd.triage.policy import INJECTION_RULE  # noqa: PLC0415

    documents, _ = load_documents(read_text(path), str(path))
    known = (*rules.rules, *(rule for rule, _ in rules.inactive), INJECTION_RULE)
    return [*warn_names(config.webhooks, known, documents[0].place_value)] if documents else []


def try_services(config: Config, path: Path) -> Iterator[Problem]:
    """Of each webhook that apprise is to reach, whether it knows a service of that URL. Nothing is sent."""
    from watchdogd.marks import load_documents, read_text  # noqa: PLC0415 - as above

    for index, webhook in enumerate(config.webhooks):
        if webhook.format != "apprise":
            continue
        from watchdogd.write.apprise_sink import complain_service  # noqa: PLC0415 - as above

        complaint = complain_service(webhook)
        if complaint is not None:
            documents, _ = load_documents(read_text(path), str(path))
            place = documents[0].place_value("webhooks", index, "url_file")
            yield Problem(place, f"webhooks[{index}]: {complaint}")


def lint_rules(
    sources: RuleSources, read: Callable[[Sequence[Path], Path | None], list[FileReading]] | None = None
) -> tuple[RuleSet, tuple[Problem, ...]]:
    """Load rules, and say of them what is allowed and surely not meant. Raises RuleError as loading does.

    `read` stands for the reader process, asked for its warnings.
    """
    from watchdogd.match.library import read_files  # noqa: PLC0415 - as above
    from watchdogd.match.lint_set import lint_set  # noqa: PLC0415
    from watchdogd.match.sources import load_sources  # noqa: PLC0415

    ask = read or (lambda paths, placeholders: read_files(paths, placeholders, lint=True))
    readings: list[FileReading] = []

    def remember(paths: Sequence[Path], placeholders: Path | None) -> list[FileReading]:
        readings.extend(ask(paths, placeholders))
        return readings

    rules = load_sources(sources, remember)
    found = (*rules.warnings, *lint_set(rules, readings, locate))
    order = {reading.path: number for number, reading in enumerate(readings)}
    return rules, tuple(sorted(found, key=lambda problem: _order(problem.place, order)))


def _order(place: Place, order: dict[str, int]) -> tuple[int, int, int]:
    return order.get(place.path, len(order)), place.line or 0, place.column or 0


def locate(place: Place, keys: tuple[str | int, ...]) -> Place:
    """Find a key, from the top of the document whose id stands at `place`; `place` itself where it is not there."""
    from watchdogd.marks import load_documents, read_text  # noqa: PLC0415 - as above

    try:
        documents, _ = load_documents(read_text(Path(place.path)), place.path)
    except ProblemsError:
        return place
    found = [document.place_value(*keys) for document in documents if document.place("id") == place]
    return found[0] if found else place


def annotate(problem: Problem) -> str:
    """One problem as a workflow command of GitHub Actions."""
    place = problem.place
    parts = [("file", place.path), ("line", place.line), ("col", place.column)]
    told = ",".join(f"{name}={_escape(str(value), more=True)}" for name, value in parts if value is not None)
    hint = f" ({problem.hint})" if problem.hint else ""
    return f"::{problem.severity} {told}::{_escape(problem.message + hint)}"


def _escape(text: str, *, more: bool = False) -> str:
    """As the runner unescapes it: data, and (`more`) properties."""
    from watchdogd.write.formats.text import escape_controls  # noqa: PLC0415 - as above

    text = escape_controls(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return text.replace(":", "%3A").replace(",", "%2C") if more else text


def document(report: Report) -> dict[str, Any]:
    """Return the report as plain data; no secret in it."""
    from watchdogd.config import describe  # noqa: PLC0415 - as above

    return {
        "config": report.config.path,
        "problems": [
            {
                "severity": problem.severity,
                "path": problem.place.path,
                "line": problem.place.line,
                "column": problem.place.column,
                "message": problem.message,
                "hint": problem.hint,
            }
            for problem in report.problems
        ],
        "rules": {
            "folders": [os.fsencode(folder).decode("utf-8", "backslashreplace") for folder in report.folders],
            "active": None if report.rules is None else [rule.id for rule in report.rules],
            "inactive": [{"id": rule.id, "path": rule.path, "reason": reason} for rule, reason in report.inactive],
        },
        "policy": list_policy(report.config) if report.is_config_usable else None,
        "settings": describe(report.config) if report.is_config_usable else None,
    }


def render(report: Report) -> Iterator[str]:
    """Lines for a person: the problems with their source lines, then what would be in force."""
    from watchdogd.write.formats.text import escape_controls  # noqa: PLC0415 - as above

    for problem in report.problems:
        yield from show_problem(problem, report.config_file)
    if report.problems:
        yield ""
    if report.is_config_usable:
        rows = list(_list_rows(report))
        width = max(len(name) for name, _ in rows)
        for name, text in rows:
            yield f"{name:<{width}}  {escape_controls(text)}".rstrip()
        yield ""
    yield f"{_count(report.count('error'), 'error')}, {_count(report.count('warning'), 'warning')}"


def show_problem(problem: Problem, config_path: str | None = None) -> Iterator[str]:
    """One problem with its source line and a caret."""
    from watchdogd.write.formats.text import escape_controls  # noqa: PLC0415 - as above

    yield escape_controls(str(problem))
    yield from _show_source(problem, config_path)


def _show_source(problem: Problem, config_path: str | None) -> list[str]:
    """Source line and caret; of the configuration without what may be secret."""
    from watchdogd.marks import caret_lines, read_text  # noqa: PLC0415 - as above
    from watchdogd.secret_files import blot_secrets  # noqa: PLC0415

    path = Path(problem.place.path)
    if problem.place.line is None or not path.is_file():
        return []
    try:
        lines = caret_lines(problem, read_text(path))
    except ProblemsError:
        return []
    return [blot_secrets(line) if problem.place.path == config_path else line for line in lines.splitlines()]


def _list_rows(report: Report) -> Iterator[tuple[str, str]]:
    config = report.config
    yield "configuration", config.path or "built-in defaults"
    for folder in report.folders:
        yield "rules from", str(folder)
    if report.rules is None:
        yield "rules", "none: at least one cannot be loaded, so watchdogd would not start (or keep its old ones)"
    else:
        yield "rules", f"{len(report.rules)} active, {len(report.inactive)} inactive"
    for rule, reason in report.inactive:
        yield "  inactive", f"{rule.title} ({rule.path}): {reason}"
    sources = config.sources
    yield "audit log", sources.audit_log.path if sources.audit_log.enabled else "off"
    yield "audit netlink", "beside the log" if sources.audit_netlink.enabled else "off"
    said = ", ".join(("sshd, sudo, su, cron, the kernel", *sources.journal.units))
    yield "journal entries", f"of {said}" if sources.journal.enabled else "off"
    yield "auth log", sources.auth_log.path if sources.auth_log.enabled else "off"
    metrics = sources.host_metrics
    yield "host metrics", f"every {metrics.interval_s:g} s" if metrics.enabled else "off"
    files = sources.file_integrity
    yield "file integrity", f"a full scan every {files.scan_interval_s:g} s" if files.enabled else "off"
    yield from _list_triage(config)
    yield "database", config.store.path
    yield "journal", "every alert" if config.journald.enabled else "off"
    for webhook in config.webhooks:
        yield "webhook", _describe_webhook(webhook)
    yield "api", _describe_api(config)


def _describe_api(config: Config) -> str:
    api = config.api
    if not api.enabled:
        return "off"
    how = "TLS" if api.tls_certificate else "no TLS"
    tcp = (
        f"; {api.listen} ({how}) for {', '.join(f'{one.name} ({one.scope})' for one in api.tokens)}"
        if api.listen
        else ""
    )
    return f"{api.path}{tcp}"


def _list_triage(config: Config) -> Iterator[tuple[str, str]]:
    from watchdogd.conversion import describe  # noqa: PLC0415 - as above

    triage = config.triage
    if not triage.enabled:
        yield "triage", "off: alerts go out untriaged"
        return
    yield "triage", f"{triage.model} at {describe(triage)['ollama_url']}, {triage.timeout_s:g} s a question"
    yield "  explanations", {"en": "in English", "es": "in Spanish"}[triage.language]
    yield "  floors", "no verdict lowers a rule's level; critical and high go to every sink whatever it says"
    yield "  policy", f"{'level':<15}{'waits for':<12}{'floor':<12}{'malicious':<16}benign"
    for row in list_policy(config):
        waits = f"{row['waits_s']:g} s" if row["waits_s"] else "nothing"
        yield "", f"{row['level']:<15}{waits:<12}{row['floor']:<12}{row['malicious']:<16}{row['benign']}"
    yield "", "suspicious and untriaged change nothing; past the time the alert goes out, and the verdict follows"


def list_policy(config: Config) -> list[dict[str, Any]]:
    """What each label may do to an alert of each level, the highest first; empty where triage is off."""
    triage = config.triage
    if not triage.enabled:
        return []
    rows = []
    for level in reversed(Level):
        raised = triage.raise_on_malicious and level is not Level.CRITICAL
        local = triage.benign_to_journald and triage.floor.allows_journald(level)
        rows.append(
            {
                "level": level.value,
                "waits_s": triage.deadline_s[level],
                "floor": getattr(triage.floor, level.value),
                "malicious": f"to {list(Level)[level.rank + 1]}" if raised else "no change",
                "benign": "journal only" if local else "no change",
            }
        )
    return rows


def _describe_webhook(webhook: WebhookSettings) -> str:
    from watchdogd.conversion import describe  # noqa: PLC0415 - as above

    signed = "signed" if webhook.secret else "not signed"
    if webhook.format == "apprise":  # of some services the host is the token
        return f"{webhook.name}: by apprise, to what {webhook.url_file} holds, from {webhook.min_level} up"
    form = "" if webhook.format == "json" else f" as {webhook.format}"
    return f"{webhook.name}: {describe(webhook)['url']}{form}, from {webhook.min_level} up, {signed}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
