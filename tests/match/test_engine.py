"""Which part of an event satisfies what; and that the index never changes an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.size import choose_examples
from watchdogd.entities import Event, EventId, Level, Rule, View
from watchdogd.errors import Place
from watchdogd.match import syntax
from watchdogd.match.engine import Engine
from watchdogd.match.library import RuleSet
from watchdogd.match.syntax import MANY, AnyOf, Group, Junction, Named, Not, Null, Number, RuleBody, Test, Text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.match.conftest import MakeEngine, MakeEvent, MakeRecord, MakeView

RECORDS = "{product: linux, service: auditd}"


def test_one_record_must_satisfy_the_whole_selection(
    make_engine: MakeEngine, make_event: MakeEvent, make_record: MakeRecord
) -> None:
    engine = make_engine("sel: {type: PATH, name: /etc/shadow, nametype: CREATE}\ncondition: sel", source=RECORDS)
    one = make_record("PATH", name="/etc/shadow", nametype="CREATE")
    assert engine.judge(make_event(one))
    apart = [
        make_record("PATH", name="/etc/shadow", nametype="NORMAL"),
        make_record("PATH", name="/x", nametype="CREATE"),
    ]
    assert not engine.judge(make_event(*apart))


def test_selections_may_be_satisfied_by_different_records(
    make_engine: MakeEngine, make_event: MakeEvent, make_record: MakeRecord
) -> None:
    engine = make_engine(
        "call: {type: SYSCALL, syscall: openat}\npath: {type: PATH, name|endswith: shadow}\n"
        "other: {type: PATH, name: /tmp}\n"
        "condition: call and path and not other",
        source=RECORDS,
    )
    call = make_record("SYSCALL", syscall=("257", "openat"))
    path = make_record("PATH", name="/etc/shadow")
    (match,) = engine.judge(make_event(call, path))
    assert match.category == "auditd"
    assert match.fields == {
        "SYSCALL.type": "SYSCALL",
        "SYSCALL.syscall": "openat",
        "PATH.type": "PATH",
        "PATH.name": "/etc/shadow",
    }
    assert not engine.judge(make_event(call, path, make_record("PATH", name="/tmp")))
    assert not engine.judge(make_event(path))


def test_an_argument_is_no_register(make_engine: MakeEngine, make_event: MakeEvent, make_record: MakeRecord) -> None:
    engine = make_engine("sel: {type: EXECVE, a0: nc}\ncondition: sel", source=RECORDS)
    assert engine.judge(make_event(make_record("SYSCALL", a0="7f00"), make_record("EXECVE", a0="nc")))
    assert not engine.judge(make_event(make_record("SYSCALL", a0="nc"), make_record("EXECVE", a0="ls")))


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        ("syscall: 135", True),
        ("syscall: personality", True),
        ("SYSCALL: personality", True),
        ("SYSCALL: 135", False),
        ("SYSCALL: PERSONALITY", True),
        ("a0: 40000", True),
        ("a0: 262144", False),
        ("AUID: unset", True),
        ("type: syscall", True),
        ("success: yes", True),
        ("uid|gte: 1000", True),
    ],
)
def test_raw_and_interpreted_values(
    make_engine: MakeEngine, make_event: MakeEvent, make_record: MakeRecord, test: str, *, expected: bool
) -> None:
    record = make_record(
        "SYSCALL", syscall=("135", "personality"), a0="40000", auid=("4294967295", "unset"), success="yes", uid="1000"
    )
    assert bool(make_engine(f"sel: {{{test}}}\ncondition: sel", source=RECORDS).judge(make_event(record))) is expected


def test_keywords_are_sought_in_each_line_and_in_what_it_holds_in_hex(
    make_engine: MakeEngine, make_event: MakeEvent, make_record: MakeRecord
) -> None:
    engine = make_engine("words: ['cat </dev/TCP/', raw*line]\ncondition: words", source="{product: linux}")
    raw = make_record("PROCTITLE", b"type=PROCTITLE proctitle=62617368", proctitle=("62617368", "bash"))
    assert not engine.judge(make_event(raw))
    held = make_record("PROCTITLE", b"type=PROCTITLE proctitle=00", proctitle=("63" * 40, "sh -c cat </dev/tcp/1/2"))
    (match,) = engine.judge(make_event(raw, held))
    assert match.fields == {"PROCTITLE.keywords": "sh -c cat </dev/tcp/1/2"}
    assert engine.judge(make_event(make_record("USER_CMD", b"a raw \xff line")))


def test_all_keywords_in_one_line(make_engine: MakeEngine, make_event: MakeEvent, make_record: MakeRecord) -> None:
    engine = make_engine("words: {'|all': [one, two]}\ncondition: words", source="{product: linux}")
    assert engine.judge(make_event(make_record("A", b"two one")))
    assert not engine.judge(make_event(make_record("A", b"one"), make_record("B", b"two")))


def test_one_view_must_satisfy_the_whole_rule(
    make_engine: MakeEngine, make_event: MakeEvent, make_view: MakeView
) -> None:
    engine = make_engine("a: {F: x}\nb: {G: y}\ncondition: a and b")
    assert engine.judge(make_event(make_view(F="x", G="y")))
    assert not engine.judge(make_event(make_view(F="x"), make_view(G="y")))
    assert not engine.judge(make_event(make_view("file_event", F="x", G="y")))
    assert len(engine.judge(make_event(make_view(F="x", G="y"), make_view(F="x", G="y")))) == 1


def test_the_fields_that_made_it_match(make_engine: MakeEngine, make_event: MakeEvent, make_view: MakeView) -> None:
    engine = make_engine(
        "sel: {F|startswith: [x, y], G: [null, g], N|gt: 3}\nalt_1: {H: h}\nalt_2: {I: i}\nother: {J: j}\n"
        "condition: sel and 1 of alt_* and not other"
    )
    (match,) = engine.judge(make_event(make_view(F=("abc", "Yes", "xx"), G="g", I="i", N=7.0, H="other", K="k")))
    assert match.fields == {"F": "Yes", "G": "g", "N": "7", "I": "i"}
    assert match.event_ids == (EventId("audit", None, 1_700_000_000_000, 7),)
    assert (match.rule.title, match.category) == ("A rule", "process_creation")


def test_our_own_events_are_not_judged(make_engine: MakeEngine, make_event: MakeEvent, make_view: MakeView) -> None:
    engine = make_engine("a: {F: x}\ncondition: a")
    assert not engine.judge(make_event(make_view(F="x"), own=True))


@pytest.mark.parametrize("value", [b"x", [1, 2], {"a": 1}, object(), float("nan"), float("-inf"), "\ud800", (), True])
def test_odd_values_do_no_harm(
    make_engine: MakeEngine, make_event: MakeEvent, make_view: MakeView, value: object
) -> None:
    engine = make_engine(
        "a: {F|contains: zz}\nb: {F|re: zz}\nc: {F|gt: 1.0e+18}\nd: {F|cidr: 1.2.3.4/32}\ne: {F|hour: 3}\n"
        "f: {F: 12345}\ncondition: 1 of them"
    )
    assert not engine.judge(make_event(make_view(F=value)))


# The index against a plain reading of the same rules.

FIELDS = ["Image", "type", "F"]
WORDS = ["/bin/a", "/usr/bin/b", "a", "b", "/", "", "7", "PATH", "SYSCALL"]


def _texts() -> st.SearchStrategy[Text]:
    word = st.sampled_from(WORDS)
    return st.one_of(
        word.map(lambda text: Text((text,) if text else ())),
        word.map(lambda text: Text((MANY, text) if text else (MANY,))),
        word.map(lambda text: Text((text, MANY) if text else (MANY,))),
        word.map(lambda text: Text((MANY, text, MANY) if text else (MANY,), cased=True)),
    )


VALUES = st.one_of(
    _texts(),
    st.just(Number(7)),
    st.just(Null()),
    st.lists(_texts(), min_size=1, max_size=2).map(lambda v: AnyOf(tuple(v))),
)
TESTS = st.builds(
    Test,
    field=st.sampled_from(FIELDS),
    values=st.lists(VALUES, min_size=1, max_size=3).map(tuple),
    every=st.booleans(),
    negated=st.booleans(),
)
DETECTIONS = st.recursive(
    TESTS,
    lambda inner: st.builds(Group, items=st.lists(inner, min_size=1, max_size=3).map(tuple), every=st.booleans()),
    max_leaves=5,
)
CONDITIONS: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from("xyz").map(Named),
    lambda inner: st.one_of(
        inner.map(Not),
        st.builds(Junction, items=st.lists(inner, min_size=1, max_size=3).map(tuple), every=st.booleans()),
    ),
    max_leaves=4,
)
RULES = st.lists(
    st.tuples(
        st.fixed_dictionaries({"x": DETECTIONS, "y": DETECTIONS, "z": DETECTIONS}),
        CONDITIONS,
        st.sampled_from(["auditd", "process_creation", "file_event"]),
    ),
    min_size=1,
    max_size=6,
)
FIELD_SETS = st.dictionaries(st.sampled_from(["Image", "F"]), st.sampled_from([*WORDS, 7]), max_size=2)


def _fits(text: Text, value: str) -> bool:
    folded = value if text.cased else value.casefold()
    parts = [part if text.cased or isinstance(part, int) else part.casefold() for part in text.parts]
    literal = "".join(part for part in parts if isinstance(part, str))
    starts, ends = parts[:1] == [MANY], parts[-1:] == [MANY]
    if starts and ends:
        return literal in folded
    if starts:
        return folded.endswith(literal)
    return folded.startswith(literal) if ends else folded == literal


def _value_holds(value: syntax.Value, found: Any) -> bool:  # noqa: ANN401
    if isinstance(value, AnyOf):
        return any(_value_holds(inner, found) for inner in value.values)
    if isinstance(value, Null):
        return found is None
    if isinstance(value, Number):
        return str(found) == "7"
    assert isinstance(value, Text)
    return found is not None and _fits(value, str(found))


def _detection_holds(detection: syntax.Detection, fields: dict[str, Any]) -> bool:
    if isinstance(detection, Group):
        return (all if detection.every else any)(_detection_holds(item, fields) for item in detection.items)
    assert detection.field is not None
    found = fields.get(detection.field)
    return (all if detection.every else any)(_value_holds(v, found) for v in detection.values) is not detection.negated


def _condition_holds(condition: syntax.Condition, body: RuleBody, subjects: list[dict[str, Any]]) -> bool:
    if isinstance(condition, Named):
        return any(_detection_holds(body.detections[condition.name], fields) for fields in subjects)
    if isinstance(condition, Not):
        return not _condition_holds(condition.item, body, subjects)
    return (all if condition.every else any)(_condition_holds(item, body, subjects) for item in condition.items)


def _judge_plainly(bodies: list[RuleBody], records: list[dict[str, Any]], views: list[View]) -> Iterator[str]:
    for body in bodies:
        assert body.condition is not None
        if body.view == syntax.RECORDS:
            scopes = [records] if records else []
        else:
            scopes = [[view.fields] for view in views if view.category == body.view]
        if any(_condition_holds(body.condition, body, scope) for scope in scopes):
            yield body.rule.id


@pytest.mark.sampled
@settings(deadline=None, max_examples=choose_examples(100))
@given(
    RULES,
    st.lists(st.tuples(st.sampled_from(["PATH", "SYSCALL", "b"]), FIELD_SETS), max_size=3),
    st.lists(st.tuples(st.sampled_from(["process_creation", "file_event"]), FIELD_SETS), max_size=3),
)
def test_the_index_changes_no_answer(
    make_record: MakeRecord,
    rules: list[tuple[dict[str, syntax.Detection], syntax.Condition, str]],
    records: list[tuple[str, dict[str, Any]]],
    views: list[tuple[str, dict[str, Any]]],
) -> None:
    bodies = [
        RuleBody(Rule(str(number), "t", Level.LOW), Place("p"), view, detections, condition)
        for number, (detections, condition, view) in enumerate(rules)
    ]
    made = [View(category, "", "", fields) for category, fields in views]
    event = Event(
        EventId("audit", None, 0, 0),
        "audit",
        records=tuple(make_record(kind, None, **{k: str(v) for k, v in fields.items()}) for kind, fields in records),
        views=tuple(made),
    )
    plain = [{"type": kind, **{k: str(v) for k, v in fields.items()}} for kind, fields in records]
    found = [match.rule.id for match in Engine(RuleSet(tuple(bodies))).judge(event)]
    assert found == list(_judge_plainly(bodies, plain, made))
