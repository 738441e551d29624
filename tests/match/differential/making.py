"""Rules and events made at random, so that they have much to do with each other."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.match.differential.oracle import Scalar

Detection = dict[str, Any] | list[Any]
COLUMNS = {
    "Text": "TEXT",
    "Other": "TEXT",
    "Address": "TEXT",
    "Time": "TEXT",
    "Flag": "TEXT",
    "Number": "NUMERIC",
    "Second": "NUMERIC",
}
"""Fields of the events, and how SQLite is to compare them."""
PLACEHOLDERS: dict[str, Sequence[Scalar]] = {"people": ["aB", "b*a", "/a"], "one": ["-a b"]}
ALPHABET = "aAbB01 -/%_.'\"[]^$(){}|+\\*?\n"
LITERALS = "aAbB01 -/%_.'\"[]^$(){}|+"
ADDRESSES = ("10.0.0.1", "10.0.1.255", "10.1.0.0", "192.168.7.9", "255.255.255.255", "::1", "fe80::1", "2001:db8::5")
NETWORKS = ("10.0.0.0/8", "10.0.0.0/23", "10.0.0.1/32", "192.168.0.0/16", "128.0.0.0/1", "172.16.0.0/12")
TIMES = ("2024-02-29T00:59:58", "2023-11-14T22:13:20", "2023-07-02T22:00:00", "1999-12-31T23:59:59")
PARTS = {"minute": (0, 13, 59), "hour": (0, 22, 23), "day": (2, 14, 29), "month": (2, 7, 11), "year": (1999, 2023)}
PATTERNS = (
    "^a",
    "b$",
    "a.b",
    "A+b?",
    "(a|b){2}",
    "[^a]",
    "[A-Z]",
    "\\d\\d",
    "\\Ba",
    "\\ba",
    "a\\.b",
    "^$",
    "/.*/",
    "\\s-",
    "",
)
NUMBERS = (-1, 0, 1, 5, 10, 4096, 2.5)

texts = st.text(st.sampled_from(ALPHABET), max_size=5)
literals = st.text(st.sampled_from(LITERALS), max_size=5)
numbers = st.sampled_from(NUMBERS)
text_fields = st.sampled_from(("Text", "Other"))


def _several(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return values | st.lists(values, min_size=1, max_size=3)


@st.composite
def text_tests(draw: st.DrawFn) -> tuple[str, Any]:
    """`contains` and its like, in the combinations that Sigma allows."""
    place = draw(st.sampled_from(("", "|contains", "|startswith", "|endswith")))
    kind = draw(st.sampled_from(("", "", "", "|windash", "|expand")))
    values = draw(_several(texts if kind != "|expand" else st.sampled_from(("%people%", "x%one%", "%one%%people%"))))
    case = draw(st.sampled_from(("", "", "|cased"))) if kind != "|expand" else ""  # pySigma forgets the case there
    several = isinstance(values, list) and len(values) > 1 and kind != "|expand"  # test_differences: all with expand
    every = "|all" if several and draw(st.booleans()) else ""
    negated = draw(st.sampled_from(("", "", "", "|neq"))) if not every else ""
    kinds = f"{kind}{place}" if kind == "|expand" else f"{place}{kind}"
    return f"{draw(text_fields)}{kinds}{every}{case}{negated}", values


@st.composite
def encoded_tests(draw: st.DrawFn) -> tuple[str, Any]:
    """What encodes its value first."""
    wide = draw(st.sampled_from(("", "|wide", "|utf16le", "|utf16be", "|utf16")))
    encode = draw(st.sampled_from(("|base64", "|base64offset|contains", "|base64|startswith")))
    return f"{draw(text_fields)}{wide}{encode}", draw(_several(st.text("abc 0", min_size=3, max_size=6)))


@st.composite
def pattern_tests(draw: st.DrawFn) -> tuple[str, Any]:
    flags = draw(st.sampled_from(("", "|i", "|m", "|s", "|i|m", "|i|s")))
    every = draw(st.sampled_from(("", "|all")))
    values = draw(_several(st.sampled_from(PATTERNS)))
    return f"{draw(text_fields)}|re{flags}{every if isinstance(values, list) and len(values) > 1 else ''}", values


@st.composite
def number_tests(draw: st.DrawFn) -> tuple[str, Any]:
    field = draw(st.sampled_from(("Number", "Second")))
    modifier = draw(st.sampled_from(("", "|gt", "|gte", "|lt", "|lte", "|neq")))
    return field + modifier, draw(_several(numbers))


@st.composite
def time_tests(draw: st.DrawFn) -> tuple[str, Any]:
    part = draw(st.sampled_from(sorted(PARTS)))
    compare = draw(st.sampled_from(("", "|gt", "|lte")))
    return f"Time|{part}{compare}", draw(st.sampled_from(PARTS[part]))


field_tests = st.one_of(
    text_tests(),
    text_tests(),
    encoded_tests(),
    pattern_tests(),
    number_tests(),
    time_tests(),
    st.tuples(st.just("Address|cidr"), _several(st.sampled_from(NETWORKS))),
    st.tuples(st.sampled_from(tuple(f"{name}|exists" for name in COLUMNS)), st.booleans()),
    st.tuples(st.sampled_from(tuple(COLUMNS)), st.none()),
    st.tuples(st.just("Flag"), st.booleans()),
    st.tuples(
        st.sampled_from(
            ("Text|fieldref", "Text|fieldref|startswith", "Text|fieldref|endswith", "Text|fieldref|contains")
        ),
        st.just("Other"),
    ),
    st.tuples(text_fields, st.lists(st.one_of(texts, st.none(), st.sampled_from((0, 1, 10))), min_size=1, max_size=3)),
    st.tuples(text_fields, st.sampled_from((0, 1, 10))),
)
maps = st.lists(field_tests, min_size=1, max_size=3).map(dict)
keywords = st.lists(st.text("abAB01 -/%_", min_size=1, max_size=4), min_size=1, max_size=3)
keyword_maps = st.one_of(
    st.fixed_dictionaries({"|all": st.lists(st.text("abAB01", min_size=1, max_size=2), min_size=2, max_size=3)}),
    st.fixed_dictionaries({"|re": st.sampled_from(("A+b?", "(a|b){2}", "a\\.b", "\\d\\d"))}),
)
detections: st.SearchStrategy[Detection] = st.one_of(
    maps, maps, maps, st.lists(maps, min_size=1, max_size=3), keywords, keyword_maps
)


@st.composite
def conditions(draw: st.DrawFn, names: Sequence[str], depth: int = 2) -> str:
    """Over those names, all kinds of them."""
    if depth == 0 or draw(st.integers(0, 3)) == 0:
        choices = [*names, "1 of them", "all of them", "1 of sel*", "all of sel*", "any of them"]
        if any(name.startswith("filter") for name in names):
            choices += ["1 of filter_*", "all of filter_*"]
        return draw(st.sampled_from(choices))
    inner = draw(conditions(names, depth - 1))
    if draw(st.booleans()):
        return (
            f"not ({inner})"
            if (" " in inner and draw(st.booleans())) or " and " in inner or " or " in inner
            else f"not {inner}"
        )
    joint = draw(st.sampled_from((" and ", " or ", " and not ")))
    return f"({inner}){joint}({draw(conditions(names, depth - 1))})"


@st.composite
def rules(draw: st.DrawFn, number: int) -> dict[str, Any]:
    """A whole rule; its id ends in `number`."""
    names = ["selection", *draw(st.sampled_from(([], ["sel_b"], ["filter_a"], ["sel_b", "filter_a"])))]
    found = draw(st.lists(conditions(names), min_size=1, max_size=2))
    detection = {name: draw(detections) for name in names}
    return build_rule(number, detection | {"condition": found[0] if len(found) == 1 else found})


def build_rule(number: int, detection: dict[str, Any]) -> dict[str, Any]:
    """A rule whose id ends in `number`."""
    return {
        "title": "Made",
        "name": f"made_{number}",
        "id": f"5f0b3f4e-6a1c-4a53-9a7e-{number:012}",
        "level": "low",
        "logsource": {"product": "linux", "category": "process_creation"},
        "detection": detection,
    }


def find_texts(detection: Any) -> set[str]:  # noqa: ANN401 - YAML
    """Texts that a rule asks for, as they are and as its modifiers make them: events are made of them."""
    found: set[str] = set()
    if isinstance(detection, list):
        for item in detection:
            found |= find_texts(item)
    elif isinstance(detection, dict):
        for key, value in detection.items():
            values = find_texts(value)
            if "base64" in key:
                values = {text for one in values for text in _encode(one)}
            found |= values
    elif isinstance(detection, str):
        plain = detection.replace("%people%", "b-a").replace("%one%", "-a b")
        found |= {plain.replace("*", "").replace("?", "a").replace("\\", ""), plain}
    return found


def _encode(text: str) -> set[str]:
    forms = [text.encode(), text.encode("utf-16le"), text.encode("utf-16be"), text.encode("utf-16")]
    return {base64.b64encode(before + form).decode() for form in forms for before in (b"", b"a", b"ab")}


@st.composite
def events(draw: st.DrawFn, hints: Sequence[str]) -> dict[str, Scalar]:
    """Fields by name, of which some are absent."""
    known = st.sampled_from(sorted(hints)) if hints else st.just("")
    near = st.builds(
        "{}{}{}".format, st.sampled_from(("", "", "a", "-", "\n")), known, st.sampled_from(("", "", "B", "/"))
    )
    mixed = st.one_of(known, near, known.map(str.swapcase), known.map(lambda text: text.replace("-", "/")), literals)
    values: Mapping[str, st.SearchStrategy[Scalar]] = {
        "Text": mixed,
        "Other": st.one_of(mixed, st.sampled_from(("a", "B", "%", "1", "10"))),
        "Address": st.sampled_from(ADDRESSES),
        "Time": st.sampled_from(TIMES),
        "Flag": st.sampled_from(("true", "false", "x")),
        "Number": numbers,
        "Second": numbers,
    }
    chosen = draw(st.sets(st.sampled_from(tuple(values)), min_size=2))
    return {name: draw(values[name]) if draw(st.integers(0, 9)) else None for name in values if name in chosen}
