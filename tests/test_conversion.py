from __future__ import annotations

from typing import Annotated, Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from watchdogd.config import Config
from watchdogd.conversion import convert_document, describe, list_settings, name_of, replace_value
from watchdogd.marks import MarkedDocument, load_documents


class Part(msgspec.Struct, frozen=True):
    size: Annotated[int, Meta(gt=0, lt=10)]
    tags: tuple[str, ...] = ()


class Whole(msgspec.Struct, frozen=True):
    parts: tuple[Part, ...] = ()
    main: Part | None = None
    weights: dict[str, float] = msgspec.field(default_factory=lambda: {"a": 1.0})
    token: Annotated[str, Meta(extra={"mask": lambda _: "***"})] = ""
    note: Annotated[str, Meta(extra={"internal": True})] = "unset"


def convert(text: str) -> tuple[Whole, list[str]]:
    (document,), _ = load_documents(text, "f")
    whole, problems = convert_document(Whole, document, None)
    return whole, [str(problem) for problem in problems]


def test_every_leaf_is_converted_and_the_rest_defaulted() -> None:
    whole, problems = convert("parts: [{size: 3, tags: [x]}]\nmain: {size: 1}\nweights: {b: 2}\n")
    assert problems == []
    assert whole == Whole(parts=(Part(3, ("x",)),), main=Part(1), weights={"a": 1.0, "b": 2.0})


def test_one_bad_leaf_does_not_hide_another() -> None:
    _, problems = convert("parts:\n- {size: 0}\n- {}\n- {size: 10, tegs: []}\nmain: 3\nnote: x\n")
    assert problems == [
        "f:2:10: error: parts[0].size must be a whole number greater than 0 and less than 10, not 0",
        "f:3:3: error: parts[1] lacks its key 'size'",
        "f:4:10: error: parts[2].size must be a whole number greater than 0 and less than 10, not 10",
        "f:4:14: error: unknown key 'tegs' in parts[2] (did you mean 'tags'?)",
        "f:5:7: error: main must be a map of keys, not 3",
        "f:6:1: error: unknown key 'note' (known here: parts, main, weights, token)",
    ]


def test_what_may_not_be_shown_is_shown_nowhere() -> None:
    whole, problems = convert("token: hush\n")
    assert describe(whole)["token"] == "***"
    assert "note" not in describe(whole)
    assert problems == []
    assert convert("token: [hush]\n")[1] == ["f:1:8: error: token must be text"]


def test_names_and_replacement_follow_dots() -> None:
    assert list_settings(Whole) == ("parts", "parts[].size", "parts[].tags", "main", "weights", "token")
    assert name_of(("webhooks", 2, "url")) == "webhooks[2].url"
    assert replace_value(Config(), "triage.seed", 7).triage.seed == 7


KEYS: st.SearchStrategy[Any] = (
    st.sampled_from([name.rpartition(".")[2] for name in list_settings(Config)]) | st.text(max_size=5) | st.integers()
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(KEYS, ANYTHING, max_size=6) | ANYTHING)
def test_no_data_crashes_and_what_passes_is_of_the_type(data: object) -> None:
    config, problems = convert_document(Config, MarkedDocument("f", data, None), None)
    for problem in problems:
        assert problem.message
    if not problems:
        assert msgspec.convert(msgspec.to_builtins(config), Config) == config
