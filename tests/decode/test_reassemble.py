from __future__ import annotations

import random
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.decode.conftest import SYSCALL, decode_lines, make_event, make_records
from tests.size import choose_examples
from watchdogd.decode import reassemble
from watchdogd.decode.decoder import Decoder
from watchdogd.decode.reassemble import (
    AGE_MS,
    OPEN_BYTES,
    QUIET_MS,
    REMEMBERED_EVENTS,
    WINDOW_EVENTS,
    Reassembler,
    SerialLedger,
)
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from watchdogd.entities import Event


def shape(events: Sequence[Event]) -> list[tuple[int, int, list[str]]]:
    return [(event.id.time_ms, event.id.serial, sorted(record.type for record in event.records)) for event in events]


def shape_sorted(events: Sequence[Event]) -> list[tuple[int, int, list[bytes]]]:
    return sorted(
        (event.id.time_ms, event.id.serial, sorted(record.line for record in event.records)) for event in events
    )


EXPECTED = [
    (1492037289295, 58, ["SOCKADDR", "SYSCALL"]),
    (1492037291036, 59, ["CWD", "EXECVE", "PATH", "PATH", "SYSCALL"]),
    (1492037291038, 60, ["CWD", "EXECVE", "PATH", "PATH", "SYSCALL"]),
    (1492037298883, 61, ["CWD", "PATH", "SOCKADDR", "SYSCALL"]),
    (1492037298883, 62, ["SYSCALL"]),
]


@pytest.mark.parametrize("name", ["normal", "out_of_order"])
def test_go_libaudit_logs_come_apart_alike(corpora: Path, name: str) -> None:
    lines = (corpora / f"third_party/elastic+go-libaudit/testdata/{name}.log").read_bytes().split(b"\n")
    assert shape(decode_lines(lines)) == EXPECTED


def test_go_libaudit_lost_messages_show_as_a_gap(corpora: Path) -> None:
    lines = (corpora / "third_party/elastic+go-libaudit/testdata/lost_messages.log").read_bytes().split(b"\n")
    counters = Counters()
    events = decode_lines(lines, counters)
    assert shape(events) == [(EXPECTED[0][0], 49, EXPECTED[0][2]), *EXPECTED[1:]]
    assert counters.get("decode_serial_gaps_total") == 9


def test_go_libaudit_rollover_is_no_gap(corpora: Path) -> None:
    lines = (corpora / "third_party/elastic+go-libaudit/testdata/rollover.log").read_bytes().split(b"\n")
    counters = Counters()
    assert [event.id.serial for event in decode_lines(lines, counters)] == [4294967294, 4294967295, 0, 1, 2]
    assert counters.get("decode_serial_gaps_total") == 0


def test_the_same_serial_at_another_time_or_node_is_another_event() -> None:
    lines = make_event(7) + make_event(7, time_ms=1_800_000_000_000)
    lines += [b"node=a " + line for line in make_event(7)] + [b"node=b " + line for line in make_event(7)]
    events = decode_lines(lines)
    assert [(event.id.node, event.id.time_ms) for event in events] == [
        (None, 1_700_000_000_028),
        (None, 1_800_000_000_000),
        ("a", 1_700_000_000_028),
        ("b", 1_700_000_000_028),
    ]


@settings(max_examples=60)
@given(st.randoms(use_true_random=False), st.integers(1, 40), st.integers(1, 50))
def test_any_interleaving_and_any_batches_give_the_same_events(chance: random.Random, count: int, batch: int) -> None:
    groups = [make_event(serial, paths=serial % 4) for serial in range(1, count + 1)]
    straight = [line for group in groups for line in group]
    mixed = list(straight)
    chance.shuffle(mixed)
    counters = Counters()
    events = decode_lines(mixed, counters, batch)
    assert shape_sorted(events) == shape_sorted(decode_lines(straight))
    assert [counters.get(f"decode_{name}_total") for name in ("late_records", "incomplete_events")] == [0, 0]


