from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from watchdogd.errors import Place, Problem, ProblemsError
from watchdogd.marks import MAX_DEPTH, MAX_FILE_BYTES, MAX_NODES, caret_lines, load_documents, read_text

if TYPE_CHECKING:
    from pathlib import Path


def only_problem(text: str) -> str:
    _, problems = load_documents(text, "f")
    assert len(problems) == 1, problems
    return str(problems[0])


# Data and places.


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\nb: [x, 2.5, true, null, 2024-01-02]\nc: {d: 'e'}\n",
        "on: off\nport: 0o17\nhex: 0x1f\ntime: 1:30\n",
        "base: &b {x: 1, y: 2}\nz: {<<: *b, y: 3}\n",
        "text: |\n  two\n  lines\nfolded: >-\n  one\n  line\n",
        "",
        "just text",
    ],
)
def test_data_is_what_the_safe_loader_makes_of_it(text: str) -> None:
    documents, problems = load_documents(text, "f")
    assert not problems
    assert [document.data for document in documents] == list(yaml.safe_load_all(text))


def test_every_part_has_its_place() -> None:
    text = "# head\nrule:\n  list:\n    - a\n    - {b: c}\n  'quoted key': value\n"
    (document,), _ = load_documents(text, "f")
    assert document.place("rule") == Place("f", 2, 1)
    assert document.place("rule", "list", 0) == Place("f", 4, 7)
    assert document.place("rule", "list", 1, "b") == Place("f", 5, 8)
    assert document.place_value("rule", "list", 1, "b") == Place("f", 5, 11)
    assert document.place("rule", "quoted key") == Place("f", 6, 3)
    assert document.place_value("rule", "quoted key") == Place("f", 6, 17)
    assert document.place() == Place("f", 2, 1)


def test_a_part_that_does_not_exist_has_the_place_of_the_nearest_that_does() -> None:
    (document,), _ = load_documents("a:\n  b: [1, 2]\n", "f")
    assert document.place("a", "nope", "deeper") == document.place("a")
    assert document.place("a", "b", 7) == document.place("a", "b")
    assert document.place("a", "b", "text") == document.place("a", "b")


def test_keys_that_are_no_text_merged_and_aliased_keys_have_places() -> None:
    (document,), _ = load_documents("base: &b {x: 1}\nz: {<<: *b, 3: t}\ny: *b\n", "f")
    assert document.place("z", 3) == Place("f", 2, 13)
    assert document.place("z", "x") == Place("f", 1, 11)
    assert document.place("y", "x") == Place("f", 1, 11)


def test_columns_count_characters_also_beyond_the_first_plane() -> None:
    (document,), _ = load_documents("äöü: {'🐕🐕': {x: 1}}\n", "f")
    assert document.place("äöü", "🐕🐕", "x") == Place("f", 1, 14)


def test_several_documents_have_their_own_places() -> None:
    documents, _ = load_documents("a: 1\n---\nb: 2\n---\n- c\n", "f")
    assert [document.place().line for document in documents] == [1, 3, 5]


# Mistakes.


def test_a_duplicate_key_names_both_places_and_the_document_is_kept() -> None:
    (document,), problems = load_documents("a: 1\nm:\n  k: 1\n  k: 2\na: 3\n", "f")
    assert [str(problem) for problem in problems] == [
        "f:4:3: error: duplicate key 'k': it stands at line 3, column 3 already",
        "f:5:1: error: duplicate key 'a': it stands at line 1, column 1 already",
    ]
    assert document.data == {"a": 3, "m": {"k": 2}}


def test_overriding_a_merged_key_is_no_duplicate_but_a_shared_map_is_reported_once() -> None:
    assert load_documents("b: &b {x: 1}\nz: {<<: *b, x: 2}\n", "f")[1] == []
    assert "f:1:14" in only_problem("b: &b {x: 1, x: 2}\nz: [*b, *b]\n")


def test_documents_before_a_syntax_error_are_kept() -> None:
    documents, (problem,) = load_documents("a: 1\n---\nb: [\n", "f")
    assert [document.data for document in documents] == [{"a": 1}]
    assert problem.place.line == 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a:\n\tb: 1", "f:2:1: error: a tab where only spaces may stand (indent with spaces)"),
        ("a: 'x\nb: 2\n", "f:1:4: error: a quote that is opened here is never closed"),
        ('a: "x\n', "f:1:4: error: a quote that is opened here is never closed"),
        ("a: b: c", "f:1:5: error: a ':' where no key can stand (quote text that holds ': ')"),
        ("a: @x", "f:1:4: error: nothing can begin with '@' here (quote it)"),
        ("a: *b", "f:1:4: error: an alias to an anchor that does not exist (quote text that begins with '*')"),
        ("&a [*a]", "f:1:5: error: the alias *a stands inside what it names"),
        ("a: 2024-13-45", "f:1:4: error: not a valid date: '2024-13-45' (quote it if it is text)"),
        ("a: !!int x", "f:1:4: error: not a valid number: 'x' (quote it if it is text)"),
        ("a: !!bool x", "f:1:4: error: not a valid boolean: 'x' (quote it if it is text)"),
        ("a: !x y", "f:1:4: error: an unknown tag: '!x' (quote text that begins with '!')"),
        ("a: \x07", 'f:1:4: error: a control character U+0007: YAML is text (write "\\x07" in double quotes)'),
        ("a:\n  b\x00", 'f:2:4: error: a NUL byte: YAML is text (write "\\x00" in double quotes)'),
        ("a: \ud800", 'f:1:4: error: a control character U+D800: YAML is text (write "\\ud800" in double quotes)'),
        ("[a]: b", "f:1:1: error: a list or map as a key (quote text that holds braces or brackets)"),
        ("- a\nb: c", "f:2:1: error: a list goes on without its '-' (check the indentation)"),
    ],
)
def test_a_mistake_is_said_in_words_with_its_place(text: str, said: str) -> None:
    assert only_problem(text) == said


