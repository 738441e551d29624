"""An alert on a terminal: what happened, who did it and from where, what triage says and why."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from watchdogd.entities import Label, Level
from watchdogd.figures import describe_amount
from watchdogd.write.formats.ecs import format_time
from watchdogd.write.formats.text import command_line, describe_correlation, escape_controls

if TYPE_CHECKING:
    from collections.abc import Iterator

    from watchdogd.entities import Alert, FieldMap, FieldValue, Process, Verdict

LEVEL_STYLES = {
    Level.CRITICAL: "bold white on red",
    Level.HIGH: "bold red",
    Level.MEDIUM: "bold yellow",
    Level.LOW: "cyan",
    Level.INFORMATIONAL: "dim",
}
LABEL_STYLES = {Label.MALICIOUS: "bold red", Label.SUSPICIOUS: "yellow", Label.BENIGN: "green"}
_VALUE_CHARS = 400
_ANCESTOR_CHARS = 100
_ANCESTORS = 6
_TARGETS = ("DestinationIp", "DestinationPort", "DestinationHostname", "Operation", "Syscall")
_SERIALS = 4
_NAME_WIDTH = 8

Row = tuple[str, str, str]
"""Name, text (escaped, cut) and style."""


class TextConsole(Console):
    """Standard output for a person. A reader that has left is an exception, which `main` knows how to end on."""

    def __init__(self) -> None:
        super().__init__(file=sys.stdout, highlight=False, markup=False, emoji=False, soft_wrap=True)

    def on_broken_pipe(self) -> None:
        """Raise BrokenPipeError (called while it is handled); rich would end the program."""
        raise  # noqa: PLE0704 -- rich calls this in its `except BrokenPipeError`


def show_alert(alert: Alert, console: Console | None = None) -> None:
    """Print one alert on standard output, in colour where that is a terminal.

    There, long text is folded below its own beginning: no text of the host reaches the column where our names of rows
    stand. Elsewhere each row is one line.
    """
    console = console or TextConsole()
    if not console.is_terminal:
        console.print(render_alert(alert))
        return
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(width=_NAME_WIDTH + 2, style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value, style in _list_rows(alert):
        table.add_row(f"  {name}", Text(value, style))
    console.print(_render_head(alert), soft_wrap=False)
    console.print(table, soft_wrap=False)
    console.print()


def render_alert(alert: Alert) -> Text:
    """The alert as lines of text, everything from the host escaped and cut."""
    text = _render_head(alert)
    for name, value, style in _list_rows(alert):
        text.append(f"\n  {name:<{_NAME_WIDTH}} ", "dim")
        text.append(value, style)
    return text.append("\n")


def _render_head(alert: Alert) -> Text:
    text = Text()
    text.append(f"{_format_time(alert.time_ms)}  ", "dim")
    text.append(f" {alert.level.upper()} ", LEVEL_STYLES[alert.level])
    text.append(f"  {_clean(alert.rule.title)}", "bold")
    if alert.state != "active":
        text.append(f"  {_clean(alert.state)}", "magenta")
    if alert.late:
        text.append("  late", "magenta")
    return text


def _list_rows(alert: Alert) -> Iterator[Row]:
    if "metric" in alert.fields:
        yield from _list_metric_rows(alert.fields)
    if alert.host:
        yield "host", _clean(alert.host), ""
    if together := describe_correlation(alert):
        yield "together", _clean(together), "bold"
    if alert.process is not None:
        yield "who", _describe_user(alert.process), ""
        yield "did", _describe_command(alert.process), "bold"
    if target := _describe_target(alert):
        yield "to", target, ""
    if alert.lineage:
        yield "from", _describe_lineage(alert.lineage), ""
    yield from _list_verdict_rows(alert.verdict)
    yield "evidence", f"{alert.evidence_score:.2f}  {_clean('; '.join(alert.reasons))}", ""
    serials = [str(event.serial) for event in alert.events if event.serial]
    events = ", ".join([serials[0], "...", *serials[-_SERIALS:]] if len(serials) > _SERIALS + 1 else serials)
    times = f"  seen {alert.count} times" if alert.count > 1 else ""
    techniques = _clean(" ".join(alert.rule.techniques))
    yield "alert", f"{alert.id[:16]}{f'  event {events}' if events else ''}{times}  {techniques}".rstrip(), "dim"


def _list_metric_rows(fields: FieldMap) -> Iterator[Row]:
    """The figure, how unusual it is here, and the process that weighs most at that moment."""
    text = describe_amount(fields, str) or str(fields["metric"])
    if fields.get("zscore") is not None:
        text += f", z-score {fields['zscore']}"
    yield "what", _clean(text), "bold"
    if fields.get("ProcessId") is None:
        return
    weight = []
    if fields.get("ProcessCpuPercent") is not None:
        weight.append(f"{fields['ProcessCpuPercent']} % of a CPU")
    memory = fields.get("ProcessMemoryBytes")
    if isinstance(memory, int):
        weight.append(f"{memory / 1_000_000:,.0f} MB")
    command = fields.get("CommandLine") or fields.get("Image") or "?"
    owner = f", run by {_clean(str(fields['User']))}" if fields.get("User") else ""
    what = f"   [pid {fields['ProcessId']}{owner}{''.join(f', {part}' for part in weight)}]"
    yield "heaviest", _clean(str(command)) + what, ""
    if parent := fields.get("ParentImage"):
        yield "from", _clean(str(parent)), ""


def _list_verdict_rows(verdict: Verdict | None) -> Iterator[Row]:
    if verdict is None:
        return
    stays = " (the level stays: no verdict lowers it)" if verdict.label is Label.BENIGN else ""
    yield "verdict", _describe_verdict(verdict) + stays, LABEL_STYLES.get(verdict.label, "magenta")
    if verdict.summary:
        yield "why", _clean(verdict.summary), ""
    for step in verdict.next_steps:
        yield "next", _clean(step), ""


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
    where = f"   (in {_clean(process.cwd)})" if process.cwd else ""
    return f"{_clean(command_line(process) or '?')}{where}   [pid {process.pid}]"


def _describe_target(alert: Alert) -> str:
    """What was acted upon; a program that was started stands in `did`."""
    if alert.category == "process_creation" or "metric" in alert.fields:
        return ""
    fields = alert.fields
    parts = [_show_field(fields[name]) for name in _TARGETS if fields.get(name) not in (None, "")]
    if fields.get("TargetFilename"):
        target = _show_field(fields["TargetFilename"])
        source = fields.get("SourceFilename")
        parts.insert(0, f"{_show_field(source)} -> {target}" if source else target)
    failed = ", which failed" if alert.outcome == "failure" else ""
    return f"{_clean(alert.action)}{failed}: {'  '.join(parts)}" if parts else ""


def _show_field(value: FieldValue | tuple[FieldValue, ...]) -> str:
    return _clean(", ".join(map(str, value)) if isinstance(value, tuple) else str(value))


def _describe_lineage(lineage: tuple[Process, ...]) -> str:
    shown = [_clean(command_line(process) or "?", _ANCESTOR_CHARS) for process in lineage[:_ANCESTORS]]
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
    cut = f"{safe[:limit]} [... {len(safe)} characters in all]"
    return cut if len(cut) < len(safe) else safe


def _format_time(time_ms: int) -> str:
    """To the second; a time that no calendar has is the nearest one that it has."""
    return f"{format_time(time_ms)[:19].replace('T', ' ')}Z"
