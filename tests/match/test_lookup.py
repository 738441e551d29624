"""The index finds what asking every rule finds: over recorded logs, and over lines made to break it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.conftest import ROOT
from tests.size import LARGE, choose_examples, choose_items
from watchdogd.decode import tables
from watchdogd.decode.arguments import interpret_argument
from watchdogd.decode.decoder import Decoder
from watchdogd.entities import Event, EventId, Level, Record, Rule, View
from watchdogd.errors import Place
from watchdogd.match import lookup, memory, syntax
from watchdogd.match import tables as match_tables
from watchdogd.match.engine import Engine
from watchdogd.match.library import RuleSet, load_rules
from watchdogd.match.syntax import MANY, Junction, Named, Not, Number, Pattern, RuleBody, Test, Text
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from watchdogd.entities import AuditRecord, Match

EVENTS_PER_LOG = 12


class AskAll:
    """In an index's place: every rule is asked."""

    is_steady = False

    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers = numbers

    def find(self, *_: object) -> Sequence[int]:
        return self._numbers


def build_plain_engine(ruleset: RuleSet) -> Engine:
    engine = Engine(ruleset)
    by_view: dict[str, list[int]] = {}
    active = [body for body in ruleset.bodies if body.view and body.condition is not None]
    for number, body in enumerate(active):
        by_view.setdefault(body.view, []).append(number)
    of_records = by_view.pop(syntax.RECORDS, None)
    engine._records = None if of_records is None else AskAll(of_records)  # type: ignore[assignment]
    engine._views = {view: AskAll(numbers) for view, numbers in by_view.items()}  # type: ignore[misc]
    engine._recalled.keep = forget  # type: ignore[method-assign, assignment]
    return engine


def forget(*_: object) -> None:
    """Remember nothing."""


def decode(lines: Iterable[bytes]) -> list[Event]:
    decoder = Decoder(Counters(), live=False)
    fed = decoder.feed([Record("audit_log", None, line) for line in lines], 0).events
    return fed + decoder.drain().events


def judge_plainly(engine: Engine, event: Event) -> list[Match]:
    """Without what events say beforehand of their views."""
    return engine.judge(replace(event, views=tuple(event.views), categories=None, likeness=None))


def make_ruleset(*bodies: tuple[str, Mapping[str, syntax.Detection], syntax.Condition]) -> RuleSet:
    return RuleSet(
        tuple(
            RuleBody(Rule(str(number), "t", Level.LOW), Place("p"), view, dict(detections), condition)
            for number, (view, detections, condition) in enumerate(bodies)
        )
    )


def list_logs(corpora: Path) -> list[Path]:
    return sorted(path for path in corpora.rglob("*.log") if path.is_file() and "lossy" not in path.parts)


