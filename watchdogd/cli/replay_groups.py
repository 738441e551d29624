"""Repeats in a replay: an alert is held until its group is over, then printed once, with its count."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from watchdogd.entities import AlertState
from watchdogd.errors import SourceError
from watchdogd.grouping import GroupTable, count_repeat
from watchdogd.triage.features import fingerprint
from watchdogd.triage.questions import ask_by_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from watchdogd.entities import Alert
    from watchdogd.grouping import Plan

HELD = 10_000
KNOWN = 100_000
"""How many ids are remembered, so that a line that is read twice counts once."""


class _Held(NamedTuple):
    alert: Alert
    key: str
    over_ms: int


class Groups:
    """Alerts in, alerts with their repeats out, in the same order. Bounded in what it holds and remembers."""

    def __init__(self, plan: Plan, limit: int = HELD) -> None:
        self._plan = plan
        self._limit = limit
        self._table = GroupTable(limit=limit)
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._known: OrderedDict[str, None] = OrderedDict()
        self._now_ms = 0

    def take(self, alert: Alert) -> Iterator[Alert]:
        """Take one in; those whose group is over now, or that there is no room for."""
        if not self._is_new(alert.id):
            return
        alert = self._plan.regroup(alert)
        facts = self._plan.state_facts(alert, ask_by_name(alert, fingerprint(alert)))
        decision = self._table.take(alert, facts)
        leader = self._held.get(decision.leader or "")
        if decision.state is AlertState.FOLDED and leader is not None:
            self._held[leader.alert.id] = leader._replace(alert=count_repeat(leader.alert, alert))
        else:
            over_ms = facts.time_ms + (facts.repeat_ms if decision.state is AlertState.ACTIVE else 0)
            self._held[alert.id] = _Held(decision.apply(alert), facts.key, over_ms)
        self._now_ms = max(self._now_ms, alert.time_ms)
        yield from self._release()

    def finish(self) -> Iterator[Alert]:
        """The rest, at the end of the input."""
        for held in self._held.values():
            yield held.alert
        self._held.clear()

    def _is_new(self, alert_id: str) -> bool:
        if alert_id in self._known:
            return False
        self._known[alert_id] = None
        if len(self._known) > KNOWN:
            self._known.popitem(last=False)
        return True

    def _release(self) -> Iterator[Alert]:
        """From the first on, those that no repeat can change any more: what comes in spite of that leads anew."""
        while self._held:
            first = next(iter(self._held.values()))
            if len(self._held) <= self._limit and first.over_ms > self._now_ms:
                return
            self._held.popitem(last=False)
            self._table.end(first.key, first.alert.id)
            yield first.alert


def group_alerts(alerts: Iterable[Alert], plan: Plan, limit: int = HELD) -> Iterator[Alert]:
    """Each alert that is told or inhibited, once, with the count of its repeats; in the order in which they came."""
    groups = Groups(plan, limit)
    try:
        for alert in alerts:
            yield from groups.take(alert)
    except SourceError:
        yield from groups.finish()
        raise
    yield from groups.finish()
