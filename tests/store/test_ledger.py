"""The checkpoint is the lowest open line, in the order of reading."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from watchdogd.entities import Checkpoint, Position
from watchdogd.store.ledger import OffsetLedger

START = Checkpoint("audit_log", "/log", "1:1:aa", 0)


def place(number: int, file: str = "1:1:aa") -> Position:
    return Position("audit_log", file, number * 10, number * 10 + 10)


def test_starts_where_it_was_told_to() -> None:
    assert OffsetLedger("audit_log", "/log").checkpoint() is None
    assert OffsetLedger("audit_log", "/log", START).checkpoint() == START


def test_interleaved_events_hold_the_checkpoint_back() -> None:
    ledger = OffsetLedger("audit_log", "/log", START)
    for number in range(3):
        ledger.open(place(number))
    ledger.close(place(0))
    ledger.close(place(2))
    assert ledger.checkpoint() == Checkpoint("audit_log", "/log", "1:1:aa", 10)
    ledger.close(place(1))
    assert ledger.checkpoint() == Checkpoint("audit_log", "/log", "1:1:aa", 30)


def test_an_older_file_goes_first_whatever_its_offsets() -> None:
    ledger = OffsetLedger("audit_log", "/log")
    ledger.open(place(900, "1:1:aa"))
    ledger.open(place(0, "1:2:bb"))
    ledger.close(place(0, "1:2:bb"))
    assert ledger.checkpoint() == Checkpoint("audit_log", "/log", "1:1:aa", 9000)
    ledger.close(place(900, "1:1:aa"))
    assert ledger.checkpoint() == Checkpoint("audit_log", "/log", "1:2:bb", 10)


def test_a_line_that_is_not_open_changes_nothing() -> None:
    ledger = OffsetLedger("audit_log", "/log", START)
    assert not ledger.close(place(5))
    assert ledger.checkpoint() == START


class Model:
    """The naive ledger: a list of [position, times open] in the order of opening."""

    def __init__(self) -> None:
        self.entries: list[tuple[Position, int]] = []

    def open(self, position: Position) -> None:
        for index, (known, opens) in enumerate(self.entries):
            if known == position and opens:
                self.entries[index] = (known, opens + 1)
                return
        self.entries.append((position, 1))

    def close(self, position: Position) -> bool:
        for index, (known, opens) in enumerate(self.entries):
            if known == position and opens:
                self.entries[index] = (known, opens - 1)
                return True
        return False

    def checkpoint(self) -> tuple[str, int] | None:
        for position, opens in self.entries:
            if opens:
                return position.file_id, position.start
        return (self.entries[-1][0].file_id, self.entries[-1][0].end) if self.entries else None


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6), st.sampled_from(["1:1:aa", "1:2:bb"])), max_size=60))
def test_agrees_with_the_naive_model(steps: list[tuple[bool, int, str]]) -> None:
    ledger, model = OffsetLedger("audit_log", "/log"), Model()
    for opens, number, file in steps:
        if opens:
            ledger.open(place(number, file))
            model.open(place(number, file))
        else:
            assert ledger.close(place(number, file)) == model.close(place(number, file))
        point = ledger.checkpoint()
        assert (None if point is None else (point.file_id, point.offset)) == model.checkpoint()
    assert len(ledger) == sum(opens > 0 for _, opens in model.entries)
