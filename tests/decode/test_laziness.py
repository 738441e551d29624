"""What an event says of its views before they are made, and the pieces that lines are cut into."""

from __future__ import annotations

import itertools

import pytest

from watchdogd.decode import views
from watchdogd.decode.decoder import Decoder
from watchdogd.decode.event import build_event
from watchdogd.decode.facts import read_syscall
from watchdogd.decode.reassemble import Reassembler
from watchdogd.decode.views import Observation, list_categories, may_warn, view_syscall
from watchdogd.entities import VOLATILE_FIELDS, Event, EventId, LazyViews, Record, View
from watchdogd.telemetry import Counters

NUMBERS = {
    "read": 0, "open": 2, "connect": 42, "execve": 59, "truncate": 76, "rename": 82, "mkdir": 83, "rmdir": 84,
    "creat": 85, "unlink": 87, "symlink": 88, "chmod": 90,
    "openat": 257, "unlinkat": 263, "renameat": 264, "linkat": 265,
    "symlinkat": 266, "fchmodat": 268, "setxattr": 188, "renameat2": 316, "execveat": 322, "openat2": 437,
}  # fmt: skip
SOCKADDR = "saddr=02000050C0A80001"


def make_lines(number: int, success: str, a0: str, a1: str, kinds: tuple[str, ...]) -> list[bytes]:
    stamp = "msg=audit(1700000000.001:7): "
    call = (
        f"arch=c000003e syscall={number} success={success} exit=0 a0={a0} a1={a1} a2={a1} a3=1ed items={len(kinds)} "
        "ppid=1 pid=2 auid=0 uid=0 gid=0 euid=0 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 tty=pts0 ses=3 "
        'comm="x" exe="/bin/x" key=(null)'
    )
    paths = [
        f'type=PATH {stamp}item={item} name="f{item}" inode={item} dev=00:2f mode=0100644 ouid=0 ogid=0 rdev=00:00 '
        f"nametype={kind}"
        for item, kind in enumerate(kinds)
    ]
    lines = [f"type=SYSCALL {stamp}{call}", f'type=CWD {stamp}cwd="/tmp"', f"type=SOCKADDR {stamp}{SOCKADDR}", *paths]
    return [line.encode() for line in lines]


@pytest.mark.parametrize("name", NUMBERS)
def test_views_are_of_the_categories_that_were_said_and_warnings_are_there_beforehand(name: str) -> None:
    kinds = [(), ("NORMAL",), ("CREATE",), ("PARENT", "CREATE"), ("DELETE", "CREATE"), ("NORMAL", "NORMAL")]
    for success, a0, a1, kind in itertools.product(("yes", "no"), ("ffffff9c", "3"), ("0", "1", "41", "2"), kinds):
        decoder = Decoder(Counters(), live=False)
        lines = make_lines(NUMBERS[name], success, a0, a1, kind)
        decoder.feed([Record("log", None, line) for line in lines], 0)
        (event,) = decoder.drain().events
        (opened,) = feed(lines)
        by_type = {line.type: line for line in opened.records}
        paths = [line for line in opened.records if line.type == "PATH"]
        seen = Observation(read_syscall(by_type["SYSCALL"]), (), "/tmp", paths, by_type["SOCKADDR"])
        warnings: list[str] = []
        made = view_syscall(seen, warnings)
        assert {view.category for view in made} <= list_categories(seen)
        assert may_warn(seen) or not warnings
        assert [view.category for view in event.views] == [view.category for view in made]
        assert event.categories is None or event.categories == list_categories(seen)
        assert event.call == name
        assert all(warning in event.warnings for warning in warnings)


def feed(lines: list[bytes]) -> list:  # type: ignore[type-arg]
    reassembler = Reassembler(live=False)
    return [*reassembler.feed([Record("log", None, line) for line in lines], 0), *reassembler.drain()]


def test_views_are_made_once_and_only_when_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    (opened,) = feed(make_lines(59, "yes", "1", "2", ()))
    made: list[Observation] = []

    def make(seen: Observation, warnings: list[str]) -> list[View]:
        made.append(seen)
        return view_syscall(seen, warnings)

    monkeypatch.setattr("watchdogd.decode.event.view_syscall", make)
    event = build_event(EventId("audit", None, 0, 0), opened.records).event
    assert event.categories == frozenset({"process_creation"})
    assert not made
    assert event.views[0] is event.views[0]
    assert len(made) == 1


def test_lazy_views_are_like_a_tuple() -> None:
    view = View("syscall", "read", "success", {})
    lazy = LazyViews(lambda source: [source, source], view)
    assert lazy == (view, view)
    assert (view, view) == tuple(lazy)
    assert lazy != (view,)
    assert (len(lazy), lazy[0], lazy[:1]) == (2, view, (view,))
    assert Event(EventId("audit", None, 0, 0), "audit", views=lazy) == Event(
        EventId("audit", None, 0, 0), "audit", views=(view, view)
    )


def test_pieces_hold_all_but_what_is_volatile() -> None:
    (opened,) = feed(make_lines(257, "yes", "ffffff9c", "41", ("CREATE",)))
    for line in opened.records:
        if line.type == "SYSCALL":
            assert line.pieces == (line.line[line.body_at :],)
            read_syscall(line)  # which leaves the pieces
        told = {
            triple
            for piece in line.pieces
            for triple in line.read_piece(piece) or ()
            if triple[0] not in VOLATILE_FIELDS.get(line.type, ())
        }
        assert told == {triple for triple in line.fields if triple[0] not in VOLATILE_FIELDS.get(line.type, ())}
        pieces = b"".join(line.pieces)
        assert (len(line.line) - line.body_at - len(pieces) > 0) == (line.type in VOLATILE_FIELDS)


def test_a_name_is_said_to_be_absent_only_where_it_is() -> None:
    call, cwd, *_ = feed(make_lines(257, "yes", "ffffff9c", "41", ("CREATE",)))[0].records
    assert all(call.may_have(name) and call.may_have(name.upper()) for name, _, _ in call.fields)
    assert not call.may_have("cwd")
    assert cwd.may_have("CWD")
    assert not cwd.may_have("Cwd")
    (odd,) = feed([b"type=CWD msg=audit(1700000000.001:7): Cwd=a N\xff=b \xc3\xa9=c"])[0].records
    assert all(odd.may_have(name) and odd.may_have(name.upper()) for name, _, _ in odd.fields)


def test_every_builder_has_its_categories() -> None:
    assert set(views._CATEGORIES) == set(views._BUILDERS)