@pytest.mark.sampled
def test_recorded_events_match_the_same_rules(corpora: Path) -> None:
    ruleset = load_rules([ROOT / "rules", corpora / "third_party" / "sigmahq"])
    engine, plain = Engine(ruleset), build_plain_engine(ruleset)
    matches = 0
    for log in choose_items(list_logs(corpora), 4):
        events = decode(log.read_bytes().splitlines())
        for event in events[:: max(1, len(events) // EVENTS_PER_LOG)]:
            found = engine.judge(event)
            assert found == judge_plainly(plain, event), (log, event.id)
            matches += len(found)
    assert matches > (200 if LARGE else 50)


STAMP = "msg=audit(1700000000.{milli:03}:{serial}): "
SYSCALL = (
    "arch={arch} syscall={call} success={success} exit={exit} a0={a0:x} a1={a1:x} a2={a2:x} a3={a3:x} items=2 "
    "ppid={ppid} pid={pid} auid=1000 uid=0 gid=0 euid=0 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 tty=pts0 ses=3 "
    "comm={comm} exe={exe} key={key}"
)
STRINGS = [
    '"/usr/bin/nc"',
    '"dd"',
    '"a b"',
    "2F746D702F2E78202D64",
    "(null)",
    '"\xc5\xbftra\xc3\x9fe"',
    "FFFE41",
    '"x=1"',
]
NUMBERS = st.one_of(
    st.sampled_from([0, 1, 9, 13, 0x40000, 0xDD, 0xFFFFFFFF, 0xFFFFFFFFFFFFFF9C]), st.integers(0, 2**64 - 1)
)
STRING = st.sampled_from(STRINGS)
BODIES = st.one_of(
    st.builds(
        SYSCALL.format,
        arch=st.sampled_from(["c000003e", "40000003"]),
        call=st.sampled_from([59, 257, 135, 101, 102, 105, 117]),
        success=st.sampled_from(["yes", "no"]),
        exit=st.integers(-133, 70000),
        a0=NUMBERS,
        a1=NUMBERS,
        a2=NUMBERS,
        a3=NUMBERS,
        ppid=st.integers(0, 70000),
        pid=st.integers(0, 70000),
        comm=STRING,
        exe=STRING,
        key=st.one_of(STRING, st.sampled_from(["(null) a0=dd", "(null) syscall=135", "6101626F6F"])),
    ).map(lambda body: ("SYSCALL", body)),
    st.builds(
        "item={item} name={name} inode={inode} dev=00:2f mode=0100755 ouid=0 ogid=0 rdev=00:00 nametype={kind}".format,
        item=st.integers(0, 3),
        name=STRING,
        inode=st.one_of(st.integers(0, 99999), st.just("1a"), st.just("5\r")),
        kind=st.sampled_from(["NORMAL", "CREATE", "PARENT", "NORMAL inode=7 name=x"]),
    ).map(lambda body: ("PATH", body)),
    st.builds("argc=3 a0={0} a1={1} a2={2}".format, STRING, STRING, STRING).map(lambda body: ("EXECVE", body)),
    STRING.map(lambda text: ("PROCTITLE", f"proctitle={text}")),
    STRING.map(lambda text: ("CWD", f"cwd={text}")),
    STRING.map(
        lambda text: ("USER_CMD", f"pid=7 uid=0 auid=1000 ses=3 msg='cwd={text} cmd={text} terminal=pts/0 res=success'")
    ),
    STRING.map(lambda text: ("UNKNOWN[1999]", f"pid=7 dd={text}")),
)
PREFIXES = st.sampled_from(["", "", "", "node=host-dd ", "Nov 14 22:13:20 box audit: "])
SUFFIXES = st.sampled_from(["", "", '\x1dUID="root" AUID="dd"', '\x1dARCH=x86_64 SYSCALL=execve AUID="bob" UID="root"'])


@st.composite
def make_events(draw: st.DrawFn) -> list[Event]:
    lines = []
    for serial in range(draw(st.integers(1, 3))):
        stamp = STAMP.format(milli=draw(st.integers(0, 999)), serial=serial)
        prefix = draw(PREFIXES)
        lines += [
            f"{prefix}type={kind} {stamp}{body}{draw(SUFFIXES)}".encode("latin-1")
            for kind, body in draw(st.lists(BODIES, min_size=1, max_size=4))
        ]
    return decode(lines)


@st.composite
def make_cases(draw: st.DrawFn) -> tuple[RuleSet, list[Event]]:
    """Rules made of what the events hold, whole or a slice of it, and of a little else."""
    events = draw(make_events())
    record = st.sampled_from([record for event in events for record in event.records])
    bodies = [
        ("auditd", {name: draw(_tests(draw, draw(record))) for name in "xyz"}, draw(CONDITIONS))
        for _ in range(draw(st.integers(1, 4)))
    ]
    views = [view for event in events for view in event.views]
    for _ in range(draw(st.integers(0, 3))):
        view = draw(st.sampled_from(views))
        bodies.append((view.category, {name: _view_test(draw, view) for name in "xyz"}, draw(CONDITIONS)))
    return make_ruleset(*bodies), events


CONDITIONS = st.recursive(
    st.sampled_from("xyz").map(Named),
    lambda inner: st.one_of(
        inner.map(Not),
        st.builds(Junction, items=st.lists(inner, min_size=1, max_size=3).map(tuple), every=st.booleans()),
    ),
    max_leaves=4,
)


def _value(draw: Callable[..., Any], text: str) -> syntax.Value:
    start = draw(st.integers(0, len(text)))
    end = draw(st.integers(start, len(text)))
    part = text[start:end]
    choices: list[syntax.Value] = [
        Text((text,) if text else ()),
        Text((MANY, part, MANY) if part else (MANY,)),
        Text((MANY, part.upper(), MANY) if part else (MANY,)),
        Text((MANY, text[start:]) if text[start:] else (MANY,)),
        Text((text[:end], MANY) if text[:end] else (MANY,)),
        Text((MANY, part, MANY) if part else (MANY,), cased=True),
        Pattern(re.escape(part) if part.isascii() and part.isprintable() else "a"),
        Pattern("(?i)[d-f]{2}|root"),
    ]
    if text.isascii() and text.isdigit() and len(text) < 15:
        choices.append(Number(int(text)))
    value: syntax.Value = draw(st.sampled_from(choices))
    return value


def _tests(draw: st.DrawFn, record: AuditRecord) -> st.SearchStrategy[syntax.Detection]:
    line = record.line.decode("utf-8", "backslashreplace")
    words: list[tuple[str | None, str]] = [(None, line), (None, line[draw(st.integers(0, len(line))) :])]
    for name, raw, interpreted in record.fields:
        words += [(name, raw), (name, interpreted), (name.upper(), interpreted), (None, interpreted)]
    picked = [draw(st.sampled_from(words)) for _ in range(2)]
    tests: list[syntax.Detection] = [
        Test(field, (_value(draw, text),), negated=draw(st.integers(0, 5)) == 0)
        for field, text in picked
        if field is not None or text
    ] or [Test("type", (Text((record.type,)),))]
    if draw(st.booleans()):
        tests.append(Test("type", (Text((record.type,)),)))
    return st.just(syntax.Group(tuple(tests), every=draw(st.booleans())))


def _view_test(draw: Callable[..., Any], view: View) -> syntax.Detection:
    field = draw(st.sampled_from(["Image", *view.fields]))
    value: Any = view.fields.get(field, "/usr/bin/nc")
    value = (value[0] if value else "") if isinstance(value, tuple) else value
    return Test(field, (_value(draw, str(value)),), negated=draw(st.integers(0, 5)) == 0)


def make_lines(prefix: str, suffix: str, number: int, key: str, arch: str, call: int) -> list[bytes]:
    """The same again but for what is volatile, which `number` decides."""
    text = SYSCALL.format(
        arch=arch, call=call, success="no", exit=-1, a0=number, a1=0xFFFFFFFF, a2=0xDD00 + number, a3=0x7F00 + number,
        ppid=number + 1, pid=number + 2, comm='"a\xc3\x9f"', exe="2F746D702F2E78202D64", key=key,
    )  # fmt: skip
    path = f'item=0 name="/tmp/.x" inode={number} dev=00:2f mode=0100755 ouid=0 ogid=0 rdev=00:00 nametype=CREATE'
    title = "proctitle=" + (b"sh\0-c\0" + b"\xff" * 9).hex().upper()
    stamp = STAMP.format(milli=number % 1000, serial=number)
    bodies = [
        ("SYSCALL", text),
        ("CWD", 'cwd="/"'),
        ("PATH", path),
        ("PROCTITLE", title),
        ("USER_CMD", "pid=1 msg='cmd=6162 res=1'"),
    ]
    return [f"{prefix}type={kind} {stamp}{body}{suffix}".encode("latin-1") for kind, body in bodies]


ENRICHMENT = '\x1dARCH=x86_64 SYSCALL=setuid AUID="bob" UID="root"'
SURROUNDINGS = [
    *[("", ENRICHMENT), ("node=a-host ", "")],
    *[("Nov 14 22:13:20 box audit: ", ENRICHMENT), ("", ""), ("node=a-host ", ENRICHMENT)],
    ("Nov 14 22:13:20 box audit: ", ""),
]


@pytest.mark.sampled
@pytest.mark.parametrize(("prefix", "suffix"), SURROUNDINGS if LARGE else SURROUNDINGS[:2])
@pytest.mark.parametrize(
    ("key", "arch", "call"),
    [
        ('"exec"', "c000003e", 105),
        ("(null) syscall=59 a0=dd", "c000003e", 105),
        ("6101626F6F", "c000003e", 105),
        ("(null)", "40000003", 102),
        ("(null)", "40000003", 117),
        ("(null)", "c000003e", 9999),
    ],
)
def test_every_part_of_a_line_and_every_field_is_found(
    prefix: str, suffix: str, key: str, arch: str, call: int
) -> None:
    (seen,) = decode(make_lines(prefix, suffix, 4321, key, arch, call))
    (event,) = decode(make_lines(prefix, suffix, 2, key, arch, call))
    words: set[tuple[str | None, str]] = set()
    for record in event.records:
        line = record.line.decode("utf-8", "backslashreplace")
        words |= {(None, line[at : at + size]) for size in (1, 2, 4, 9, 30) for at in range(len(line) - size + 1)}
        for name, raw, interpreted in [("type", record.type, record.type), *record.fields]:
            words |= {(name, raw), (name, interpreted), (f"{name}|part", interpreted[1:]), (f"{name}|part", raw[:-1])}
    words.add((None, "sh -c \\xff"))
    detections = [
        Test(
            field and field.removesuffix("|part"),
            (Text((MANY, text, MANY)) if field is None or field.endswith("|part") else Text((text,)),),
        )
        for field, text in sorted(words, key=str)
        if text
    ]
    engine = Engine(make_ruleset(*(("auditd", {"x": test}, Named("x")) for test in detections)))
    engine.judge(seen)
    found = {int(match.rule.id) for match in engine.judge(event)}
    assert [test for number, test in enumerate(detections) if number not in found] == []


@pytest.mark.sampled
@settings(max_examples=choose_examples(100), deadline=None)
@given(make_cases())
def test_made_up_events_match_the_same_rules(case: tuple[RuleSet, list[Event]]) -> None:
    ruleset, events = case
    engine, plain = Engine(ruleset), build_plain_engine(ruleset)
    for _ in range(2):  # the second time from memory
        for event in events:
            assert engine.judge(event) == judge_plainly(plain, event)


@settings(deadline=None)
@given(st.lists(st.text(max_size=6), min_size=1), st.data())
def test_any_text_in_a_view_is_found(values: list[str], data: st.DataObject) -> None:
    tests = [_value(data.draw, text) for text in values]
    ruleset = make_ruleset(*(("process_creation", {"x": Test("F", (test,))}, Named("x")) for test in tests))
    engine, plain = Engine(ruleset), build_plain_engine(ruleset)
    for value in [*values, tuple(values), "\ud800", "\udcff" * 3, None, 7, 7.0]:
        view = View("process_creation", "exec", "success", {"F": value})
        event = Event(EventId("audit", None, 0, 0), "audit", views=(view,))
        assert engine.judge(event) == plain.judge(event)


def test_a_text_of_a_megabyte_is_found_and_not_remembered() -> None:
    ruleset = make_ruleset(("process_creation", {"x": Test("F", (Text((MANY, "needle", MANY)),))}, Named("x")))
    engine = Engine(ruleset)
    long = "\ud800x" * (1 << 19) + "needle"
    view = View("process_creation", "exec", "success", {"F": long})
    assert engine.judge(Event(EventId("audit", None, 0, 0), "audit", views=(view,)))
    assert count_remembered(engine) == 0


def count_remembered(engine: Engine) -> int:
    members = [member for index in engine._views.values() for member in index._budget.members]
    if engine._records is not None:
        members += engine._records._budget.members
    return sum(sum(map(len, (*member.young, *member.old))) for member in members)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_REMEMBERED_BYTES", 20_000)
    monkeypatch.setattr(lookup, "_KINDS_LIMIT", 3)
    keyword = Test(None, (Text((MANY, "needle 777", MANY)),))
    ruleset = make_ruleset(
        ("auditd", {"x": keyword}, Named("x")),
        ("process_creation", {"x": Test("CommandLine", (Text((MANY, "needle 777", MANY)),))}, Named("x")),
    )
    engine = Engine(ruleset)
    found = []
    for number in range(1000):
        argv = f'argc=2 a0="echo" a1={f"needle {number}".encode().hex().upper()}'
        call = SYSCALL.format(
            arch="c000003e",
            call=59,
            success="yes",
            exit=0,
            a0=1,
            a1=2,
            a2=3,
            a3=4,
            ppid=1,
            pid=number,
            comm='"echo"',
            exe='"/bin/echo"',
            key="(null)",
        )
        stamp = STAMP.format(milli=number, serial=number)
        lines = [f"type=SYSCALL {stamp}{call}", f"type=EXECVE {stamp}{argv}", f"type=X{number} {stamp}a=b"]
        (event,) = decode(line.encode() for line in lines)
        found += [(number, match.category) for match in engine.judge(event)]
        assert count_remembered(engine) < 3 * 20_000
    assert found == [(777, "auditd"), (777, "process_creation")]


@pytest.mark.parametrize("limits", [(1 << 10,), (1 << 10, 1 << 20), ()])
def test_without_room_for_an_automaton_all_rules_are_asked(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, ...]
) -> None:
    monkeypatch.setattr(match_tables, "_AUTOMATON_BYTES", limits)
    tests = [Test("F", (Text((MANY, f"needle {number} of many", MANY)),)) for number in range(300)]
    engine = Engine(make_ruleset(*(("process_creation", {"x": test}, Named("x")) for test in tests)))
    view = View("process_creation", "exec", "success", {"F": "a Needle 77 of many"})
    (match,) = engine.judge(Event(EventId("audit", None, 0, 0), "audit", views=(view,)))
    assert match.rule.id == "77"


def test_registers_are_read_as_what_the_index_believes_them_to_be() -> None:
    numbers = [
        *range(300),
        *(1 << bit for bit in range(64)),
        0x40000003,
        0xFFFFFF9C,
        0xFFFFFFFF,
        2**64 - 1,
        2**64 - 100,
    ]
    for arch in ("c000003e", "40000003"):
        for call in range(470):
            values = {"arch": arch, "syscall": str(call), "a0": "1", "a1": "41", "a2": "41", "a3": "1"}
            for name in ("a0", "a1", "a2", "a3"):
                for number in numbers if mentions(name, values) else numbers[:2]:
                    text = interpret_argument(name, f"{number:x}", values).casefold()
                    assert lookup._REGISTER_TEXT.fullmatch(text), (call, name, text)
    for name, text in tables.load_tables().errno.values():
        assert lookup._NUMBER_TEXT.fullmatch(f"{name}({text})".casefold()), text


def mentions(name: str, values: dict[str, str]) -> bool:
    """Whether the argument means anything but a number."""
    return interpret_argument(name, "0", values) != "0x0" or interpret_argument(name, "1", values) != "0x1"


EXEC = (
    "arch=c000003e syscall=59 success={success} exit={exit} a0={a0:x} a1=2 a2=3 a3=4 items=1 ppid={ppid} pid={pid} "
    'auid=1000 uid=0 gid=0 euid=0 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 tty=pts0 ses=3 comm="ls" exe={exe} key="k"'
)
PROCESSES: list[tuple[str | None, syntax.Value]] = [
    ("ProcessId", Number(11)),
    ("ParentProcessId", Number(11)),
    ("Image", Text((MANY, "/dd"))),
]
FIELDS: list[tuple[str | None, syntax.Value]] = [
    ("pid", Number(11)),
    ("ppid", Number(11)),
    ("a0", Text(("b",))),
    ("exit", Text(("0",))),
    ("name", Text((MANY, "dd", MANY))),
    ("exe", Text(("/bin/dd",))),
    ("success", Text(("no",))),
    (None, Text(("pid=11",))),
    (None, Text(("dd",))),
    (None, Text((":7",))),
    (None, Text(("1700000000.00",))),
]


def make_execs(chosen: Sequence[tuple[int, bool, str]]) -> list[bytes]:
    lines = []
    for serial, (number, fails, exe) in enumerate(chosen):
        stamp = STAMP.format(milli=serial, serial=serial + 5)
        outcome = ("no", -2) if fails else ("yes", 0)
        call = EXEC.format(success=outcome[0], exit=outcome[1], a0=number, ppid=number + 1, pid=number, exe=f'"{exe}"')
        path = f'item=0 name="{exe}" inode=5 dev=08:01 mode=0100755 ouid=0 ogid=0 rdev=00:00 nametype=NORMAL'
        bodies = {"SYSCALL": call, "EXECVE": 'argc=1 a0="ls"', "CWD": 'cwd="/"', "PATH": path}
        lines += [f"type={kind} {stamp}{body}".encode() for kind, body in bodies.items()]
    return lines


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([10, 11, 12]), st.booleans(), st.sampled_from(["/bin/ls", "/bin/dd"])),
        min_size=2,
        max_size=12,
    ),
    st.sampled_from([syntax.RECORDS, "process_creation"]),
    st.integers(0, 10),
)
def test_execs_that_were_seen_before_match_what_they_matched_then(
    chosen: list[tuple[int, bool, str]], view: str, at: int
) -> None:
    field, value = FIELDS[at] if view == syntax.RECORDS else [*PROCESSES, FIELDS[7], FIELDS[8]][at % 5]
    ruleset = make_ruleset(
        (view, {"a": Test(field, (value,))}, Named("a")), (view, {"a": Test("nothing", (value,))}, Named("a"))
    )
    engine, plain = Engine(ruleset), build_plain_engine(ruleset)
    for event in decode(make_execs(chosen)):
        assert event.likeness is not None
        assert engine.judge(event) == judge_plainly(plain, event)


