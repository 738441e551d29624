"""The table of fields knows what decode and enrich really produce."""

from __future__ import annotations

from pathlib import Path

import pytest

from watchdogd.enrich.context import CONTEXTS
from watchdogd.match import fields, syntax
from watchdogd.match.placeholders import Placeholders
from watchdogd.match.sigma import read_file
from watchdogd.samples import read_audit
from watchdogd.telemetry import Counters

DEMO = Path(__file__).resolve().parents[1] / "data" / "demo.log"


def assert_known(path: Path) -> int:
    events = list(read_audit(path.read_bytes().splitlines(), Counters()))
    for event in events:
        for view in event.views:
            assert set(view.fields) <= set(fields.fields_of_view(view.category)), (path, view)
            for name, value in view.fields.items():
                assert not isinstance(value, tuple) or name in fields.SEVERAL, (path, name)
                if name in fields.CHOICES:
                    assert set(value if isinstance(value, tuple) else (value,)) <= set(fields.CHOICES[name]), (
                        path,
                        view,
                    )
        for record in event.records:
            for name, _, _ in record.fields:
                assert fields.has_field(record.type, name), (path, record.type, name)
    return len(events)


def test_every_field_of_the_demo_is_known() -> None:
    assert assert_known(DEMO) > 100


def test_every_field_of_the_recordings_is_known(corpora: Path) -> None:
    assert sum(assert_known(path) for path in (corpora / "recorded" / "logs").glob("*.log")) > 1000


def test_every_view_has_its_fields() -> None:
    for category in syntax.CATEGORIES:
        assert len(fields.fields_of_view(category)) >= 5, category
    assert fields.fields_of_view("no such view") == ()
    assert "sshd" not in fields.load_fields().views or fields.fields_of_view("sshd")


@pytest.mark.parametrize(
    ("kind", "name", "there"),
    [
        ("SYSCALL", "exe", True),
        ("SYSCALL", "EXE", True),
        ("SYSCALL", "a0", True),
        ("SYSCALL", "a12", True),
        ("SYSCALL", "name", False),
        ("EXECVE", "a17", True),
        ("EXECVE", "a1[2]", True),
        ("EXECVE", "exe", False),
        ("PATH", "a0", False),
        ("PATH", "type", True),
        ("USER_LOGIN", "whatever", True),
    ],
)
def test_fields_of_record_types(kind: str, name: str, *, there: bool) -> None:
    assert fields.has_field(kind, name) is there


@pytest.mark.parametrize("name", ["type", "exe", "EXE", "a0", "a1_len", "SYSCALL", "AUID", "saddr", "old-auid"])
def test_fields_of_records(name: str) -> None:
    assert fields.is_record_field(name)


@pytest.mark.parametrize("name", ["Image", "CommandLine", "sucess", "a", "argv"])
def test_no_fields_of_records(name: str) -> None:
    assert not fields.is_record_field(name)


def test_the_nearest_field_whatever_its_case() -> None:
    assert fields.suggest_field("commandline", ["Image", "CommandLine"]) == "did you mean 'CommandLine'?"
    assert fields.suggest_field("Hashes", ["Image", "CommandLine"]) == ""


def test_the_choices_are_those_of_the_code() -> None:
    assert set(fields.CHOICES["Context"]) == set(CONTEXTS)


def test_contexts_of_one_s_own_are_no_mistake_and_misspelt_ones_are(tmp_path: Path) -> None:
    rule = tmp_path / "rule.yml"
    rule.write_text(
        "title: X\nid: 11111111-1111-4111-8111-111111111111\nlevel: low\nstatus: test\ntags: [attack.execution]\n"
        "logsource: {product: linux, category: process_creation}\n"
        "detection:\n  it: {Image: /bin/x, Context: [deployment, package_managr]}\n  condition: it\n"
    )
    reading = read_file(rule, Placeholders(), lint=True)
    assert [(problem.message, problem.hint) for problem in reading.problems] == [
        ("Context is never 'package_managr'", "did you mean 'package_manager'?")
    ]
