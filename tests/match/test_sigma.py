"""Mistakes in rule files: each is found, placed, and told with a way to mend it; all of them at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

from tests.match.conftest import link_folders
from watchdogd.errors import RuleError
from watchdogd.match import sigma, syntax
from watchdogd.match.files import find_layers

if TYPE_CHECKING:
    from watchdogd.errors import Problem

HEAD = """\
title: A rule
id: 5f0b3f4e-6a1c-4a53-9a7e-0f6f1f7d1c01
level: medium
logsource: {product: linux, category: process_creation}
"""


def read_problems(tmp_path: Path, text: str | bytes, name: str = "rule.yml") -> tuple[Problem, ...]:
    (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return find_problems(tmp_path)


def find_problems(*folders: Path) -> tuple[Problem, ...]:
    try:
        return link_folders(*folders).warnings
    except RuleError as error:
        return error.problems


# What follows HEAD (lines 1 to 4), and the one problem: line, column, words of message and hint.
DETECTIONS = [
    (
        "detection:\n  sel: {F|containz: x}\n  condition: sel",
        (6, 11),
        "unknown modifier 'containz'",
        "did you mean 'contains'",
    ),
    ("detection:\n  sel:\n    - F: x\n    - G|zz: x\n  condition: sel", (8, 9), "unknown modifier 'zz'", ""),
    ("detection:\n  sel: {F|re: '(?=x)'}\n  condition: sel", (6, 9), "invalid: 'invalid perl operator: (?='", "RE2"),
    ("detection:\n  sel:\n    F|re:\n      - ok\n      - '('\n  condition: sel", (9, 9), "missing ): (", "RE2"),
    ("detection:\n  sel: {F|cidr: 10.0.0.0/33}\n  condition: sel", (6, 9), "Invalid CIDR", ""),
    ("detection:\n  sel: {F|gt: x}\n  condition: sel", (6, 9), "`gt` cannot be applied to 'x'", "a number"),
    ("detection:\n  sel: {F|exists: 5}\n  condition: sel", (6, 9), "`exists` cannot be applied to '5'", "true or"),
    ("detection:\n  sel: {F|hour: x}\n  condition: sel", (6, 9), "`hour` cannot be applied to 'x'", "a whole"),
    ("detection:\n  sel: {F|i: x}\n  condition: sel", (6, 9), "cannot be applied to 'x'", "behind `re`"),
    ("detection:\n  sel: {F|contains: 5}\n  condition: sel", (6, 9), "`contains` cannot be applied to '5'", "quote"),
    ("detection:\n  sel: {F|re: 5}\n  condition: sel", (6, 9), "`re` takes text", "quote the pattern"),
    ("detection:\n  sel: {F|re: [a, 5]}\n  condition: sel", (6, 19), "`re` takes text", "quote the pattern"),
    (f"detection:\n  sel: {{F: {2**64}}}\n  condition: sel", (6, 9), "a number of more than 64 bits", "quote it"),
    (f"detection:\n  sel: {{F|gt: {2**64}}}\n  condition: sel", (6, 9), "a number of more than 64 bits", "quote it"),
    ("detection:\n  sel: {'|gt': 5}\n  condition: sel", (6, 9), "a keyword has no value", "give the field"),
    ("detection:\n  sel: {'|fieldref': G}\n  condition: sel", (6, 9), "a keyword has no value", "give the field"),
    ("detection:\n  sel: {'|hour': 5}\n  condition: sel", (6, 9), "a keyword has no value", "give the field"),
    ("detection:\n  sel: {F|base64: 'a*'}\n  condition: sel", (6, 9), "wildcards", ""),
    ("detection:\n  sel: {F|expand: admins}\n  condition: sel", (6, 9), "without a placeholder", "%admins%"),
    ("detection:\n  sel: {F|expand: []}\n  condition: sel", (6, 9), "without a placeholder", "%admins%"),
    ("detection:\n  sel: {F|cased|fieldref: G}\n  condition: sel", (6, 9), "no meaning beside", "without regard"),
    (
        "detection:\n  sel: {F|expand: '%admins%'}\n  condition: sel",
        (6, 9),
        "placeholder %admins% has no values",
        "write the values out",
    ),
    ("detection:\n  sel: {F: {G: x}}\n  condition: sel", (6, 9), "a dict cannot be a value", "quote"),
    ("detection:\n  sel: {F: 2024-01-01}\n  condition: sel", (6, 9), "date cannot be a value", "quote"),
    ("detection:\n  sel: {7: x}\n  condition: sel", (6, 9), "not a field name: 7", "quote"),
    ("detection:\n  sel: {}\n  condition: sel", (6, 3), "an empty selection", ""),
    ("detection:\n  sel: []\n  condition: sel", (6, 3), "an empty selection", ""),
    ("detection:\n  sel: [null]\n  condition: sel", (6, 9), "a keyword without text", "give the field"),
    (
        "detection:\n  sel: {F: x}\n  condition: sel and filtr\n  filter: {G: y}",
        (7, 22),
        "no detection is called 'filtr'",
        "did you mean 'filter'",
    ),
    ("detection:\n  sel: {F: x}\n  condition: sel and", (7, 14), "the condition cannot be read", "joined by and"),
    ("detection:\n  sel: {F: x}\n  condition: sel AND sel", (7, 14), "the condition cannot be read", "lower case"),
    (
        "detection:\n  sel: {F: x}\n  condition: sel | count() > 5",
        (7, 14),
        "the pipe is not part of Sigma 2",
        "correlation",
    ),
    ("detection:\n  sel: {F: x}\n  condition: 1 of filter_*", (7, 14), "no detection is called 'filter_*'", ""),
    ("detection:\n  sel: {F: x}\n  condition: [sel, 5]", (7, 20), "not a condition: 5", ""),
    ("detection:\n  sel: {F: x}", (5, 1), "no condition", "condition: selection"),
    ("detection:\n  condition: sel", (6, 14), "no detection is called 'sel'", ""),
    ("detection:\n  no: {F: x}\n  sel: {F: x}\n  condition: sel", (6, 3), "YAML reads this name as False", "quote it"),
    ("detection: x", (5, 1), "no detection", ""),
    ("", (1, 1), "no detection", ""),
]


@pytest.mark.parametrize(("rest", "where", "message", "hint"), DETECTIONS, ids=[case[0][:60] for case in DETECTIONS])
def test_a_mistake_in_a_detection(tmp_path: Path, rest: str, where: tuple[int, int], message: str, hint: str) -> None:
    (problem,) = read_problems(tmp_path, HEAD + rest)
    assert message in problem.message
    assert hint in problem.hint
    assert problem.severity == "error"
    assert (problem.place.line, problem.place.column) == where
    assert problem.place.path == str(tmp_path / "rule.yml")


GOOD = "detection:\n  sel: {F: x}\n  condition: sel\n"
# What replaces a line of HEAD.
HEADS = [
    ("title", "", (1, 1), "must have a title", ""),
    ("title", "title: [x]", (1, 1), "title must be a string", ""),
    ("id", "", (1, 1), "the rule has no id", "uuidgen"),
    ("id", "id: 12", (2, 1), "not a UUID: 12", "uuidgen"),
    ("id", "id: not-a-uuid", (2, 1), "not a UUID", ""),
    ("level", "level: hihg", (3, 1), "unknown level 'hihg'", "did you mean 'high'"),
    ("level", "level: 3", (3, 1), "unknown level 3", "one of informational"),
    ("logsource", "", (1, 1), "no log source", "category: process_creation"),
    ("logsource", "logsource: {}", (4, 1), "the log source is empty", "process_creation"),
    ("logsource", "logsource: {category: [x]}", (4, 13), "not a category: ['x']", "a name"),
    ("logsource", "logsource: {product: linux, service: 0}", (4, 29), "not a service: 0", "a name"),
    ("logsource", "logsource: {product: ''}", (4, 13), "not a product: ''", "a name"),
    ("level", "level: low\ntags: [nodot]", (4, 8), "has no namespace", "attack.t1059"),
    ("level", "level: low\nstatus: done", (4, 1), "not a valid", ""),
    ("level", "level: low\ndate: soon", (4, 1), "yyyy-mm-dd", ""),
    ("level", "level: low\nfalsepositives: none", (4, 1), "must be a list", ""),
    ("level", "level: low\nwatchdogd: {triage: alwyas}", (4, 13), "unknown value 'alwyas'", "did you mean 'always'"),
    ("level", "level: low\nwatchdogd: {triag: auto}", (4, 13), "unknown key 'triag'", "did you mean 'triage'"),
    ("level", "level: low\nwatchdogd: {cooldown: 5 minutes}", (4, 13), "not a duration", "10m"),
    ("level", "level: low\nwatchdogd: {group_by: [1]}", (4, 13), "not a list of names", ""),
    ("level", "level: low\nwatchdogd: always", (4, 1), "not a map", ""),
    ("level", "level: low\naction: global", (4, 1), "not part of Sigma 2", ""),
    ("level", "level: low\nlevel: high", (4, 1), "duplicate key 'level'", ""),
]


@pytest.mark.parametrize(("key", "line", "where", "message", "hint"), HEADS, ids=[f"{h[0]}: {h[1]}" for h in HEADS])
def test_a_mistake_in_the_head(
    tmp_path: Path, key: str, line: str, where: tuple[int, int], message: str, hint: str
) -> None:
    lines = [line if text.startswith(key) else text for text in HEAD.splitlines()]
    (problem,) = read_problems(tmp_path, "\n".join(text for text in lines if text) + "\n" + GOOD)
    assert message in problem.message
    assert hint in problem.hint
    assert (problem.place.line, problem.place.column) == where


def test_all_mistakes_of_all_files_at_once(tmp_path: Path) -> None:
    bad = HEAD.replace("medium", "mdium") + "detection:\n  sel: {F|zz: x, G|re: '('}\n  condition: sel and nothing\n"
    read_problems(tmp_path, bad, "a.yml")
    problems = read_problems(tmp_path, "title: [", "b.yaml")
    assert [(Path(p.place.path).name, p.place.line) for p in problems] == [
        ("a.yml", 3),
        ("a.yml", 6),
        ("a.yml", 6),
        ("a.yml", 7),
        ("b.yaml", 1),
    ]


def test_repeated_ids_name_both_places(tmp_path: Path) -> None:
    read_problems(tmp_path, HEAD + GOOD, "a.yml")
    (problem,) = read_problems(tmp_path, f"{HEAD}{GOOD}---\n{HEAD.replace('1c01', '1c02')}{GOOD}", "b.yml")
    assert problem.place.path.endswith("b.yml")
    assert (problem.place.line, problem.place.column) == (2, 1)
    assert f"{tmp_path}/a.yml:2:1" in problem.message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "dir.yml").mkdir()
    (tmp_path / "gone.yml").symlink_to(tmp_path / "nowhere")
    problems = read_problems(tmp_path, b"title: \xff\n", "latin.yml")
    said = {Path(p.place.path).name: p.message for p in problems}
    assert said.keys() == {"dir.yml", "gone.yml", "latin.yml"}
    assert "is a directory" in said["dir.yml"]
    assert "does not exist" in said["gone.yml"]
    assert "not UTF-8" in said["latin.yml"]


def test_folders_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    (problem,) = find_problems(tmp_path / "empty")
    assert problem.message == "no rules in this folder"
    (missing, file) = find_problems(tmp_path / "missing", tmp_path / "file")
    assert "does not exist" in missing.message
    assert "not a folder" in file.message


def test_which_files_are_read(tmp_path: Path) -> None:
    for number, name in enumerate(
        ["b/z.yaml", "a/y.yml", "x.yml", "tests/t.yml", "a/tests/t.yml", ".hidden.yml", "note.txt"]
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(HEAD.replace("1c01", f"1c1{number}") + GOOD)
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    layers, problems = find_layers([tmp_path])
    assert [[path.name for path in layer] for layer in layers] == [["y.yml", "z.yaml", "x.yml"]]
    assert ["leads back" in problem.message for problem in problems] == [True]


def test_a_file_of_two_folders_belongs_to_the_first(tmp_path: Path) -> None:
    for name in ("above.yml", "b/below.yml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    layers, _ = find_layers([tmp_path / "b", tmp_path])
    assert [[path.name for path in layer] for layer in layers] == [["below.yml"], ["above.yml"]]


def test_empty_documents_and_several_in_one_file(tmp_path: Path) -> None:
    text = f"---\n{HEAD}{GOOD}---\n\n---\n{HEAD.replace('1c01', '1c02')}{GOOD}---\n"
    assert read_problems(tmp_path, text) == ()
    assert len(link_folders(tmp_path).bodies) == 2


def test_what_a_rule_says_of_itself(tmp_path: Path) -> None:
    text = HEAD.replace("level: medium", "level: HIGH") + dedent(
        """\
        description: |
          Two
          lines.
        tags: [attack.persistence, attack.t1053.003, attack.T1078]
        falsepositives: [Admins]
        references: [https://example.org]
        watchdogd: {triage: never, group_by: User, cooldown: 2h, notify: [pager]}
        """
    )
    assert read_problems(tmp_path, text + GOOD) == ()
    (body,) = link_folders(tmp_path).bodies
    rule = body.rule
    assert (rule.title, rule.level, rule.triage) == ("A rule", "high", "never")
    assert rule.techniques == ("T1053.003", "T1078")
    assert rule.description == "Two\nlines."
    assert (rule.product, rule.category, rule.service) == ("linux", "process_creation", None)
    assert rule.path == str(tmp_path / "rule.yml")
    assert body.extras == syntax.Extras(group_by=("User",), cooldown_s=7200, notify=("pager",))


def test_no_level_is_a_warning(tmp_path: Path) -> None:
    (problem,) = read_problems(tmp_path, HEAD.replace("level: medium\n", "") + GOOD)
    assert problem.severity == "warning"
    assert link_folders(tmp_path).bodies[0].rule.level == "medium"


@pytest.mark.parametrize(
    "text", ["just words", "- a\n- b", "5", "{}", "title: {a: b}\nid: {}\ndetection: {condition: {}}"]
)
def test_what_is_no_rule_is_a_problem_and_no_crash(tmp_path: Path, text: str) -> None:
    assert any(problem.severity == "error" for problem in read_problems(tmp_path, text))


def test_what_breaks_the_reader_is_a_mistake_of_its_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(body: syntax.RuleBody) -> None:
        raise ZeroDivisionError(body.rule.title)

    monkeypatch.setattr(sigma, "compile_body", fail)
    (problem,) = read_problems(tmp_path, HEAD + GOOD)
    assert problem.message == "cannot be used as a rule: ZeroDivisionError: A rule"
    assert (problem.place.line, problem.place.column) == (1, 1)


def test_reading_rules_downloads_nothing() -> None:
    code = "import sys, watchdogd.match.sigma; print(any(m.startswith('sigma.data') for m in sys.modules))"
    answer = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
