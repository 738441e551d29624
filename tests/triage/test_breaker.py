"""The circuit breaker: it opens, tries again, and never locks up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.triage.conftest import ManualClock
from watchdogd.triage.breaker import Breaker


def test_breaker_says_how_it_stands() -> None:
    clock = ManualClock()
    breaker = Breaker(2, 10, clock)
    states = [breaker.state]
    for act in (breaker.fail, breaker.fail):
        act()
        states.append(breaker.state)
    clock.now_s = 11
    states.append(breaker.state)
    for step in (breaker.admit, breaker.fail):
        step()
        states.append(breaker.state)
    assert states == ["closed", "closed", "open", "half-open", "half-open", "open"]
    clock.now_s = 22
    assert breaker.admit()
    breaker.succeed()
    assert breaker.state == "closed"


@given(st.lists(st.sampled_from(["ask", "succeed", "fail", "release", "wait"]), max_size=40))
def test_breaker_lets_one_probe_through_and_never_locks_up(steps: list[str]) -> None:
    clock = ManualClock()
    breaker = Breaker(2, 10, clock)
    for step in steps:
        if step == "wait":
            clock.now_s += 11
        elif step == "ask":
            breaker.admit()
        else:
            getattr(breaker, step)()
    breaker.release()
    clock.now_s += 11
    assert breaker.admit()