def test_views_that_no_rule_may_be_satisfied_by_are_not_made_again() -> None:
    engine = Engine(make_ruleset(("process_creation", {"a": Test("Image", (Text(("/bin/dd",)),))}, Named("a"))))
    first, second, third = decode(make_execs([(10, False, "/bin/ls"), (11, False, "/bin/ls"), (12, False, "/bin/dd")]))
    engine.judge(first)
    assert first.views._made is not None  # type: ignore[attr-defined]
    engine.judge(second)
    assert second.views._made is None  # type: ignore[attr-defined]
    assert [match.fields["Image"] for match in engine.judge(third)] == ["/bin/dd"]


@pytest.mark.parametrize(
    "but",
    [Test("ProcessId", (Number(10),)), Test(None, (Text((MANY, " pid=10 ", MANY)),)), Test("ParentProcessId", ())],
)
def test_a_rule_whose_exception_is_about_pids_is_asked_each_time(but: Test) -> None:
    image = Test("Image", (Text((MANY, "/ls")),))
    condition = Junction((Named("a"), Not(Named("b"))), every=True)
    engine = Engine(make_ruleset(("process_creation", {"a": image, "b": but}, condition)))
    events = decode(make_execs([(10, False, "/bin/ls"), (10, False, "/bin/ls"), (11, False, "/bin/ls")]))
    assert len({event.likeness for event in events}) == 1
    assert [len(engine.judge(event)) for event in events] == ([0, 0, 1] if but.values else [1, 1, 1])


