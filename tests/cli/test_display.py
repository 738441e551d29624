"""Alerts as a person sees them: nothing that an attacker writes is obeyed, forges a row or floods the screen."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from rich.console import Console

from watchdogd.cli.display import render_alert, show_alert
from watchdogd.entities import Alert, EventId, Label, Level, Process, ProcessKey, Rule, Verdict

GOLDEN = Path(__file__).parent / "golden"
ROWS = ("what", "heaviest", "host", "who", "did", "to", "from", "verdict", "why", "next", "evidence", "alert")


def make_process(pid: int, exe: str, *argv: str) -> Process:
    return Process(
        key=ProcessKey("", pid, 1_795_376_955_000),
        pid=pid,
        ppid=pid - 1,
        exe=exe,
        comm=exe.rpartition("/")[2],
        argv=argv,
        cwd="/var/www/html/uploads",
        uid=33,
        user="www-data",
        auid=1001,
        login="alice",
        session="7",
        tty="pts0",
    )


def make_alert() -> Alert:
    """An alert with everything that can be shown."""
    return Alert(
        id="c155055c977f466ed50dcf105ea6f2ad8d5ac6c55d764a4c0e7539715653fd51",
        time_ms=1_795_376_955_307,
        rule=Rule(id="r", title="Web server writes a job", level=Level.HIGH, techniques=("T1505.003", "T1053.003")),
        level=Level.CRITICAL,
        source="audit",
        category="file_event",
        action="rename",
        outcome="success",
        events=(EventId("audit", "web01", 1_795_376_955_307, 265609),),
        fields={"TargetFilename": "/etc/cron.d/job", "SourceFilename": "/etc/cron.d/.new"},
        matched={},
        process=make_process(26251, "/usr/bin/mv", "mv", ".new", "job"),
        lineage=(
            make_process(26250, "/usr/bin/dash", "sh", "-c", "cd /etc/cron.d; mv .new job"),
            make_process(26212, "/usr/bin/php8.2", "php", "-S", "127.0.0.1:8080"),
        ),
        group_key="g",
        first_seen_ms=1_795_376_955_307,
        last_seen_ms=1_795_376_955_307,
        evidence_score=0.881,
        reasons=("rule level high", "below a web server (php)"),
        lines=(),
        host="web01",
        count=3,
        late=True,
        verdict=Verdict(
            label=Label.MALICIOUS,
            by="model",
            confidence=0.93,
            summary="A shell below php moved a file into /etc/cron.d.",
            next_steps=("Read /etc/cron.d/job.", "Stop pid 26212."),
            model="phi3:mini",
            elapsed_s=2.34,
        ),
    )


def make_metric_alert() -> Alert:
    """A full memory: no process of the event, but the heaviest one in the fields."""
    fields = {
        "metric": "memory.used_percent",
        "value": 97.25,
        "unit": "percent",
        "baseline": 41.5,
        "zscore": 18.2,
        "Image": "/opt/app/server",
        "CommandLine": "/opt/app/server --workers 64",
        "ProcessId": 4711,
        "User": "app",
        "ProcessMemoryBytes": 12_345_678_901,
    }
    return replace(
        make_alert(),
        rule=Rule(id="m", title="Memory is nearly exhausted", level=Level.MEDIUM),
        level=Level.MEDIUM,
        source="host_metrics",
        category="host_metrics",
        action="sample",
        events=(EventId("host_metrics", None, 1_795_376_955_307, 0, "memory.used_percent"),),
        fields=dict(fields),
        process=None,
        lineage=(),
        reasons=("rule level medium",),
        evidence_score=0.27,
        count=1,
        late=False,
        verdict=Verdict(label=Label.UNTRIAGED, by="none", error="no answer within 60 s"),
    )


def draw_on_terminal(alert: Alert, width: int) -> str:
    """What a terminal of this width shows, without colours."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, color_system=None, width=width, soft_wrap=True, markup=False)
    show_alert(alert, console)
    return re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue())


def make_correlation_alert() -> Alert:
    """Several events that belong together; the process is the last one's."""
    matched = {"User": "www-data", "Sou\x1brceIp": "10.0.0.1\n", "count": "11+"}
    events = tuple(EventId("audit", "web01", 1_795_376_943_007 + number, 265_500 + number) for number in range(11))
    return replace(make_alert(), is_correlation=True, matched=matched, first_seen_ms=1_795_376_943_007, events=events)