@pytest.mark.parametrize("text", ["x: " + "9" * 5000, "x: !!timestamp y", "x: !!float y", "!!omap [1]", "x: !!set [a]"])
def test_values_that_the_loader_itself_trips_over_are_problems(text: str) -> None:
    assert only_problem(text).startswith("f:1:")


# Bounds.


def test_nesting_is_bounded_exactly() -> None:
    assert load_documents("[" * MAX_DEPTH + "]" * MAX_DEPTH, "f")[1] == []
    deeper = MAX_DEPTH + 1
    assert only_problem("[" * deeper + "]" * deeper) == f"f:1:{deeper}: error: nested more than {MAX_DEPTH} levels deep"
    assert "levels deep" in only_problem("[" * 100_000)
    assert "levels deep" in only_problem("".join(f"{' ' * depth}a:\n" for depth in range(500)))


def test_an_alias_bomb_is_refused_before_it_is_built() -> None:
    levels = "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]\n" for n in range(1, 30))
    assert f"more than {MAX_NODES} values" in only_problem("l0: &l0 [x]\n" + levels)


def test_a_few_aliases_are_fine() -> None:
    (document,), problems = load_documents("a: &a [1, 2]\nb: [*a, *a]\n", "f")
    assert document.data == {"a": [1, 2], "b": [[1, 2], [1, 2]]}
    assert not problems


def test_a_flat_file_beyond_the_bound_is_refused() -> None:
    assert "more than" in only_problem("- x\n" * (MAX_NODES + 1))


# Any text at all.

PIECES = (
    "a|b: |: |- |\n|  |\t|[|]|{|}|,|'|\"|&a |*a|!!int |!x |<<: |>|---\n|...\n|#|? |%|@|\x00|\x85|\u2028|é|🐕|1|null|~"
)
YAML_PIECES = st.lists(st.sampled_from([*PIECES.split("|"), "|\n", "|"]), max_size=40).map("".join)


@given(YAML_PIECES | st.text(max_size=60))
def test_no_text_crashes_and_every_problem_points_into_it(text: str) -> None:
    documents, problems = load_documents(text, "f")
    lines = re.split("\r\n|[\n\r\x85\u2028\u2029]", text)
    for problem in problems:
        if problem.place.line is not None:
            assert 1 <= problem.place.line <= len(lines)
            assert caret_lines(problem, text).count("\n") == 1
    if not problems:
        try:
            expected = list(yaml.load_all(text, yaml.CSafeLoader))
        except yaml.YAMLError:  # pragma: no cover - the assertion below says what is wrong
            expected = None
        assert repr([document.data for document in documents]) == repr(expected)


# Carets.


def caret(text: str, line: int, column: int) -> tuple[str, str]:
    shown = caret_lines(Problem(Place("f", line, column), "m"), text).split("\n")
    assert len(shown) == 2
    return shown[0], shown[1]


def test_the_caret_stands_below_its_column() -> None:
    assert caret("first\nabc: def\n", 2, 6) == ("    abc: def", "         ^")
    assert caret("a", 1, 2) == ("    a", "     ^")
    assert caret("a", 1, 999) == ("    a", "     ^")


def test_wide_and_combining_characters_do_not_shift_it() -> None:
    assert caret("日本: x", 1, 5) == ("    日本: x", "          ^")
    assert caret("e\u0301: x", 1, 5) == ("    e\u0301: x", "       ^")


def test_a_terminal_obeys_nothing_of_the_line() -> None:
    shown, below = caret("a: \x1b[31m\u202e\tx", 1, 10)
    assert shown == "    a: \ufffd[31m\ufffd x"
    assert below == "    " + " " * 9 + "^"


def test_a_long_line_is_cut_to_what_stands_around() -> None:
    text = "x" * 5000 + "!" + "y" * 5000
    shown, below = caret(text, 1, 5001)
    assert len(shown) <= 104
    assert shown[len(below) - 1] == "!"


def test_without_a_line_there_is_nothing_to_show() -> None:
    assert caret_lines(Problem(Place("f"), "m"), "text") == ""
    assert caret_lines(Problem(Place("f", 9, 1), "m"), "text") == ""


# Files.


def refusal(path: Path) -> str:
    with pytest.raises(ProblemsError) as caught:
        read_text(path)
    (problem,) = caught.value.problems
    assert problem.place.path == str(path)
    return str(problem).removeprefix(f"{path.parent}/")


def test_a_file_is_read_without_its_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"\xef\xbb\xbfa: \xc3\xa4\r\n")
    assert read_text(tmp_path / "f") == "a: ä\r\n"


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    os.mkfifo(tmp_path / "p")
    with (tmp_path / "big").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    assert refusal(tmp_path / "nope") == "nope: error: does not exist"
    assert refusal(tmp_path / "d") == "d: error: is a directory, not a file"
    assert refusal(tmp_path / "p") == "p: error: is not a regular file"
    assert refusal(tmp_path / "big") == "big: error: is larger than 8 MiB"


def test_bytes_that_are_no_utf8_are_named_by_offset_and_place(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes("ä: 1\nbü: ".encode() + b"\xff\n")
    assert refusal(tmp_path / "f") == "f:2:5: error: byte 11 (0xff) is not UTF-8 (save the file as UTF-8)"
