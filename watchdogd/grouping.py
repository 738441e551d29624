"""Which alerts are told and which only counted: groups and inhibition, in Alertmanager's words. Does no I/O.

The store asks `decide` within the transaction that writes an alert, and keeps groups and inhibitors beside it; replay
keeps them in memory (`GroupTable`). So both decide alike, and a line that is read twice counts once.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import msgspec

from watchdogd.entities import AlertState, Level
from watchdogd.labels import read_label
from watchdogd.sessions import name_origin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from watchdogd.entities import Alert
    from watchdogd.silences import Matcher

EVENTS_KEPT: Final = 100
"""How many events an alert lists; those of further repeats are counted only."""

HELD_AT_MOST_S: Final = {Level.CRITICAL: 0.0, Level.HIGH: 30.0}
"""However long `group_wait_s` is."""

KEPT_INHIBITORS: Final = 16
"""How many alerts are looked at that may inhibit the same."""

_WIDE: Final = "rule"


class InhibitRule(msgspec.Struct, frozen=True):
    """While a source was alerted about, targets that have the same values of `equal` are not told."""

    sources: tuple[Matcher, ...]
    targets: tuple[Matcher, ...]
    equal: tuple[str, ...] = ()
    duration_ms: int = 3_600_000

    def name(self, alert: Alert) -> str:
        """The same for a source and the targets that it inhibits."""
        matchers = [[one.text() for one in matchers] for matchers in (self.sources, self.targets)]
        return _hash("inhibit", matchers, [(name, read_label(alert, name)) for name in self.equal])


class Plan(msgspec.Struct, frozen=True):
    """How alerts are grouped where their rule does not say it."""

    group_by: tuple[str, ...] = ("rule", "host", "user", "executable")
    group_wait_ms: int = 0
    group_interval_ms: int = 300_000
    repeat_interval_ms: int = 14_400_000
    inhibit_rules: tuple[InhibitRule, ...] = ()

    def regroup(self, alert: Alert) -> Alert:
        """The alert with the `group_key` that these settings give it, for people: rule and values, `|` between."""
        names, values = self._read(alert)
        shown = [alert.rule.id if name == _WIDE else ",".join(value) for name, value in zip(names, values, strict=True)]
        if not alert.rule.group_by and _groups_itself(alert):
            shown = [alert.host, alert.group_key] if alert.host else [alert.group_key]
        return msgspec.structs.replace(alert, group_key="|".join(shown))

    def state_facts(self, alert: Alert, question: str, silence: str | None = None) -> Facts:
        """What `decide` needs to know of an alert that `regroup` gave. `question`: alerts of the same ask the same."""
        _, values = self._read(alert)
        own = () if alert.rule.group_by or not _groups_itself(alert) else (alert.group_key,)
        strict = question if alert.level.rank >= Level.HIGH.rank else ""
        cooldown_s = alert.rule.cooldown_s
        return Facts(
            key=_hash("group", values, own, strict),
            rank=alert.level.rank,
            question=question,
            time_ms=alert.time_ms,
            repeat_ms=self.repeat_interval_ms if cooldown_s is None else cooldown_s * 1000,
            interval_ms=self.group_interval_ms,
            silence=silence,
            inhibits=tuple(self._find_reach(alert)),
            watched=tuple(self._find_watched(alert)),
        )

    def hold_ms(self, level: Level) -> int:
        """How long the first notification of a group waits for repeats: never for critical, briefly for high."""
        most_s = HELD_AT_MOST_S.get(level)
        return self.group_wait_ms if most_s is None else min(self.group_wait_ms, round(most_s * 1000))

    def _read(self, alert: Alert) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        names = self.group_by
        if alert.rule.group_by:
            names = tuple(dict.fromkeys((_WIDE, "host", *alert.rule.group_by)))
        return names, [read_label(alert, name) for name in names]

    def _find_reach(self, alert: Alert) -> Iterable[Reach]:
        for rule in self.inhibit_rules:
            if _hold(rule.sources, alert):
                yield Reach(rule.name(alert), alert.time_ms, alert.time_ms + rule.duration_ms)
        until_ms = alert.time_ms + alert.rule.timespan_ms
        origin = name_origin(alert)
        for part in alert.rule.parts:
            if origin is not None:
                yield Reach(_hash("origin", part.rule_id, origin), alert.first_seen_ms, until_ms)
            if part.fields and all(name in alert.matched for name in part.names):
                shared = [alert.matched[name].casefold() for name in part.names]
                yield Reach(
                    _hash("shared", part.rule_id, part.fields, alert.host, shared), alert.first_seen_ms, until_ms
                )

    def _find_watched(self, alert: Alert) -> Iterable[str]:
        for rule in self.inhibit_rules:
            if _hold(rule.targets, alert) and not _hold(rule.sources, alert):  # what is both inhibits none of its kind
                yield rule.name(alert)
        if not alert.rule.part_of:
            return
        origin = name_origin(alert)
        if origin is not None:
            yield _hash("origin", alert.rule.id, origin)
        for fields in alert.rule.part_of:
            values = [read_label(alert, name) for name in fields]
            if fields and all(len(value) == 1 for value in values):
                shared = [value[0].casefold() for value in values]
                yield _hash("shared", alert.rule.id, fields, alert.host, shared)


class Reach(msgspec.Struct, frozen=True):
    """Alerts that watch `key` and happened between these times (ms) are inhibited."""

    key: str
    from_ms: int
    until_ms: int


class Facts(msgspec.Struct, frozen=True):
    """What decides about an alert, beside what is known of its group."""

    key: str
    """Of its group. Of high and critical alerts each question is a group of its own."""
    rank: int
    question: str
    time_ms: int
    repeat_ms: int
    interval_ms: int
    silence: str | None = None
    inhibits: tuple[Reach, ...] = ()
    watched: tuple[str, ...] = ()


class Group(msgspec.Struct, frozen=True):
    """What is known of a group: its leader, and since when it leads."""

    leader: str
    rank: int
    start_ms: int
    question: str
    sinks: tuple[str, ...]
    lowered: bool = False
    """The leader's verdict kept it in the journal."""


