"""Alerts of a replay: each once, with its repeats, in their order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.test_grouping import CHAIN, HOUR_MS, PART, alert
from watchdogd.cli.replay_groups import Groups, group_alerts
from watchdogd.entities import AlertState, Level, Rule
from watchdogd.errors import SourceError
from watchdogd.grouping import Plan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from watchdogd.entities import Alert

PLAN = Plan()
OTHER = Rule(id="r2", title="Other", level=Level.LOW)


def test_an_alert_is_printed_once_with_its_repeats() -> None:
    first, other = alert(0), alert(1, rule=OTHER)
    found = list(group_alerts([first, other, alert(2), alert(3)], PLAN))
    assert [(one.id, one.count, len(one.events)) for one in found] == [("a0", 3, 3), ("a1", 1, 1)]


def test_what_is_read_twice_counts_once() -> None:
    assert [one.count for one in group_alerts([alert(0), alert(1), alert(0), alert(1)], PLAN)] == [2]


def test_an_inhibited_alert_is_printed_with_its_state() -> None:
    chain = alert(0, rule=CHAIN, is_correlation=True)
    found = list(group_alerts([chain, alert(1, rule=PART)], PLAN))
    assert [(one.state, one.leader) for one in found] == [(AlertState.ACTIVE, None), (AlertState.INHIBITED, "a0")]


def test_an_alert_is_printed_as_soon_as_its_group_is_over() -> None:
    groups = Groups(PLAN)
    assert list(groups.take(alert(0))) == []
    assert list(groups.take(alert(1))) == []
    (over,) = groups.take(alert(5 * HOUR_MS, rule=OTHER))
    assert (over.id, over.count) == ("a0", 2)
    assert list(groups.take(alert(2))) == []
    rest = [(one.id, one.count) for one in groups.finish()]
    assert rest == [(f"a{5 * HOUR_MS}", 1), ("a2", 1)], "what comes after its group was printed leads anew"


def test_what_came_before_an_unreadable_file_is_printed() -> None:
    def read() -> Iterator[Alert]:
        yield alert(0)
        raise SourceError("gone")

    found: list[str] = []
    with pytest.raises(SourceError):
        found.extend(one.id for one in group_alerts(read(), PLAN))
    assert found == ["a0"]


@given(
    st.lists(st.tuples(st.integers(0, 20 * HOUR_MS), st.sampled_from(["r1", "r2", "r3"])), max_size=30, unique=True),
    st.integers(1, 4),
)
def test_nothing_is_lost_or_counted_twice_whatever_the_room(drawn: list[tuple[int, str]], limit: int) -> None:
    alerts = [
        alert(ms, id=f"{number}", rule=Rule(id=rule, title=rule, level=Level.MEDIUM))
        for number, (ms, rule) in enumerate(drawn)
    ]
    found = list(group_alerts(alerts, PLAN, limit))
    assert sum(one.count for one in found) == len(alerts)
    order = [int(one.id) for one in found]
    assert order == sorted(order)