def make_exec(argv: Sequence[bytes], cuts: Sequence[int], *, serial: int = 7, node: bytes = b"") -> list[bytes]:
    """An exec as the kernel writes long ones: each argument in pieces, each piece in an EXECVE record of its own."""
    stamp = b"msg=audit(1700000000.000:%d):" % serial
    head = f"arch=c000003e syscall=59 {SYSCALL.format(paths=0, pid=serial).partition('syscall=2 ')[2]}".encode()
    bodies = [b"SYSCALL " + stamp + b" " + head, b"CWD " + stamp + b' cwd="/root"']
    lead = b"argc=%d " % len(argv)
    for number, argument in enumerate(argv):
        ends = sorted({*(cut % (len(argument) + 1) for cut in cuts), len(argument)} - {0})
        for piece, (start, end) in enumerate(pairwise([0, *ends])):
            length = b"a%d_len=%d " % (number, 2 * len(argument)) if piece == 0 else b""
            text = b"a%d[%d]=%s" % (number, piece, argument[start:end].hex().upper().encode())
            bodies.append(b"EXECVE " + stamp + b" " + lead + length + text)
            lead = b""
    return [(b"node=" + node + b" " if node else b"") + b"type=" + body for body in bodies]


@settings(max_examples=80)
@given(
    st.randoms(use_true_random=False),
    st.lists(st.lists(st.binary(min_size=1, max_size=9), min_size=1, max_size=5), min_size=3, max_size=3),
    st.lists(st.integers(0, 9), max_size=3),
    st.integers(1, 50),
)
def test_cut_arguments_of_nodes_with_equal_stamps_come_together_however_they_are_mixed(
    chance: random.Random, argvs: list[list[bytes]], cuts: list[int], batch: int
) -> None:
    nodes = ("", "a", "b")
    mixed = [
        line for argv, node in zip(argvs, nodes, strict=True) for line in make_exec(argv, cuts, node=node.encode())
    ]
    chance.shuffle(mixed)
    counters = Counters()
    events = {event.id.node or "": event for event in decode_lines(mixed, counters, batch)}
    assert sorted(events) == list(nodes)
    for argv, node in zip(argvs, nodes, strict=True):
        process = events[node].process
        assert process is not None
        assert process.argv == tuple(argument.decode("utf-8", "backslashreplace") for argument in argv)
    assert [counters.get(f"decode_{name}_total") for name in ("late_records", "incomplete_events")] == [0, 0]


@settings(max_examples=40)
@given(st.randoms(use_true_random=False), st.integers(1, 40), st.lists(st.integers(0, 19), min_size=1, max_size=20))
def test_live_any_interleaving_and_any_pauses_give_the_same_events(
    chance: random.Random, count: int, pauses_ms: list[int]
) -> None:
    """While no event is silent for QUIET_MS before it is whole, time takes nothing apart."""
    groups = [make_event(serial, paths=serial % 4) for serial in range(1, count + 1)]
    straight = [line for group in groups for line in group]
    mixed = make_records(straight)
    chance.shuffle(mixed)
    decoder = Decoder(Counters(), live=True)
    events: list[Event] = []
    heard: dict[bytes, tuple[int, int]] = {}
    now_ms = 0
    for number, record in enumerate(mixed):
        waiting = [last_ms for last_ms, missing in heard.values() if missing]
        now_ms = min([now_ms + pauses_ms[number % len(pauses_ms)], *(last_ms + QUIET_MS - 1 for last_ms in waiting)])
        stamp = record.data.split(b" ")[1]
        _, missing = heard.get(stamp, (0, sum(stamp in line for line in straight)))
        heard[stamp] = (now_ms, missing - 1)
        events += decoder.feed([record], now_ms).events
        events += decoder.tick(now_ms).events
    events += decoder.drain().events
    assert shape_sorted(events) == shape_sorted(decode_lines(straight))