class Inhibitor(msgspec.Struct, frozen=True):
    """An alert that was told and inhibits others."""

    alert_id: str
    rank: int
    from_ms: int
    until_ms: int


class Decision(msgspec.Struct, frozen=True):
    """What becomes of an alert."""

    state: AlertState
    leader: str | None = None
    silence: str | None = None

    def apply(self, alert: Alert) -> Alert:
        """The alert with it."""
        return msgspec.structs.replace(alert, state=self.state, leader=self.leader, silence=self.silence)


ACTIVE: Final = Decision(AlertState.ACTIVE)


def decide(facts: Facts, sinks: Sequence[str], group: Group | None, inhibitors: Iterable[Inhibitor]) -> Decision:
    """What becomes of a new alert. Whatever is not surely a repeat of what was told is told itself.

    A repeat is of the leader's level or below, in time within `repeat_ms` of it, and for sinks that have the leader.
    Inhibited are alerts of the source's level or below; high and critical ones only where their question was told
    before.
    """
    if facts.silence is not None:
        return Decision(AlertState.SILENCED, silence=facts.silence)
    if group is not None and _is_repeat(facts, sinks, group):
        return Decision(AlertState.FOLDED, leader=group.leader)
    is_known = facts.rank < Level.HIGH.rank or group is not None
    fitting = [one for one in inhibitors if is_known and _reaches(one, facts)]
    source = max(fitting, key=lambda one: (one.rank, one.from_ms, one.alert_id), default=None)
    return ACTIVE if source is None else Decision(AlertState.INHIBITED, leader=source.alert_id)


def _is_repeat(facts: Facts, sinks: Sequence[str], group: Group) -> bool:
    return (
        abs(facts.time_ms - group.start_ms) < facts.repeat_ms
        and facts.rank <= group.rank
        and set(sinks) <= set(group.sinks)
        and not (group.lowered and facts.question != group.question)
    )


