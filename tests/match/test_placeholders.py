"""Values for `expand`: where they come from, what they become, and what is said where there are none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.match.conftest import link_folders
from watchdogd.errors import RuleError
from watchdogd.match import syntax
from watchdogd.match.library import load_rules
from watchdogd.match.placeholders import read_placeholders

if TYPE_CHECKING:
    from pathlib import Path

    from tests.match.conftest import WriteRule

VALUES = "admins: [root, 'adm?n']\nports: [22, 443]\nhome: /home/me\nsuffix: [.sh, .py]\n"


def text(value: str) -> syntax.Text:
    return syntax.Text((value,))


TESTS = [
    ("User|expand: '%admins%'", syntax.AnyOf((text("root"), syntax.Text(("adm", syntax.ONE, "n"))))),
    ("User|expand: 'x%home%y'", text("x/home/mey")),
    ("Port|expand: '%ports%'", syntax.AnyOf((syntax.Number(22), syntax.Number(443)))),
    ("Port|gt|expand: '%ports%'", syntax.AnyOf((syntax.Compare("gt", 22), syntax.Compare("gt", 443)))),
    ("Image|startswith|expand: '%home%'", syntax.Text(("/home/me", syntax.MANY))),
    ("Image|expand|startswith: '%home%'", syntax.Text(("/home/me", syntax.MANY))),
    ("Image|expand: '%home%/a%suffix%'", syntax.AnyOf((text("/home/me/a.sh"), text("/home/me/a.py")))),
    ("Image|re|expand: '^%home%/[0-9]+$'", syntax.Pattern("^/home/me/[0-9]+$")),
    ("User|base64|expand: '%home%'", text("L2hvbWUvbWU=")),
    ("User|expand|cased: '%home%'", syntax.Text(("/home/me",), cased=True)),
]


@pytest.mark.parametrize(("written", "value"), TESTS)
def test_what_a_placeholder_becomes(write_rule: WriteRule, tmp_path: Path, written: str, value: syntax.Value) -> None:
    (tmp_path / "values.yaml").write_text(VALUES)
    folder = write_rule(f"sel:\n  {written}\ncondition: sel").parent
    (body,) = link_folders(folder, placeholders=tmp_path / "values.yaml").bodies
    group = body.detections["sel"]
    assert isinstance(group, syntax.Group)
    (test,) = group.items
    assert isinstance(test, syntax.Test)
    assert test.values == (value,)


def test_below_all_any_value_of_each_placeholder_will_do(write_rule: WriteRule, tmp_path: Path) -> None:
    (tmp_path / "values.yaml").write_text(VALUES)
    folder = write_rule("sel:\n  User|expand|all: ['%admins%', '%suffix%']\ncondition: sel").parent
    (body,) = link_folders(folder, placeholders=tmp_path / "values.yaml").bodies
    group = body.detections["sel"]
    assert isinstance(group, syntax.Group)
    (test,) = group.items
    assert isinstance(test, syntax.Test)
    assert test.every
    assert [type(value) for value in test.values] == [syntax.AnyOf, syntax.AnyOf]


@pytest.mark.parametrize(
    ("written", "message", "hint"),
    [
        ("%admin%", "the placeholder %admin% has no values in {path}", "did you mean %admins%?"),
        ("%xyzzy%", "the placeholder %xyzzy% has no values in {path}", "add `xyzzy: [...]` there"),
        ("%none%", "the placeholder %none% has no values: its list in {path} is empty", ""),
        ("%many%%many%%many%%many%%many%", "stand for more than 10000 values", ""),
    ],
)
def test_a_placeholder_without_values(
    write_rule: WriteRule, tmp_path: Path, written: str, message: str, hint: str
) -> None:
    path = tmp_path / "values.yaml"
    path.write_text(f"{VALUES}none: []\nmany: {list(range(10))}\n")
    folder = write_rule(f"sel: {{User|expand: '{written}'}}\ncondition: sel").parent
    with pytest.raises(RuleError) as caught:
        link_folders(folder, placeholders=path)
    (problem,) = caught.value.problems
    assert message.format(path=path) in problem.message
    assert hint in problem.hint
    assert (problem.place.line, problem.place.column) == (6, 9)


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (b"- a\n", 1, "not a map of placeholder names"),
        (b"ok: x\nadmins: {a: b}\n", 2, "not the values of a placeholder: 'admins'"),
        (b"'%admins%': root\n", 1, "not the values of a placeholder"),
        (b"ok: [yes]\n", 1, "not the values of a placeholder"),
        (b"ok: [\n", 2, "no value where one must stand"),
        (b"ok: \xff\n", 1, "not UTF-8"),
        (None, None, "does not exist"),
    ],
)
def test_a_broken_file_of_placeholders(
    write_rule: WriteRule, tmp_path: Path, content: bytes | None, line: int | None, message: str
) -> None:
    path = tmp_path / "values.yaml"
    if content is not None:
        path.write_bytes(content)
    folder = write_rule("sel: {User: x}\ncondition: sel").parent
    with pytest.raises(RuleError) as caught:
        load_rules([folder], placeholders=path)
    (problem,) = caught.value.problems
    assert message in problem.message
    assert problem.place.path == str(path)
    assert problem.place.line == line


def test_an_empty_file_has_no_values(tmp_path: Path) -> None:
    (tmp_path / "values.yaml").write_text("# nothing yet\n")
    found = read_placeholders(tmp_path / "values.yaml")
    assert (found.values, found.problems) == ({}, ())
