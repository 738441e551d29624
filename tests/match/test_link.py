"""Files become one set: layers, amendments, overrides, names. Filters and correlations have tests of their own."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

from tests.match.conftest import link_folders
from watchdogd.entities import Level
from watchdogd.errors import Place, RuleError
from watchdogd.match.library import load_rules
from watchdogd.match.syntax import Overrides

if TYPE_CHECKING:
    from watchdogd.errors import Problem
    from watchdogd.match.syntax import RuleSet

ID = "5f0b3f4e-6a1c-4a53-9a7e-0f6f1f7d1c0{}"


def rule(number: int, *, title: str = "A rule", level: str = "medium", field: str = "F", more: str = "") -> str:
    return (
        f"title: {title}\nid: {ID.format(number)}\nlevel: {level}\n{more}"
        "logsource: {product: linux, category: process_creation}\n"
        f"detection:\n  sel: {{{field}: x}}\n  condition: sel\n"
    )


def write(folder: Path, name: str, *documents: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("---\n".join(dedent(document) for document in documents))
    return folder


def refuse(*folders: Path, overrides: Overrides | None = None) -> tuple[Problem, ...]:
    with pytest.raises(RuleError) as caught:
        link_folders(*folders, overrides=overrides)
    return caught.value.problems


def levels(ruleset: RuleSet) -> dict[str, str]:
    return {found.id[-1]: found.level.value for found in ruleset.rules}


def test_a_later_folder_replaces_a_rule_of_the_same_id(tmp_path: Path) -> None:
    packaged = write(tmp_path / "a", "r.yml", rule(1, title="Packaged"), rule(2))
    own = write(tmp_path / "b", "other.yaml", rule(1, title="Mine", level="low"))
    ruleset = load_rules([packaged, own])
    assert [(found.title, found.level, found.path) for found in ruleset.rules] == [
        ("A rule", "medium", str(packaged / "r.yml")),
        ("Mine", "low", str(own / "other.yaml")),
    ]
    assert [found.title for found in link_folders(own, packaged).rules] == ["Packaged", "A rule"]


def test_one_id_twice_in_a_folder_is_an_error_that_names_both_places(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", "a.yml", rule(1))
    write(folder, "b.yml", rule(2), rule(1))
    (problem,) = refuse(folder)
    assert str(problem.place) == f"{folder}/b.yml:10:1"
    assert problem.message == f"the id {ID.format(1)} is used already, at {folder}/a.yml:2:1"


def test_a_file_of_the_same_id_disables_or_relevels(tmp_path: Path) -> None:
    packaged = write(tmp_path / "a", "r.yml", rule(1), rule(2), rule(3))
    own = write(
        tmp_path / "b",
        "mine.yml",
        f"id: {ID.format(1)}\nlevel: critical\n",
        f"id: {ID.format(2)}\nwatchdogd: {{disabled: true}}\n",
    )
    ruleset = link_folders(packaged, own)
    assert levels(ruleset) == {"1": "critical", "3": "medium"}
    assert [(found.id[-1], reason) for found, reason in ruleset.inactive] == [("2", f"disabled at {own}/mine.yml:4:1")]
    level = write(tmp_path / "l", "l.yml", f"id: {ID.format(2)}\nlevel: low\n")
    assert levels(link_folders(packaged, own, level)) == {"1": "critical", "3": "medium"}
    third = write(tmp_path / "c", "again.yml", f"id: {ID.format(2)}\nwatchdogd: {{disabled: false}}\n")
    assert levels(link_folders(packaged, own, third)) == {"1": "critical", "2": "medium", "3": "medium"}
    fourth = write(tmp_path / "d", "whole.yml", rule(1, level="low"), rule(2, level="high"))
    assert levels(link_folders(packaged, own, fourth)) == {"1": "low", "2": "high", "3": "medium"}


def test_a_whole_rule_can_disable_itself(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", "r.yml", rule(1, more="watchdogd: {disabled: true}\n"), rule(2))
    ruleset = link_folders(folder)
    assert levels(ruleset) == {"2": "medium"}
    assert ruleset.inactive[0][1] == f"disabled at {folder}/r.yml:2:1"
    assert ruleset.bodies[0].detections == {}


@pytest.mark.parametrize(
    ("document", "where", "message"),
    [
        ("level: lwo\n", (2, 1), "unknown level 'lwo'"),
        ("level: low\nwatchdogd: 5\n", (3, 1), "not a map"),
        ("watchdogd: {disabled: maybe}\n", (2, 13), "not true or false: 'maybe'"),
        (
            "level: low\nwatchdogd: {triage: never}\n",
            (3, 13),
            "'triage' cannot be said of a rule that stands elsewhere",
        ),
    ],
)
def test_a_mistake_in_an_amendment(tmp_path: Path, document: str, where: tuple[int, int], message: str) -> None:
    folder = write(tmp_path / "a", "r.yml", rule(1))
    write(folder, "z.yml", f"id: {ID.format(1)}\n{document}")
    (problem,) = refuse(folder)
    assert message in problem.message
    assert (problem.place.line, problem.place.column) == where


def test_two_amendments_of_one_rule_in_a_folder_are_an_error(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", "r.yml", rule(1), *[f"id: {ID.format(1)}\nlevel: low\n"] * 2)
    (problem,) = refuse(folder)
    assert "used already" in problem.message


def test_an_amendment_of_nothing_is_a_warning(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", "r.yml", rule(1, title="Shell"), f"id: {ID.format(2)}\nlevel: low\n")
    (problem,) = link_folders(folder).warnings
    assert problem.severity == "warning"
    assert problem.message == f"no rule has the id '{ID.format(2)}'"
    assert problem.hint == f"did you mean '{ID.format(1)}' (Shell)?"


def test_the_configuration_disables_and_relevels(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", "r.yml", rule(1), rule(2))
    write(folder, "z.yml", f"id: {ID.format(2)}\nlevel: low\n")
    place = Place("/etc/watchdogd/config.yaml", 4, 7)
    overrides = Overrides({ID.format(1).upper(): place}, {ID.format(2): (Level.CRITICAL, place)})
    ruleset = load_rules([folder], overrides=overrides)
    assert levels(ruleset) == {"2": "critical"}
    assert ruleset.inactive[0][1] == "disabled at /etc/watchdogd/config.yaml:4:7"
    assert ruleset.warnings == ()


@pytest.mark.parametrize(
    ("named", "hint"),
    [
        ("A RULE", f"give it by its id, {ID.format(1)}"),
        ("the_rule", f"give it by its id, {ID.format(1)}"),
        ("the_ruul", "did you mean 'the_rule' (A rule)?"),
        (ID.format(9), f"did you mean '{ID.format(1)}' (A rule)?"),
        ("zzz", "names are: the_rule"),
    ],
)
def test_the_configuration_names_a_rule_that_is_not_there(tmp_path: Path, named: str, hint: str) -> None:
    folder = write(tmp_path / "a", "r.yml", rule(1, more="name: the_rule\n"))
    place = Place("config.yaml", 4, 7)
    for overrides in (Overrides({named: place}), Overrides({}, {named: (Level.LOW, place)})):
        (problem,) = link_folders(folder, overrides=overrides).warnings
        assert (problem.place, problem.severity) == (place, "warning")
        assert problem.message == f"no rule has the id {named!r}"
        assert problem.hint == hint


def test_what_may_stand_in_a_broken_file_is_not_called_missing(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", "r.yml", rule(1))
    write(folder, "broken.yml", rule(2).replace("sel: {F", "sel: {F|zz"))
    (problem,) = refuse(folder, overrides=Overrides({ID.format(2): Place("config.yaml", 1, 1)}))
    assert "unknown modifier" in problem.message


def test_problems_come_in_the_order_of_files_and_lines(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", "a.yml", rule(1), rule(1).replace("level: medium\n", ""))
    write(folder, "b.yml", rule(3).replace("medium", "mid"))
    found = [(problem.place.path[-5:], problem.place.line) for problem in refuse(folder)]
    assert found == [("a.yml", 9), ("a.yml", 10), ("b.yml", 3)]


def test_the_examples_of_the_documentation_load(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "rules.md").read_text()
    blocks = [block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "id:" in block]
    assert len(blocks) == 4
    ruleset = link_folders(write(tmp_path / "a", "r.yml", *blocks))
    assert ruleset.warnings == ()
    assert levels(ruleset) == {"1": "low", "3": "informational", "4": "high"}
    assert len(ruleset.bodies[0].detections) == 3
