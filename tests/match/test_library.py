"""The reader process, from outside."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.match.conftest import link_folders
from watchdogd.errors import RuleError
from watchdogd.match import library
from watchdogd.match.engine import Engine
from watchdogd.match.library import load_rules

if TYPE_CHECKING:
    from tests.match.conftest import WriteRule

DETECTION = "sel: {F|endswith: [/x, y]}\ncondition: sel"


def test_the_answer_survives_the_way_between_the_processes(write_rule: WriteRule) -> None:
    folder = write_rule(DETECTION).parent
    ruleset = load_rules([folder])
    assert ruleset == link_folders(folder)
    assert [rule.title for rule in ruleset.rules] == ["A rule"]
    assert ruleset.inactive == ()


def test_any_mistake_refuses_all(write_rule: WriteRule) -> None:
    write_rule(DETECTION)
    folder = write_rule(
        "sel: {F|zz: x}\ncondition: sel", name="other.yml", rule_id="5f0b3f4e-6a1c-4a53-9a7e-0f6f1f7d1c09"
    ).parent
    with pytest.raises(RuleError, match=r"other\.yml:6:11: error: unknown modifier 'zz'"):
        load_rules([folder])


def test_inactive_rules_and_warnings_are_told(write_rule: WriteRule) -> None:
    path = write_rule(DETECTION, source="{product: windows}")
    path.write_text(path.read_text().replace("level: medium\n", ""))
    ruleset = load_rules([path.parent])
    assert ruleset.rules == ()
    ((rule, reason),) = ruleset.inactive
    assert rule.title == "A rule"
    assert "windows" in reason
    assert [problem.severity for problem in ruleset.warnings] == ["warning"]


def test_the_order_of_the_disk_does_not_count(write_rule: WriteRule, tmp_path: Path) -> None:
    names = ["b.yml", "a.yml", "c/d.yaml"]
    for number, name in enumerate(names):
        write_rule(DETECTION, name=name, rule_id=f"5f0b3f4e-6a1c-4a53-9a7e-0f6f1f7d1c0{number}")
    one = load_rules([tmp_path / "rules"])
    assert [Path(rule.path).name for rule in one.rules] == ["a.yml", "b.yml", "d.yaml"]


@pytest.mark.parametrize("folders", [[], [Path("/nowhere/at/all")]])
def test_no_folder(folders: list[Path]) -> None:
    with pytest.raises(RuleError):
        load_rules(folders)


def test_a_reader_that_hangs_is_stopped(write_rule: WriteRule) -> None:
    with pytest.raises(RuleError, match="took longer"):
        load_rules([write_rule(DETECTION).parent], timeout_s=0.001)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("raise SystemExit(3)", "status 3"),
        ("raise ValueError('\\x1b[2J')", r"ValueError: \\x1b"),
        ("pass", "cannot be read"),
    ],
)
def test_a_reader_that_dies_is_told(
    write_rule: WriteRule, monkeypatch: pytest.MonkeyPatch, start: str, message: str
) -> None:
    monkeypatch.setattr(library, "_START", start)
    with pytest.raises(RuleError, match=message):
        load_rules([write_rule(DETECTION).parent])


def test_pysigma_stays_out_of_the_process_that_asks(write_rule: WriteRule) -> None:
    code = (
        "import sys; from pathlib import Path; from watchdogd.match import engine, library;"
        "engine.Engine(library.load_rules([Path(sys.argv[1])]));"
        "print([name for name in sys.modules if name.split('.')[0] in ('sigma', 'pyparsing', 'yaml', 'requests')])"
    )
    folder = str(write_rule(DETECTION).parent)
    answer = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_every_linux_rule_of_sigmahq_loads(corpora: Path) -> None:
    ruleset = load_rules([corpora / "third_party" / "sigmahq"])
    assert ruleset.warnings == ()
    assert (len(ruleset.rules), len(ruleset.inactive)) == (245, 3)
    assert {reason.split("'")[1] for _, reason in ruleset.inactive} == {"clamav", "guacamole", "vsftpd"}
    Engine(ruleset)