def test_a_rule_that_was_not_satisfied_is_not_asked_about_the_same_again() -> None:
    image, but = Test("Image", (Text((MANY, "/ls")),)), Test("User", (Text(("0",)),))
    condition = Junction((Named("a"), Not(Named("b"))), every=True)
    engine = Engine(make_ruleset(("process_creation", {"a": image, "b": but}, condition)))
    first, second = decode(make_execs([(10, False, "/bin/ls"), (11, False, "/bin/ls")]))
    assert not engine.judge(first)
    assert first.views._made is not None  # type: ignore[attr-defined]
    assert not engine.judge(second)
    assert second.views._made is None  # type: ignore[attr-defined]


FILE_NAMES = st.one_of(
    st.sampled_from(['"/tmp/.x"', '"/etc/../etc//shadow"', '"../b"', "2F746D702F6120622E", "FFFE41", "(null)", '"/K"']),
    st.text("/.abKk\u212a\u017fs", min_size=1, max_size=6).map(lambda text: f'"{text}"'),
)


def make_file_event(serial: int, call: int, names: Sequence[tuple[str, str]], cwd: str) -> list[bytes]:
    stamp = STAMP.format(milli=serial, serial=serial)
    text = SYSCALL.format(
        arch="c000003e", call=call, success="yes", exit=3, a0=0xFFFFFF9C, a1=0x41, a2=0xFFFFFF9C, a3=0, ppid=1, pid=2,
        comm='"x"', exe='"/bin/x"', key='"k"',
    )  # fmt: skip
    paths = [
        f"item={item} name={name} inode={serial} dev=00:2f mode=0100644 ouid=0 ogid=0 rdev=00:00 nametype={kind}"
        for item, (name, kind) in enumerate(names)
    ]
    return [
        line.encode()
        for line in [
            f"type=SYSCALL {stamp}{text}".replace("items=2", f"items={len(paths)}"),
            f"type=CWD {stamp}cwd={cwd}",
            *(f"type=PATH {stamp}{path}" for path in paths),
        ]
    ]


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([2, 82, 83, 86, 87, 88, 257, 263, 264]),
            st.lists(
                st.tuples(FILE_NAMES, st.sampled_from(["NORMAL", "CREATE", "DELETE", "PARENT"])), min_size=1, max_size=4
            ),
            FILE_NAMES,
        ),
        min_size=1,
        max_size=4,
    ),
    st.data(),
)
def test_files_match_the_same_rules_whether_views_are_made_or_not(
    chosen: list[tuple[int, list[tuple[str, str]], str]], data: st.DataObject
) -> None:
    lines = [
        line
        for serial, (call, names, cwd) in enumerate(chosen, start=1)
        for line in make_file_event(serial, call, names, cwd)
    ]
    views = [view for event in decode(lines) for view in event.views]
    bodies = []
    for _ in range(3):
        view = data.draw(st.sampled_from(views))
        bodies.append((view.category, {name: _view_test(data.draw, view) for name in "xyz"}, data.draw(CONDITIONS)))
    ruleset = make_ruleset(*bodies)
    engine, plain = Engine(ruleset), build_plain_engine(ruleset)
    for event in decode(lines):
        assert engine.judge(event) == judge_plainly(plain, event)


def test_views_of_files_that_no_rule_may_be_satisfied_by_are_not_made() -> None:
    wanted = Test("TargetFilename", (Text((MANY, "/.ssh/", MANY)),))
    engine = Engine(make_ruleset(("file_event", {"a": wanted}, Named("a"))))
    lines = [
        *make_file_event(1, 257, [('"b"', "CREATE")], '"/a"'),
        *make_file_event(2, 257, [('"b"', "CREATE")], '"/.SSH"'),
    ]
    first, second = decode(lines)
    assert not engine.judge(first)
    assert first.views._made is None  # type: ignore[attr-defined]
    assert [match.fields["TargetFilename"] for match in engine.judge(second)] == ["/.SSH/b"]


def test_what_is_kept_in_number_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_LIKENESSES", 4)
    recent = memory.Recent()
    for number in range(100):
        recent.keep(number, str(number))
        assert recent.find(number) == str(number)
        assert recent.find(0) in {"0", None}
        assert len(recent.young) + len(recent.old) <= 8
    assert recent.find(50) is None
