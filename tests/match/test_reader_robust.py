"""Whatever stands in a rule file is read or reported: never a Python error, and always an answer that can be sent."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import msgspec
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from watchdogd.errors import RuleError
from watchdogd.marks import load_documents
from watchdogd.match.link import link
from watchdogd.match.placeholders import Placeholders
from watchdogd.match.sigma import read_file
from watchdogd.match.syntax import FileReading

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest import TempPathFactory  # noqa: PT013 - only the type

    from watchdogd.errors import Problem

DOCUMENTS = """\
title: A
id: 5f0b3f4e-6a1c-4a53-9a7e-0f6f1f7d1c01
name: a
level: low
tags: [attack.t1059]
related: [{id: 5f0b3f4e-6a1c-4a53-9a7e-0f6f1f7d1c09, type: similar}]
logsource: {product: linux, category: process_creation}
detection:
  sel: {'F|contains|all': [a, b], G: null}
  kw: [x, y]
  list: [{F: 1}, {'G|re': a}]
  condition: sel and 1 of k* or list
watchdogd: {triage: auto, cooldown: 5m, group_by: [x], notify: [y], disabled: false}
---
title: C
id: 5f0b3f4e-6a1c-4a53-9a7e-0f6f1f7d1c02
name: c
level: low
correlation:
  {type: value_percentile, rules: [a], group-by: [User], timespan: 5m, generate: true, aliases: {u: {a: User}},
   condition: {gte: 5, field: X, percentile: 5}}
---
title: T
id: 5f0b3f4e-6a1c-4a53-9a7e-0f6f1f7d1c03
level: low
correlation: {type: temporal, rules: [a, c], timespan: 5m, condition: a and not c}
---
title: F
id: 5f0b3f4e-6a1c-4a53-9a7e-0f6f1f7d1c04
logsource: {product: linux}
filter: {rules: [a, c], sel: {User: x}, condition: not sel}
---
id: 5f0b3f4e-6a1c-4a53-9a7e-0f6f1f7d1c01
level: high
watchdogd: {disabled: true}
"""
JUNK: list[Any] = [
    None, True, 0, -1, 1.5, "", "x", "a and", "1 of them", "all of a*", "(a)", "not", "a or c", "c", "any", [], {},
    [None],
    {"a": None}, {None: 1}, {5: 5}, {True: []}, ["a", ["b"]], {"a": {"b": {}}}, 10**30, float("nan"), float("inf"), "|",
    "F|", "|re", "%a%", "*", "\\", "5f0b3f4e-6a1c-4a53-9a7e-0f6f1f7d1c01", "é", b"xx",
]  # fmt: skip
KEYS = [
    *(junk for junk in JUNK if not isinstance(junk, list | dict)),
    "F|expand",
    "F|lt",
    "F|cidr",
    "condition",
    "rules",
]


def find_paths(part: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:  # noqa: ANN401 - YAML holds anything
    children = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
    for key, child in children:
        yield (*above, key)
        yield from find_paths(child, (*above, key))


@st.composite
def mutilated(draw: st.DrawFn) -> str:
    documents = copy.deepcopy([document.data for document in load_documents(DOCUMENTS, "x")[0]])
    for _ in range(draw(st.integers(1, 3))):
        *above, key = draw(st.sampled_from(list(find_paths(documents))))
        part: Any = documents
        for one in above:
            part = part[one]
        doing = draw(st.sampled_from(["replace", "drop", "rename"]))
        if doing == "replace" or not isinstance(part, dict):
            part[key] = copy.deepcopy(draw(st.sampled_from(JUNK)))
        elif doing == "drop":
            del part[key]
        else:
            part[draw(st.sampled_from(KEYS))] = part.pop(key)
    return yaml.safe_dump_all(documents)


def find_problems(reading: FileReading) -> tuple[Problem, ...]:
    try:
        return link([[reading]]).warnings
    except RuleError as error:
        return error.problems


@settings(max_examples=300, deadline=None)
@given(text=mutilated())
def test_a_mutilated_file_is_read_or_reported(tmp_path_factory: TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "mutilated.yml"
    path.write_text(text)
    reading = read_file(path, Placeholders())
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(reading), type=FileReading).problems == reading.problems
    problems = find_problems(reading)
    assert not [problem for problem in problems if "cannot be used as a rule" in problem.message]
    assert not [problem for problem in problems if problem.place.line is None]