@pytest.mark.sampled
@settings(deadline=None, max_examples=choose_examples(25, times=20))
@given(st.integers(1, 500))
def test_batches_do_not_matter_beyond_the_window(batch: int) -> None:
    lines = [line for serial in range(1, 400) for line in make_event(serial)]
    lines += make_event(3)[:2]
    one, other = Counters(), Counters()
    assert shape(decode_lines(lines, one, batch)) == shape(decode_lines(lines, other, 10_000))
    assert one.snapshot() == other.snapshot()


def test_events_come_in_the_order_of_their_first_lines() -> None:
    first, second = make_event(1), make_event(2)
    mixed = [first[0], *second, *first[1:]]
    assert [event.id.serial for event in decode_lines(mixed)] == [1, 2]


def test_a_duplicate_is_counted_and_its_position_ignored() -> None:
    lines = make_event(1)
    records = make_records([*lines, lines[1]], positions=True)
    counters = Counters()
    decoder = Decoder(counters, live=False)
    decoder.feed(records, 0)
    events, ignored = decoder.drain()
    assert [len(event.records) for event in events] == [len(lines)]
    assert ignored == [records[-1].position]
    assert counters.get("decode_duplicate_records_total") == 1


def test_lines_of_equal_length_are_told_apart() -> None:
    lines = make_event(1, paths=2)
    twin = lines[2].replace(b"item=0", b"item=7")
    assert len(twin) == len(lines[2])
    assert twin != lines[2]
    counters = Counters()
    (event,) = decode_lines([*lines, twin], counters)
    assert len(event.records) == len(lines) + 1
    assert counters.get("decode_duplicate_records_total") == 0


@pytest.mark.parametrize("padding", [0, 10_000], ids=["lines kept", "lines digested"])
def test_what_comes_late_is_known_however_often_and_large(padding: int) -> None:
    lines = make_event(1)
    long = lines[0] + b" key=" + b"x" * padding
    filler = [line for serial in range(2, WINDOW_EVENTS + 4) for line in make_event(serial)]
    more = [line for serial in range(WINDOW_EVENTS + 4, 2 * WINDOW_EVENTS + 8) for line in make_event(serial)]
    counters = Counters()
    events = decode_lines([long, *filler, long, lines[1], *more, lines[1], long], counters)
    assert [len(event.records) for event in events if event.id.serial == 1] == [1, 1]
    assert counters.get("decode_duplicate_records_total") == 3


@pytest.mark.parametrize("live", [True, False])
def test_a_line_that_comes_late_again_and_again_takes_no_more_memory(*, live: bool) -> None:
    reassembler = Reassembler(live=live)
    lines = make_records(make_event(1))
    for _ in range(50):
        reassembler.feed(lines, 0)
        reassembler.drain()
    (known,) = reassembler._left.values()
    assert len(known) == len(lines)


def test_late_records_are_judged_by_themselves_and_late_duplicates_not() -> None:
    lines = make_event(1, paths=2)
    filler = [line for serial in range(2, WINDOW_EVENTS + 4) for line in make_event(serial)]
    counters = Counters()
    decoder = Decoder(counters, live=False)
    records = make_records([*lines[:2], *lines[3:], *filler, lines[2], lines[0]], positions=True)
    decoded = decoder.feed(records, 0)
    rest = decoder.drain()
    found = [event for event in [*decoded.events, *rest.events] if event.id.serial == 1]
    assert [len(event.records) for event in found] == [len(lines) - 1, 1]
    assert found[1].warnings[0].startswith("late:")
    assert [*decoded.ignored, *rest.ignored] == [records[-1].position]
    assert counters.get("decode_late_records_total") == 1
    assert counters.get("decode_duplicate_records_total") == 1


def test_every_position_comes_back_exactly_once() -> None:
    lines = [line for serial in range(1, 30) for line in make_event(serial)]
    chance = random.Random(1)
    lines += [*chance.sample(lines, 20), b"garbage", b"----", b""]
    chance.shuffle(lines)
    records = make_records(lines, positions=True)
    decoder = Decoder(Counters(), live=False)
    parts = [decoder.feed(records, 0), decoder.drain()]
    closed = [record.position for part in parts for event in part.events for record in event.records]
    closed += [position for part in parts for position in part.ignored]
    assert sorted(position.start for position in closed if position) == [
        record.position.start for record in records if record.position
    ]