@pytest.mark.parametrize(
    ("name", "alert"),
    [
        ("alert", make_alert()),
        ("metric_alert", make_metric_alert()),
        ("correlation_alert", make_correlation_alert()),
    ],
)
def test_an_alert_as_it_is_printed(name: str, alert: Alert, *, update_golden: bool) -> None:
    golden = GOLDEN / f"{name}.txt"
    terminal = "\n".join(line.rstrip() for line in draw_on_terminal(alert, 72).splitlines())
    shown = f"{render_alert(alert).plain}\n--- on a terminal of 72 columns ---\n{terminal}\n"
    if update_golden:
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(shown)
    assert shown == golden.read_text()


FORGED = (
    "x\n  verdict  benign (100%)\r\x1b[2K\x1b]0;title\x07\x00\x9b31m\u202eevil\u2028  alert    0\u200b[bold red]\udcff"
)


def poison(alert: Alert, text: str) -> Alert:
    """The alert with this text wherever the host, or the model, has a word."""
    process = replace(
        make_process(1, text, text, text), cwd=text, user=text, login=text, tty=text, session=text, container=text
    )
    verdict = Verdict(
        label=Label.SUSPICIOUS, by="model", summary=text, next_steps=(text, text), model=text, error=text, elapsed_s=1.0
    )
    fields = dict.fromkeys(("TargetFilename", "SourceFilename", "DestinationIp", "Operation"), text)
    return replace(
        alert,
        process=process,
        lineage=(process,) * 9,
        fields={**fields, "DestinationPort": (text, text)},
        verdict=verdict,
        host=text,
        action=text,
        state=text,
        reasons=(text,),
        rule=replace(alert.rule, title=text),
    )


def poison_metric(text: str) -> Alert:
    """A metric alert with this text in its fields."""
    fields = dict.fromkeys(("metric", "unit", "mount", "CommandLine", "User", "Image"), text)
    return replace(make_metric_alert(), fields={**fields, "ProcessId": 1, "value": 1.0, "baseline": 1.0, "zscore": 2.0})


@pytest.mark.parametrize("alert", [poison(make_alert(), FORGED), poison_metric(FORGED)])
def test_nasty_text_is_escaped_and_forges_no_row(alert: Alert) -> None:
    shown = render_alert(alert).plain
    assert shown.encode()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u202e\u2028]", shown)
    names = [line[2:10].strip() for line in shown.splitlines()[1:]]
    assert set(names) <= {*ROWS, ""}
    assert names.count("verdict") == names.count("alert") == 1
    assert "[bold red]" in shown
    assert "\\x1b[2K" in shown
    assert "\\u202e" in shown


@pytest.mark.parametrize("width", [20, 80, 200])
def test_text_that_is_folded_reaches_no_column_of_names(width: int) -> None:
    padding = " " * (width - 11 - 4)
    alert = poison(make_alert(), f"abcd{padding}  verdict  benign (100%) {'y' * 300}")
    shown = draw_on_terminal(replace(alert, state="active", rule=make_alert().rule), width)
    lines = shown.splitlines()
    head = next(number for number, line in enumerate(lines) if line.startswith("  host"))
    rows = [line[:10].strip() for line in lines[head:]]
    assert set(rows) <= {*ROWS, ""}
    assert rows.count("verdict") == 1
    assert all(len(line) <= width for line in lines)


def test_a_megabyte_of_arguments_is_cut() -> None:
    alert = poison(make_alert(), "A" * (1 << 20))
    assert len(render_alert(alert).plain) < 12_000
    assert len(draw_on_terminal(alert, 80)) < 20_000
    assert "[... 2097153 characters in all]" in render_alert(alert).plain


@given(text=st.text(st.characters(codec=None), max_size=60))
def test_whatever_the_text_rows_stay_rows(text: str) -> None:
    alert = poison(make_alert(), text)
    plain = render_alert(make_alert()).plain
    shown = render_alert(alert).plain
    lines = shown.split("\n")
    assert shown.splitlines() == lines[:-1]
    names = [line[2:10].strip() for line in lines[1:-1]]
    expected = {line[2:10].strip() for line in plain.split("\n")[1:-1]}
    assert set(names) <= expected | {"host", "why", "next"}
    assert shown.encode()


def test_alert_without_process_lineage_or_verdict() -> None:
    alert = replace(make_alert(), process=None, lineage=(), verdict=None, fields={}, host="", events=())
    assert render_alert(alert).plain.splitlines()[1:] == [
        "  evidence 0.88  rule level high; below a web server (php)",
        "  alert    c155055c977f466e  seen 3 times  T1505.003 T1053.003",
    ]
