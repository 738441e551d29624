"""An alert on a terminal: what happened, who did it and from where, what triage says and why."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from watchdogd.entities import Alert, Label, Level, Process, Verdict
from watchdogd.write.formats.text import escape_controls

if TYPE_CHECKING:
    from collections.abc import Iterator

_LEVEL_STYLES = {
    Level.CRITICAL: "bold white on red",
    Level.HIGH: "bold red",
    Level.MEDIUM: "bold yellow",
    Level.LOW: "cyan",
    Level.INFORMATIONAL: "dim",
}
_LABEL_STYLES = {Label.MALICIOUS: "bold red", Label.SUSPICIOUS: "yellow", Label.BENIGN: "green"}
_VALUE_CHARS = 400
_ANCESTORS = 6
_TARGETS = ("TargetFilename", "SourceFilename", "DestinationIp", "DestinationPort", "Operation", "Syscall")


def show_alert(alert: Alert, console: Console | None = None) -> None:
    """Print one alert on standard output, in colour where that is a terminal."""
    console = console or Console(file=sys.stdout, highlight=False, markup=False, emoji=False, soft_wrap=True)
    console.print(render_alert(alert))


def render_alert(alert: Alert) -> Text:
    """The alert as lines of text, everything from the host escaped and cut."""
    text = Text()
    text.append(f"{_format_time(alert.time_ms)}  ", "dim")
    text.append(f" {alert.level.upper()} ", _LEVEL_STYLES[alert.level])
    text.append(f"  {_clean(alert.rule.title)}", "bold")
    if alert.rule.techniques:
        text.append(f"  {' '.join(alert.rule.techniques)}", "dim")
    if alert.late:
        text.append("  late", "magenta")
    for name, value, style in _list_rows(alert):
        text.append(f"\n  {name:<8} ", "dim")
        text.append(value, style)
    return text.append("\n")


def _list_rows(alert: Alert) -> Iterator[tuple[str, str, str]]:
    if alert.process is not None:
        yield "who", _describe_user(alert.process), ""
        yield "did", _describe_command(alert.process), "bold"
    if target := _describe_target(alert):
        yield "to", target, ""
    if alert.lineage:
        yield "from", _describe_lineage(alert.lineage), ""
    verdict = alert.verdict
    if verdict is not None:
        yield "verdict", _describe_verdict(verdict), _LABEL_STYLES.get(verdict.label, "magenta")
        if verdict.summary:
            yield "why", _clean(verdict.summary), ""
        for step in verdict.next_steps:
            yield "next", _clean(step), ""
    yield "evidence", f"{alert.evidence_score:.2f}  {_clean('; '.join(alert.reasons))}", ""
    events = ", ".join(str(event.serial) for event in alert.events if event.serial)
    yield "alert", f"{alert.id[:16]}{f'  event {events}' if events else ''}", "dim"


def _describe_user(process: Process) -> str:
    user = process.user or (f"uid {process.uid}" if process.uid is not None else "unknown user")
    parts = [user]
    login = process.login or (f"uid {process.auid}" if process.auid not in (None, process.uid) else None)
    if login and login != process.user:
        parts.append(f"logged in as {login}")
    if process.session:
        parts.append(f"session {process.session}")
    if process.tty and process.tty != "(none)":
        parts.append(f"on {process.tty}")
    if process.container:
        parts.append(f"container {process.container[:12]}")
    return _clean(", ".join(parts))


def _describe_command(process: Process) -> str:
    command = " ".join(process.argv) if process.argv else (process.exe or process.comm or "?")
    where = f"   (in {process.cwd})" if process.cwd else ""
    return _clean(command, _VALUE_CHARS) + _clean(where) + f"   [pid {process.pid}]"


def _describe_target(alert: Alert) -> str:
    if "metric" in alert.fields:
        parts = [f"{alert.fields.get(name)}" for name in ("metric", "value", "unit") if alert.fields.get(name)]
        return _clean(" ".join(parts))
    names = [name for name in _TARGETS if alert.fields.get(name) not in (None, "")]
    if alert.category == "process_creation":
        return ""
    return _clean(f"{alert.action}: " + "  ".join(f"{alert.fields[name]}" for name in names) if names else "")


def _describe_lineage(lineage: tuple[Process, ...]) -> str:
    shown = [
        _clean(" ".join(process.argv) if process.argv else (process.exe or process.comm or "?"), 80)
        for process in lineage[:_ANCESTORS]
    ]
    if len(lineage) > _ANCESTORS:
        shown.append(f"({len(lineage) - _ANCESTORS} more)")
    return "  <  ".join(shown)


def _describe_verdict(verdict: Verdict) -> str:
    text = verdict.label.value
    if verdict.confidence is not None:
        text += f" ({verdict.confidence:.0%})"
    if verdict.model:
        text += f" by {verdict.model}"
    if verdict.elapsed_s is not None:
        text += f" in {verdict.elapsed_s:.1f} s"
    return _clean(f"{text}: {verdict.error}" if verdict.error else text)


def _clean(text: str, limit: int = _VALUE_CHARS) -> str:
    safe = escape_controls(text)
    return safe if len(safe) <= limit else f"{safe[:limit]}... ({len(safe)} characters)"


def _format_time(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
