"""Budgets of questions, by a clock that moves when told to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.triage.conftest import ManualClock
from watchdogd.triage import quota
from watchdogd.triage.quota import Budget, Sessions


def test_a_budget_is_spent_and_comes_back() -> None:
    clock = ManualClock()
    budget = Budget(60, clock)
    assert [budget.spend() for _ in range(15)] == [0.0] * 15
    assert budget.remaining() == 0
    assert budget.spend() == pytest.approx(1.0)
    clock.now_s += 1.01
    assert budget.spend() == 0.0
    clock.now_s += 3600
    assert budget.remaining() == 15


def test_the_smallest_budget_asks_once_a_minute() -> None:
    clock = ManualClock()
    budget = Budget(1, clock)
    assert budget.spend() == 0.0
    assert budget.spend() == pytest.approx(60.0)


@given(st.integers(1, 600), st.lists(st.floats(0, 30), min_size=1, max_size=60))
def test_no_pattern_of_asking_gets_more_than_the_budget(per_minute: int, waits: list[float]) -> None:
    clock = ManualClock()
    budget = Budget(per_minute, clock)
    asked = 0
    for wait_s in waits:
        clock.now_s += wait_s
        while budget.spend() == 0.0:
            asked += 1
    assert asked <= max(1, per_minute / 4) + sum(waits) * per_minute / 60 + 1


def test_a_session_has_so_many_questions_until_it_ends() -> None:
    clock = ManualClock()
    sessions = Sessions(2, 300, clock)
    assert [sessions.admit("a") for _ in range(4)] == [True, True, False, False]
    assert sessions.admit("b")
    assert (sessions.opened, sessions.count()) == (2, 2)
    sessions.refund("a")
    sessions.refund("nobody")
    assert [sessions.admit("a") for _ in range(2)] == [True, False]
    clock.now_s = 299
    assert not sessions.admit("a")
    clock.now_s = 300
    assert sessions.admit("a")
    assert (sessions.opened, sessions.count()) == (3, 1)


def test_sessions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quota, "SESSIONS", 3)
    sessions = Sessions(1, 300, ManualClock())
    for name in "abcd":
        assert sessions.admit(name)
    assert sessions.count() == 3
    assert not sessions.admit("d")
    assert sessions.admit("a")
