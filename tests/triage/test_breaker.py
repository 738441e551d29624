"""The circuit breaker: it opens, tries again, and never locks up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from watchdogd.triage.breaker import Breaker


class ManualClock:
    """Moves only when told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def now_ms(self) -> int:
        return round(self.now_s * 1000)

    def monotonic_s(self) -> float:
        return self.now_s


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