def test_replay_lets_go_by_count_whatever_the_clock_says() -> None:
    reassembler = Reassembler(live=False)
    for serial in range(1, WINDOW_EVENTS + 2):
        assert reassembler.feed(make_records(make_event(serial)), serial * 10**6) == []
    ready = reassembler.feed(make_records(make_event(WINDOW_EVENTS + 2)), 0)
    assert [event.serial for event in ready] == [1]
    assert reassembler.pending == WINDOW_EVENTS + 1


def test_one_line_from_the_far_future_does_not_tear_later_events_apart() -> None:
    future = [b"type=DAEMON_START msg=audit(99999999999.000:9): op=start"]
    groups = [make_event(serial) for serial in range(10, 20)]
    mixed = [line for lines in zip(*groups, strict=True) for line in lines]
    events = decode_lines([*make_event(1), *future, *mixed])
    assert len(events) == 12
    assert all(len(event.records) == 4 for event in events if event.id.serial != 9)


def test_live_lets_go_after_quiet() -> None:
    decoder = Decoder(Counters(), live=True)
    assert decoder.feed(make_records(make_event(1)), 1000).events == []
    assert decoder.pending == 1
    assert decoder.tick(1000 + QUIET_MS - 1).events == []
    assert len(decoder.tick(1000 + QUIET_MS).events) == 1
    assert decoder.pending == 0


def test_live_lets_go_by_age_where_nothing_closes_the_event() -> None:
    decoder = Decoder(Counters(), live=True)
    decoder.feed(make_records(make_event(1, close=False)), 1000)
    decoder.feed(make_records(make_event(2)), 1001)
    assert decoder.tick(1000 + AGE_MS - 1).events == []
    assert [event.id.serial for event in decoder.tick(1000 + AGE_MS).events] == [1, 2]


def end_event(lines: list[bytes]) -> bytes:
    """The EOE record of these lines' event."""
    return b"type=EOE " + lines[0].split(b" ")[1] + b" "


def test_live_lets_go_at_once_of_what_has_its_end() -> None:
    decoder = Decoder(Counters(), live=True)
    lines = make_event(1)
    assert decoder.feed(make_records(lines), 1000).events == []
    assert [len(event.records) for event in decoder.feed(make_records([end_event(lines)]), 1000).events] == [5]


@pytest.mark.parametrize("turn", [reversed, lambda lines: [lines[-1], *lines[:-1]]], ids=["reversed", "end first"])
def test_live_waits_for_what_follows_an_end_that_came_too_early(turn: Callable[[list[bytes]], Iterable[bytes]]) -> None:
    decoder = Decoder(Counters(), live=True)
    lines = make_event(1)
    early = list(turn([*lines, end_event(lines)]))
    found = [event for line in early[:1] for event in decoder.feed(make_records([line]), 1000).events]
    found += decoder.feed(make_records(early[1:]), 1000 + QUIET_MS - 1).events
    assert [len(event.records) for event in found] == [5]


def test_live_lets_go_of_what_a_newer_event_comes_well_after() -> None:
    """Where PROCTITLE is excluded by audit rules, or unknown to an old kernel."""
    decoder = Decoder(Counters(), live=True)
    decoder.feed(make_records(make_event(1, close=False)), 1000)
    assert decoder.tick(1000 + AGE_MS - 1).events == []
    found = decoder.feed(make_records(make_event(2, close=False)), 1000 + QUIET_MS).events
    assert [event.id.serial for event in found] == [1]