def _reaches(inhibitor: Inhibitor, facts: Facts) -> bool:
    return facts.rank <= inhibitor.rank and inhibitor.from_ms <= facts.time_ms <= inhibitor.until_ms


def lead(alert: Alert, facts: Facts, sinks: Sequence[str]) -> Group:
    """The group that an active alert leads from now on."""
    return Group(alert.id, facts.rank, alert.time_ms, facts.question, tuple(sinks))


def list_inhibitors(alert: Alert, facts: Facts, decision: Decision, group: Group | None) -> list[tuple[str, Inhibitor]]:
    """What an alert inhibits from now on, by the key that it is looked up by; nothing where it is not told itself."""
    is_told = decision.state is AlertState.ACTIVE or (
        decision.state is AlertState.FOLDED and group is not None and not group.lowered
    )
    if not is_told:
        return []
    source = decision.leader or alert.id
    return [(one.key, Inhibitor(source, facts.rank, one.from_ms, one.until_ms)) for one in facts.inhibits]


def count_repeat(leader: Alert, repeat: Alert) -> Alert:
    """The leader with one repeat more."""
    room = max(0, EVENTS_KEPT - len(leader.events))
    return msgspec.structs.replace(
        leader,
        count=leader.count + 1,
        first_seen_ms=min(leader.first_seen_ms, repeat.first_seen_ms),
        last_seen_ms=max(leader.last_seen_ms, repeat.last_seen_ms),
        events=leader.events + tuple(one for one in repeat.events if one not in leader.events)[:room],
    )


class GroupTable:
    """Groups and inhibitors in memory, for replay. Bounded: what repeats a forgotten one is told anew."""

    def __init__(self, forget: Callable[[str], None] = lambda _: None, limit: int = 10_000) -> None:
        """`forget` hears the id of a leader whose group is over because there were too many."""
        self._forget = forget
        self._limit = limit
        self._groups: OrderedDict[str, Group] = OrderedDict()
        self._inhibitors: OrderedDict[str, list[Inhibitor]] = OrderedDict()

    def take(self, alert: Alert, facts: Facts, sinks: Sequence[str] = ()) -> Decision:
        """Decide about an alert and remember it."""
        group = self._groups.get(facts.key)
        inhibitors = [one for key in facts.watched for one in self._inhibitors.get(key, ())]
        decision = decide(facts, sinks, group, inhibitors)
        if decision.state is AlertState.ACTIVE:
            self._groups.pop(facts.key, None)
            self._groups[facts.key] = lead(alert, facts, sinks)
        for key, inhibitor in list_inhibitors(alert, facts, decision, group):
            known = [one for one in self._inhibitors.pop(key, ()) if one.alert_id != inhibitor.alert_id]
            self._inhibitors[key] = [*known, inhibitor][-KEPT_INHIBITORS:]
        self._shrink()
        return decision

    def end(self, key: str, leader: str) -> None:
        """The group is over, if it is still led by that alert: the next one leads."""
        group = self._groups.get(key)
        if group is not None and group.leader == leader:
            del self._groups[key]

    def _shrink(self) -> None:
        while len(self._groups) > self._limit:
            _, group = self._groups.popitem(last=False)
            self._forget(group.leader)
        while len(self._inhibitors) > self._limit:
            self._inhibitors.popitem(last=False)


def _hold(matchers: Sequence[Matcher], alert: Alert) -> bool:
    return bool(matchers) and all(one.holds(alert) for one in matchers)


def _groups_itself(alert: Alert) -> bool:
    """Correlations have the values that their events share; a sample of the host has what was measured."""
    return alert.is_correlation or alert.process is None


def _hash(*parts: object) -> str:
    return hashlib.sha256(msgspec.json.encode([_escape(part) for part in parts])).hexdigest()[:32]


def _escape(part: object) -> object:
    r"""Text without lone surrogates, which JSON cannot hold: `\udcNN`."""
    if isinstance(part, str):
        return part.encode("utf-8", "backslashreplace").decode()
    if isinstance(part, (list, tuple)):
        return [_escape(one) for one in part]
    return part
