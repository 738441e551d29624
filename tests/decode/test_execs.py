"""Execs that were seen before say what they would say if each of them were read anew."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest
from msgspec.structs import replace

from tests.decode.conftest import decode_lines, make_records
from watchdogd.decode import execs
from watchdogd.decode.event import SOURCE, build_event
from watchdogd.decode.execs import Execs
from watchdogd.decode.reassemble import OpenEvent, Reassembler
from watchdogd.entities import EventId, LazyViews

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from watchdogd.decode.event import Built
    from watchdogd.decode.record import AuditLine
    from watchdogd.entities import Event

LINES = {
    "SYSCALL": "arch=c000003e syscall=59 success=yes exit=0 a0=1 a1=2 a2=3 a3=4 items=1 ppid=10 pid=11 auid=1000 "
    "uid=0 gid=0 euid=0 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 tty=pts0 ses=3 "
    'comm="ls" exe="/usr/bin/ls" key="exec"',
    "EXECVE": 'argc=2 a0="ls" a1="-l"',
    "CWD": 'cwd="/root"',
    "PATH": 'item=0 name="/usr/bin/ls" inode=5 dev=08:01 mode=0100755 ouid=0 ogid=0 rdev=00:00 nametype=NORMAL',
    "PROCTITLE": "proctitle=6C73002D6C",
}


def make_exec(serial: int, *, old: str = "", new: str = "", prefix: str = "") -> list[bytes]:
    stamp = f"msg=audit(1700000000.{serial % 1000:03d}:{serial}): "
    lines = [f"{prefix}type={kind} {stamp}{body}" for kind, body in LINES.items()]
    assert not old or any(old in line for line in lines)
    return [line.replace(old, new).encode() if old else line.encode() for line in lines]


def put_together(lines: Iterable[bytes]) -> list[OpenEvent]:
    reassembler = Reassembler(live=False)
    return [*reassembler.feed(make_records(lines), 0), *reassembler.drain()]


def build_both(known: Execs, opened: OpenEvent) -> tuple[Built, Built]:
    event_id = EventId(SOURCE, opened.node, opened.time_ms, opened.serial)
    return known.build(event_id, opened.stamp, opened.records), build_event(event_id, opened.records)


def decode_two(first: list[bytes], second: list[bytes]) -> tuple[Event, Event]:
    one, two = decode_lines([*first, *second])
    return one, two


@pytest.mark.slow
def test_recorded_events_say_the_same_whether_they_are_known_or_not(corpora: Path) -> None:
    repeated = 0
    for log in sorted((corpora / "recorded").rglob("*.log")):
        known = Execs()
        seen: set[bytes] = set()
        for opened in put_together(log.read_bytes().splitlines()[:4000]):
            built, plain = build_both(known, opened)
            likeness = built.event.likeness
            assert built.incomplete == plain.incomplete
            assert replace(built.event, likeness=None) == plain.event
            if likeness is not None:
                repeated += likeness in seen
                seen.add(likeness)
    assert repeated > 100


@pytest.mark.parametrize(
    ("old", "new"),
    [("a0=1 ", "a0=7ffe "), ("a3=4", "a3=0"), (" ppid=10 ", " ppid=4000 "), (" pid=11 ", " pid=4194304 ")],
)
def test_what_never_comes_again_makes_no_difference(old: str, new: str) -> None:
    one, two = decode_two(make_exec(1), make_exec(2, old=old, new=new))
    assert one.likeness is not None
    assert one.likeness is two.likeness
    assert one.process is not None
    assert two.process is not None
    assert two.process.pid == (4194304 if "pid=4194304" in new else 11)
    assert two.process.ppid == (4000 if "4000" in new else 10)
    assert two.process.key.start_ms == 1_700_000_000_002
    assert two.views[0].fields["ProcessId"] == two.process.pid
    assert two.views[0].fields["ParentProcessId"] == two.process.ppid


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("success=yes exit=0", "success=no exit=-13"),
        ("uid=0 gid", "uid=33 gid"),
        ("auid=1000", "auid=1001"),
        ("ses=3", "ses=4"),
        ('/usr/bin/ls" key', '/tmp/ls" key'),
        ('key="exec"', 'key="other"'),
        ("-l", "-a"),
        ("/root", "/tmp"),
        ("inode=5", "inode=6"),
        ("6C73002D6C", "6C73002D61"),
        ("arch=c000003e syscall=59", "arch=40000003 syscall=11"),
    ],
)
def test_everything_else_does(old: str, new: str) -> None:
    one, two = decode_two(make_exec(1), make_exec(2, old=old, new=new))
    assert one.likeness is not None
    assert two.likeness is not None
    assert one.likeness != two.likeness
    assert replace(two, likeness=None) == build_event(two.id, cast("tuple[AuditLine, ...]", two.records)).event


def test_failures_of_different_reasons_are_not_alike() -> None:
    one, two = decode_two(
        make_exec(1, old="yes exit=0", new="no exit=-13"), make_exec(2, old="yes exit=0", new="no exit=-2")
    )
    assert one.likeness != two.likeness
    assert [event.views[0].fields["ExitCode"] for event in (one, two)] == ["-13", "-2"]


def test_a_path_that_is_missing_is_missed_in_an_exec_that_is_known() -> None:
    known = Execs()
    build_both(known, put_together(make_exec(1))[0])
    built, plain = build_both(known, put_together(make_exec(2, old="items=1", new="items=2"))[0])
    assert built == plain
    assert built.incomplete


@pytest.mark.parametrize(
    ("old", "new", "prefix"),
    [
        ("syscall=59", "syscall=2", ""),
        ("-l", "1700000000.002:2", ""),  # the stamp of the event itself
        ("", "", "node=box "),
        ("", "", "Nov 14 22:13:20 box audit: "),
        ("items=1", "items=2", ""),
        ("-l", "x" * 2048, ""),
    ],
)
def test_what_is_unusual_is_like_nothing(old: str, new: str, prefix: str) -> None:
    for event in decode_two(make_exec(2, old=old, new=new, prefix=prefix), make_exec(3, old=old, new=new)):
        assert event.id.serial == 3 or event.likeness is None
        assert (
            event.likeness is None or not isinstance(event.views, LazyViews) or event.views.likeness == event.likeness
        )


def test_late_records_are_like_nothing() -> None:
    opened = make_exec(1)
    others = [line for serial in range(2, 400) for line in make_exec(serial)]
    late = b"type=SYSCALL msg=audit(1700000000.001:1): " + LINES["SYSCALL"].encode()
    events = decode_lines([*opened[1:], *others, late])
    assert [event.likeness is None for event in events if event.id.serial == 1] == [True, True]


def test_the_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execs, "_GENERATION", 8)
    monkeypatch.setattr(execs, "_CALLS", 4)
    known = Execs()
    for serial in range(1, 100):
        (one,) = put_together(make_exec(serial, old="-l", new=f"-{serial}"))
        (two,) = put_together(make_exec(serial, old="syscall=59", new=f"syscall={serial}"))
        for opened in (one, two):
            built, plain = build_both(known, opened)
            assert replace(built.event, likeness=None) == plain.event
        assert len(known._young) + len(known._old) <= 16
        assert len(known._calls) <= 4