def test_live_does_not_take_a_reader_that_pauses_for_quiet() -> None:
    """The log is read every 50 ms: what was cut at the end of one reading goes on in the next."""
    decoder = Decoder(Counters(), live=True)
    first, second = make_event(1, close=False), make_event(2, close=False)
    decoder.feed(make_records([*first[:2], *second]), 1000)
    assert decoder.tick(1000 + 2 * QUIET_MS).events == []
    decoder.feed(make_records(first[2:]), 1050)
    assert [len(event.records) for event in decoder.drain().events] == [3, 3]


def test_live_lets_go_of_what_stands_alone_at_once() -> None:
    line = b"type=USER_CMD msg=audit(1.000:1): pid=1 uid=0 auid=0 ses=1 msg='cmd=\"id\" res=success'"
    assert len(Decoder(Counters(), live=True).feed(make_records([line]), 5).events) == 1


def test_live_survives_a_clock_that_goes_back() -> None:
    decoder = Decoder(Counters(), live=True)
    decoder.feed(make_records(make_event(1, close=False)), 10_000_000)
    assert len(decoder.tick(5).events) == 1


def test_open_events_are_bounded_in_number_and_bytes() -> None:
    reassembler = Reassembler(live=True)
    lines = [line for serial in range(WINDOW_EVENTS * 3) for line in make_event(serial, close=False)]
    assert len(reassembler.feed(make_records(lines), 0)) == WINDOW_EVENTS * 2 - 1
    assert reassembler.pending == WINDOW_EVENTS + 1
    big = Reassembler(live=False)
    line = b"type=EXECVE msg=audit(1.000:1): a0=" + b"41" * (1 << 19)
    left = big.feed(make_records([line + str(n).encode() for n in range(OPEN_BYTES // len(line) + 2)]), 0)
    assert len(left) == 1
    assert big.pending <= 1


@pytest.mark.parametrize("batch", [1, 7, 64, 1000])
def test_what_leaves_for_lack_of_room_does_not_depend_on_batches(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reassemble, "OPEN_BYTES", 5_000)
    lines = [b"type=EXECVE msg=audit(1.000:%d): a%d=%s" % (at // 60, at, b"41" * 50) for at in range(200)]
    one, other = Counters(), Counters()
    assert shape(decode_lines(lines, one, batch)) == shape(decode_lines(lines, other, 1))
    assert one.snapshot() == other.snapshot()


def test_memory_of_events_that_left_is_bounded() -> None:
    reassembler = Reassembler(live=False)
    lines = [line for serial in range(REMEMBERED_EVENTS * 2) for line in make_event(serial)]
    reassembler.feed(make_records(lines), 0)
    reassembler.drain()
    assert len(reassembler._left) == REMEMBERED_EVENTS


def count_gaps(serials: Sequence[int], step_ms: int = 1) -> int:
    ledger = SerialLedger()
    return sum(ledger.note(serial, 1000 + at * step_ms) for at, serial in enumerate(serials)) + ledger.settle()


@pytest.mark.parametrize(
    ("serials", "missing"),
    [
        ([1, 2, 3], 0),
        ([1, 3], 1),
        ([5, 7, 6], 0),
        ([5, 7, 6, 5, 5, 10], 2),
        ([2**32 - 1, 0, 1], 0),
        ([2**32 - 2, 0, 1], 1),
        ([2**32 - 1, 1, 0], 0),
        ([], 0),
    ],
)
def test_serial_gaps(serials: list[int], missing: int) -> None:
    assert count_gaps(serials) == missing


def test_a_reboot_is_no_gap() -> None:
    assert count_gaps([*range(5000, 5010), 1, 2, 3], step_ms=10_000) == 0


@given(st.lists(st.integers(0, 2000), unique=True, min_size=1, max_size=300), st.randoms(use_true_random=False))
def test_gaps_are_counted_right_however_close_serials_are_shuffled(serials: list[int], chance: random.Random) -> None:
    ordered = sorted(serials)
    near = sorted(ordered, key=lambda serial: ordered.index(serial) + chance.randint(0, 20))
    if near[0] == ordered[0]:
        assert count_gaps(near, step_ms=0) == ordered[-1] - ordered[0] + 1 - len(ordered)
