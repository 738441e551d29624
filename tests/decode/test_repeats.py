"""Two sources tell of the same events: each is given once."""

from __future__ import annotations

import pytest

from watchdogd.decode.repeats import Repeats
from watchdogd.entities import EventId


def make_id(serial: int, node: str | None = None, time_ms: int = 1_000) -> EventId:
    return EventId("audit", node, time_ms, serial)


def test_only_the_other_sources_event_is_a_repeat() -> None:
    repeats = Repeats()
    assert repeats.find("log", make_id(1)) is None
    repeats.note("socket", make_id(1), 0, whole=True)
    assert repeats.find("socket", make_id(1)) is None
    assert repeats.find("log", make_id(1)) is True
    assert repeats.find("log", make_id(1, time_ms=1_001)) is None
    assert repeats.find("log", make_id(2)) is None


def test_what_lacked_records_is_no_repeat_until_it_is_whole() -> None:
    repeats = Repeats()
    repeats.note("socket", make_id(1), 0, whole=False)
    assert repeats.find("log", make_id(1)) is False
    repeats.note("log", make_id(1), 0, whole=True)
    assert repeats.find("socket", make_id(1)) is True
    repeats.note("socket", make_id(1), 0, whole=False)
    assert repeats.find("socket", make_id(1)) is True


@pytest.mark.parametrize(
    ("first", "second", "same"), [("a", "a", True), (None, "a", True), ("a", None, True), ("a", "b", None)]
)
def test_a_missing_node_is_like_any(first: str | None, second: str | None, *, same: bool | None) -> None:
    repeats = Repeats()
    repeats.note("socket", make_id(1, first), 0, whole=True)
    assert repeats.find("log", make_id(1, second)) is same


def test_it_is_bounded() -> None:
    repeats = Repeats(limit=10, keep_ms=1000)
    for serial in range(95):
        repeats.note("socket", make_id(serial), serial, whole=True)
        assert repeats.find("log", make_id(max(0, serial - 9))) is True
        assert len(repeats) <= 20
    assert repeats.find("log", make_id(79)) is None
    assert repeats.find("log", make_id(80)) is True


def test_it_ages() -> None:
    repeats = Repeats(limit=10, keep_ms=1000)
    repeats.note("socket", make_id(1), 5_000, whole=True)
    repeats.note("socket", make_id(2), 6_000, whole=True)
    assert repeats.find("log", make_id(1)) is True
    repeats.note("socket", make_id(3), 7_000, whole=True)
    assert repeats.find("log", make_id(1)) is None
    assert repeats.find("log", make_id(2)) is True
    repeats.note("socket", make_id(4), 3_000, whole=True)  # the clock was set back
    assert repeats.find("log", make_id(3)) is True


def test_any_number_of_nodes_takes_bounded_memory() -> None:
    repeats = Repeats()
    for number in range(1_000):
        repeats.note("socket", make_id(number, f"node{number}"), 0, whole=True)
    assert len(repeats._kinds) <= 256
    assert repeats.find("log", make_id(3, "node3")) is True
    assert repeats.find("log", make_id(3, "node4")) is None
