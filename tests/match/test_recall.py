"""What a selection says of a record is recalled only where the pieces of the record decide it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from watchdogd.decode.decoder import Decoder
from watchdogd.entities import LazyFields, Record
from watchdogd.match import memory
from watchdogd.match.compile import Compiled, compile_detection
from watchdogd.match.memory import Budget
from watchdogd.match.recall import ask_records
from watchdogd.match.subject import RecordSubject
from watchdogd.match.syntax import AnyOf, Group, OtherField, Test, Text
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    import pytest

NAMED = Test("name", (Text(("/etc/shadow",)),))


def read_path(name: str, inode: int) -> RecordSubject:
    line = (
        f'type=PATH msg=audit(1700000000.000:{inode}): item=0 name="{name}" inode={inode} dev=00:2f mode=0100755 '
        "ouid=0 ogid=0 rdev=00:00 nametype=NORMAL"
    )
    decoder = Decoder(Counters(), live=False)
    decoder.feed([Record("audit_log", None, line.encode())], 0)
    return RecordSubject(decoder.drain().events[0].records[0])


def count_asked(detection: Test | Group, *subjects: RecordSubject) -> tuple[list[bool], int]:
    """Answers for each, and how often the selection itself was asked."""
    compiled = compile_detection(detection)
    asked = 0

    def hold(subject: object) -> bool:
        nonlocal asked
        asked += 1
        return compiled.holds(subject)  # type: ignore[arg-type]

    ask = ask_records(Compiled(detection, hold), Budget())
    return [ask([subject]) for subject in subjects], asked


def test_the_same_path_is_asked_once_whatever_its_inode() -> None:
    paths = [read_path("/etc/shadow", 1), read_path("/tmp/x", 1), read_path("/etc/shadow", 2), read_path("/tmp/x", 2)]
    assert count_asked(NAMED, *paths) == ([True, False, True, False], 2)


def test_what_depends_on_volatile_text_is_asked_each_time() -> None:
    paths = [read_path("/etc/shadow", 1), read_path("/etc/shadow", 2)]
    assert count_asked(Test("inode", (Text(("2",)),)), *paths) == ([False, True], 2)
    assert count_asked(Test("INODE", (Text(("2",)),)), *paths) == ([False, True], 2)
    assert count_asked(Test(None, (Text(("inode=2 ",)),)), *paths) == ([False, True], 2)
    other = Test("item", (AnyOf((OtherField("inode"), Text(("7",)))),))
    assert count_asked(Group((other,), every=True), read_path("/x", 1), read_path("/x", 0)) == ([False, True], 2)


def test_what_is_recalled_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_REMEMBERED_BYTES", 20_000)
    budget = Budget()
    ask = ask_records(compile_detection(NAMED), budget)
    for number in range(1_000):
        ask([read_path(f"/tmp/{number}", 1)])
        assert sum(len(member.young) + len(member.old) for member in budget.members) < 2 * 20_000 / 160
    assert not ask([read_path("/" + "x" * 700, 1)])
    assert not any("x" * 700 in str(key) for member in budget.members for key in member.young)


def test_fields_of_a_match_are_collected_once_and_when_asked_for() -> None:
    asked: list[int] = []

    def collect() -> dict[str, str]:
        asked.append(1)
        return {"a": "1", "b": "2"}

    fields = LazyFields(collect)
    assert not asked
    assert fields == {"a": "1", "b": "2"}
    assert list(fields) == ["a", "b"]
    assert (fields["b"], len(fields), fields.get("c")) == ("2", 2, None)
    assert asked == [1]
