"""Every kind of mistake in rule files: a file, and beside it what `watchdogd check` says about it."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from watchdogd.cli.check import annotate, lint_rules, show_problem
from watchdogd.cli.main import main
from watchdogd.errors import Place, Problem, RuleError
from watchdogd.match.sigma import answer_request
from watchdogd.match.sources import RuleSources
from watchdogd.match.syntax import ReadRequest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from watchdogd.match.syntax import FileReading

FIXTURES = Path(__file__).parent / "mistakes"
PATHS = sorted(FIXTURES.glob("*.yml"))


def read_here(paths: Sequence[Path], placeholders: Path | None) -> list[FileReading]:
    """What the reader process would answer, without starting one."""
    assert placeholders is None
    return answer_request(ReadRequest(tuple(os.fsencode(path) for path in paths), lint=True))


def check(folder: Path) -> Iterator[str]:
    try:
        rules, problems = lint_rules(RuleSources((folder,)), read_here)
    except RuleError as error:
        problems = error.problems
    else:
        for rule, reason in rules.inactive:
            yield f"inactive: {rule.title}: {reason}"
    for problem in problems:
        yield from show_problem(problem)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_kind_of_mistake_is_told_with_its_place(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, update_golden: bool
) -> None:
    shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    said = "".join(f"{line}\n" for line in check(Path()))
    assert said, "nothing is said of this mistake"
    golden = path.with_suffix(".txt")
    if update_golden:
        golden.write_text(said, encoding="utf-8")
    assert said == golden.read_text(encoding="utf-8")


def test_the_mistakes_are_many_and_nearly_all_have_a_line_and_a_caret() -> None:
    assert len(PATHS) >= 40
    without = {path.stem for path in PATHS if "^" not in path.with_suffix(".txt").read_text(encoding="utf-8")}
    assert without == {"empty_file", "logsource_inactive"}


def test_no_golden_is_left_over() -> None:
    assert {path.stem for path in FIXTURES.iterdir()} == {path.stem for path in PATHS}


def test_what_is_right_draws_no_warning(corpora: Path) -> None:
    rules = Path(__file__).resolve().parents[2] / "rules"
    assert lint_rules(RuleSources((rules,)), read_here)[1] == ()
    _, warnings = lint_rules(RuleSources((corpora / "third_party" / "sigmahq",)), read_here)
    assert sorted({re.sub(r"'.*", "", warning.message) for warning in warnings}) == [
        "Image has no backslashes here: ",
        "ParentImage has no backslashes here: ",
        "a wildcard at an end of ",
        "network_connection has no field ",
    ]
    assert len(warnings) == 6


def test_the_command_says_it_in_three_formats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("modifier_unknown", "unused_selection"):
        shutil.copy(FIXTURES / f"{name}.yml", tmp_path)
    text = (tmp_path / "unused_selection.yml").read_text()
    (tmp_path / "unused_selection.yml").write_text(text.replace("6f1f7d1c01", "6f1f7d1c02"))
    monkeypatch.chdir(tmp_path)
    assert main(["check", "--rules", ".", "--format", "github"]) == 1
    assert capsys.readouterr().out == (
        "::error file=modifier_unknown.yml,line=7,col=21::unknown modifier 'containz' (did you mean 'contains'?)\n"
        "::warning file=unused_selection.yml,line=8,col=3::the condition does not use 'filter_build' "
        "(name it there, or take it out)\n"
    )
    assert main(["check", "--rules", ".", "--format", "json"]) == 1
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert [(problem["severity"], problem["line"], problem["column"]) for problem in problems] == [
        ("error", 7, 21),
        ("warning", 8, 3),
    ]
    assert main(["check", "--rules", "."]) == 1
    assert "modifier_unknown.yml:7:21: error: unknown modifier" in capsys.readouterr().out
    (tmp_path / "modifier_unknown.yml").unlink()
    assert main(["check", "--rules", "."]) == 0
    assert main(["check", "--rules", ".", "--strict"]) == 1


def test_an_annotation_cannot_be_broken_out_of() -> None:
    problem = Problem(Place("a,b:c\n.yml", 1, 2), "100%\n::error::x", "\x1b")
    assert annotate(problem) == "::error file=a%2Cb%3Ac\\n.yml,line=1,col=2::100%25\\n::error::x (\\x1b)"
