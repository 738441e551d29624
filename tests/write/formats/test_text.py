"""Lines for people: nothing from the host may forge, hide or move anything."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.write.formats.made import make_hostile
from watchdogd.entities import Label, Verdict
from watchdogd.webhook_settings import WebhookSettings
from watchdogd.write.formats import card
from watchdogd.write.formats import text as text_module
from watchdogd.write.formats.message import FORMATS, load_format
from watchdogd.write.formats.text import (
    alert_line,
    cut_text,
    describe_correlation,
    escape_controls,
    escape_part,
    escape_surrogates,
    escape_within,
    quote_text,
)
from watchdogd.write.journald import journal_fields
from watchdogd.write.masked import cut_words

if TYPE_CHECKING:
    from collections.abc import Callable

    from watchdogd.entities import Alert

ANY_TEXT = st.text(st.characters(codec=None))


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("cat /etc/shadow", "cat /etc/shadow"),
        ("a\nb\tc\rd", r"a\nb\tc\rd"),
        ("nul\0 esc\x1b[2J del\x7f c1\x9b gs\x1d", r"nul\x00 esc\x1b[2J del\x7f c1\x9b gs\x1d"),
        ("rtl\u202egpj.exe", r"rtl\u202egpj.exe"),
        ("zero\u200bwidth\ufeff", r"zero\u200bwidth\ufeff"),
        ("line\u2028sep", r"line\u2028sep"),
        ("tag\U000e0041", r"tag\U000e0041"),
        ("surrogate\udcff \ud800", r"surrogate\xff \ud800"),
        ("naïve Ünïcode 日本 😀", "naïve Ünïcode 日本 😀"),
    ],
)
def test_escapes(text: str, escaped: str) -> None:
    assert escape_controls(text) == escaped


@given(ANY_TEXT)
def test_escaped_text_is_one_visible_line(text: str) -> None:
    escaped = escape_controls(text)
    escaped.encode()
    assert len(escaped.splitlines()) <= 1
    assert not [char for char in escaped if unicodedata.category(char) in {"Cc", "Zl", "Zp", "Cs"}]
    assert escape_controls(escaped) == escaped


@given(ANY_TEXT)
def test_surrogates_are_all_that_the_document_changes(text: str) -> None:
    clean = escape_surrogates(text)
    clean.encode()
    if not any(unicodedata.category(char) == "Cs" for char in text):
        assert clean == text


@given(st.text(), st.integers(min_value=40, max_value=200))
def test_cut_text_stays_within_its_bytes(text: str, limit: int) -> None:
    cut = cut_text(text, limit)
    assert len(cut.encode()) <= limit
    assert cut == text or cut.endswith(f"[cut, {len(text.encode())} bytes in all]")


def test_quotes_show_where_foreign_text_ends() -> None:
    assert quote_text('x" verdict benign "') == r'"x\" verdict benign \""'


@given(ANY_TEXT, st.integers(min_value=60, max_value=200))
def test_what_is_escaped_within_limits_says_what_it_lacks(text: str, limit: int) -> None:
    shown = escape_within(text, limit)
    assert len(shown.encode()) <= limit
    assert shown == escape_controls(text) or "...[cut, " in shown
    part = escape_part(text, limit)
    assert (
        part == escape_controls(text) if len(text) <= limit else part.endswith(f"[cut, {len(text)} characters in all]")
    )


@pytest.mark.parametrize("char", ["\n", "a", "\udcff", "@"])
@pytest.mark.parametrize("name", ["journal", *sorted(FORMATS.keys() - {"json", "template"})])
def test_of_a_long_text_only_what_can_be_shown_is_escaped(
    monkeypatch: pytest.MonkeyPatch, name: str, char: str
) -> None:
    """A megabyte in each field once took seconds."""
    escaped: list[int] = []

    def count(text: str) -> str:
        escaped.append(len(text))
        return escape_controls(text)

    for module in (text_module, card):
        monkeypatch.setattr(module, "escape_controls", count)
    alert = make_hostile(char * 1_000_000)
    if name == "journal":
        journal_fields(alert, "alert")
    else:
        url = "https://example.org/api/v2/alerts"
        load_format(name)(alert, "alert", WebhookSettings(name="x", url=url, format=name))  # type: ignore[arg-type]
    assert 0 < sum(escaped) < 1_000_000


def test_line_says_level_verdict_rule_who_what_why(make_alert: Callable[..., Alert]) -> None:
    assert alert_line(make_alert()) == (
        "high, malicious 87% (evidence 0.62): Shadow file read: "
        'root (login alice) ran "/usr/bin/cat /etc/shadow" from bash < sshd; '
        "why: the rule's level is high, never seen on this host; "
        'triage: "Reads password hashes."'
    )


WITH = 'with "/usr/bin/cat /etc/shadow"'


@pytest.mark.parametrize(
    ("category", "action", "fields", "deed"),
    [
        ("file_event", "create", {"TargetFilename": "/etc/x"}, f'created "/etc/x" {WITH}'),
        ("file_access", "read", {"TargetFilename": "/etc/shadow"}, f'read "/etc/shadow" {WITH}'),
        ("file_delete", "delete", {"TargetFilename": "/var/log/auth.log"}, f'deleted "/var/log/auth.log" {WITH}'),
        (
            "file_change",
            "chmod",
            {"TargetFilename": "/tmp/x", "Mode": "4755"},
            'changed the mode of "/tmp/x" to "4755"',
        ),
        ("file_event", "rename", {"TargetFilename": "/b", "SourceFilename": "/a"}, f'renamed "/a" to "/b" {WITH}'),
        ("file_event", "\x1b[2J", {"TargetFilename": "/b\n"}, '\\x1b[2J "/b\\n"'),
        (
            "network_connection",
            "connect",
            {"DestinationIp": "192.0.2.7", "DestinationPort": 4444},
            f'connected to "192.0.2.7 port 4444" {WITH}',
        ),
        (
            "host_metrics",
            "sample",
            {"metric": "cpu.percent", "value": 97.5, "unit": "percent", "baseline": 12.0, "CommandLine": "xmr\n"},
            'CPU at 97.5 % (usual is 12 %), by "xmr\\n"',
        ),
        (
            "host_metrics",
            "sample",
            {"metric": "disk.device_busy_percent", "value": 99.0, "unit": "percent", "device": "sda\n"},
            'disk.device_busy_percent: 99 % on "sda\\n"',
        ),
        (
            "host_metrics",
            "listen",
            {"metric": "sockets.listener_opened", "DestinationIp": "0.0.0.0", "DestinationPort": 8080},
            f'began to listen on "0.0.0.0 port 8080" {WITH}',
        ),
        ("auditd", "ptrace", {}, f"ptrace {WITH}"),
    ],
)
def test_what_was_done_by_category(
    make_alert: Callable[..., Alert], category: str, action: str, fields: dict[str, str | float], deed: str
) -> None:
    assert deed in alert_line(make_alert(category=category, action=action, fields=fields))


def test_a_summary_that_repeats_the_figure_is_not_said_twice(make_alert: Callable[..., Alert]) -> None:
    fields = {"metric": "cpu.percent", "value": 97.5, "unit": "percent", "Image": "/opt/miner", "mount": "/a"}
    same = "CPU at 97.5 % on /a, by /opt/miner"
    for summary, times in ((same, 1), ("A miner: CPU at 97.5 %.", 2), ("CPU al 97.5 %", 1)):
        verdict = Verdict(label=Label.SUSPICIOUS, by="scorer", confidence=0.5, summary=summary)
        line = alert_line(make_alert(category="host_metrics", process=None, fields=fields, verdict=verdict))
        assert line.count("CPU at 97.5 %") == times
        assert ("triage: " in line) == (summary != same)


def test_what_failed_is_said_to_have_failed(make_alert: Callable[..., Alert]) -> None:
    fields = {"TargetFilename": "/etc/shadow"}
    line = alert_line(make_alert(category="file_access", action="read", outcome="failure", fields=fields))
    assert 'read "/etc/shadow" (failed) with' in line


def test_what_belongs_together_is_said_with_its_number_and_time(make_alert: Callable[..., Alert]) -> None:
    assert describe_correlation(make_alert()) == ""
    matched = {"User": 'bo"b\n', "count": "5"}
    alert = make_alert(is_correlation=True, matched=matched, first_seen_ms=1_000, last_seen_ms=13_300)
    assert describe_correlation(alert) == r'count 5 in 12.3 s, User "bo\"b\n"'
    assert r'; together: count 5 in 12.3 s, User "bo\"b\n"; ' in alert_line(alert)


def test_late_and_repeated_are_said(make_alert: Callable[..., Alert]) -> None:
    line = alert_line(make_alert(late=True, count=7, verdict=None))
    assert "; seen 7 times since 2025-07-20 08:26:40Z; late; " in line
    assert line.startswith("high, untriaged (evidence 0.62): ")
    assert "; seen 2 times since long ago; " in alert_line(make_alert(count=2, first_seen_ms=1 << 62))


@pytest.mark.parametrize(("text", "shown"), [("a\U0010ffff", r"a\U0010ffff"), ("\ufdd0b\ufffe", r"\ufdd0b\ufffe")])
def test_what_is_no_character_is_written_out(text: str, shown: str) -> None:
    """systemd takes such text for binary: journalctl shows "[blob data]" instead of the alert."""
    assert escape_controls(text) == shown


@pytest.mark.parametrize("cut", [lambda text: escape_within(text, 4096), lambda text: escape_part(text, 100)])
def test_what_masking_has_cut_is_counted_as_it_was(cut: Callable[[str], str]) -> None:
    assert cut(cut_words("A" * 1_000_000)).endswith("...[cut, 1000000 characters in all]")
    assert cut("A" * 5000 + "...[cut, 5 characters in all]").endswith("...[cut, 5029 characters in all]")
