"""The daemon's own blindness: what no event tells, found in what the daemon knows about itself.

Each condition alerts once when it begins, again each `repeat_interval_s` while it lasts, and once when it is over.
Moments (rules that went, a clock that was set) have no end. Pure: the caller looks, says what time it is, and keeps the
state over a restart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from watchdogd.entities import Level, Rule
from watchdogd.own_alerts import OwnEvent, build_own_alert

if TYPE_CHECKING:
    from collections.abc import Iterator

    from watchdogd.entities import Alert
    from watchdogd.health_settings import HealthSettings

LOG_GONE_S: Final = 60.0
"""A rotation takes less."""
LOSS_OVER_S: Final = 300.0
"""The kernel's losses are over when none came for so long."""
STALE_S: Final = 300.0
REFUSING_S: Final = 60.0
USUAL_EVENTS: Final = 100
"""So many events in this life make a host one whose silence says something."""
USUAL_GAPS: Final = 3.0
"""Silence is told when it is so many times longer than the longest before it, at least."""


class Signs(msgspec.Struct, frozen=True, kw_only=True):
    """What the daemon knows about itself at one moment. None: not known, or switched off."""

    now_ms: int
    monotonic_s: float
    events: int = 0
    """Decoded since the start."""
    log_trouble: str | None = None
    """Why the log cannot be read; empty where it can."""
    audit_enabled: bool | None = None
    audit_rules: int | None = None
    """How many rules the kernel has."""
    kernel_lost: int = 0
    """Records that the kernel lost since the start."""
    store_refusing: bool = False
    broken_rules: bool = False
    """The rule files cannot be loaded: an older set is in force."""
    triage_down: bool | None = None
    ledger_complete: bool = True


class _Kind(msgspec.Struct, frozen=True):
    rule: Rule
    action: str


def _kind(action: str, rule_id: str, title: str, level: Level, description: str, *techniques: str) -> _Kind:
    rule = Rule(
        id=rule_id,
        title=title,
        level=level,
        description=description,
        techniques=techniques,
        path="watchdogd/health.py",
        triage="never",
    )
    return _Kind(rule, action)


KINDS: Final = {
    kind.action: kind
    for kind in (
        _kind(
            "audit_disabled",
            "0f6d0c5e-8a5b-4d5c-9a0e-52f4f0c1b701",
            "The kernel's audit is switched off",
            Level.CRITICAL,
            "Nothing is recorded, so nothing is seen. `auditctl -e 1` switches it on.",
            "T1562.012",
        ),
        _kind(
            "audit_rules_gone",
            "0f6d0c5e-8a5b-4d5c-9a0e-52f4f0c1b702",
            "The kernel has no audit rules any more",
            Level.CRITICAL,
            "There were some before: hardly anything is recorded now. `augenrules --load` loads them.",
            "T1562.012",
        ),
        _kind(
            "audit_rules_fewer",
            "0f6d0c5e-8a5b-4d5c-9a0e-52f4f0c1b703",
            "Audit rules were deleted",
            Level.HIGH,
            "The kernel has fewer of them than before: what they recorded is not seen any more.",
            "T1562.012",
        ),
        _kind(
            "audit_unknown",
            "0f6d0c5e-8a5b-4d5c-9a0e-52f4f0c1b704",
            "The state of the kernel's audit is not known any more",
            Level.MEDIUM,
            "The timer that writes it down has stopped: systemctl status watchdogd-audit-status.timer.",
            "T1562.001",
        ),
        _kind(
            "log_unreadable",
            "0f6d0c5e-8a5b-4d5c-9a0e-52f4f0c1b705",
            "The audit log cannot be read",
            Level.HIGH,
            "It vanished, or is not to be read: without the kernel's socket nothing is seen.",
            "T1562.012",
            "T1070.002",
        ),
        _kind(
            "kernel_loses",
            "0f6d0c5e-8a5b-4d5c-9a0e-52f4f0c1b706",
            "The kernel loses audit records",
            Level.HIGH,
            "Whoever floods the audit hides in it. Raise the backlog (-b in the audit rules), or audit less.",
            "T1562.012",
        ),
        _kind(
            "silent",
            "0f6d0c5e-8a5b-4d5c-9a0e-52f4f0c1b707",
            "No audit events for long",
            Level.MEDIUM,
            "This host usually has some: is auditd running, are there audit rules?",
            "T1562.012",
        ),
        _kind(
            "clock_set",
            "0f6d0c5e-8a5b-4d5c-9a0e-52f4f0c1b708",
            "The clock was set",
            Level.MEDIUM,
            "Times of events before and after it do not compare. A host that slept looks the same.",
            "T1070.006",
        ),
        _kind(
            "store_refuses",
            "0f6d0c5e-8a5b-4d5c-9a0e-52f4f0c1b709",
            "The watchdog's database takes no commits",
            Level.HIGH,
            "Alerts wait in memory, then in the log; the worst are sent past it. Free space, check the disk.",
            "T1499",
        ),
        _kind(
            "rules_broken",
            "0f6d0c5e-8a5b-4d5c-9a0e-52f4f0c1b70a",
            "The rule files are broken: an older set is in force",
            Level.MEDIUM,
            "`watchdogd check` names each mistake. What was changed in the rules since is not in force.",
            "T1562.001",
        ),
        _kind(
            "triage_down",
            "0f6d0c5e-8a5b-4d5c-9a0e-52f4f0c1b70b",
            "No model judges alerts any more",
            Level.LOW,
            "Ollama keeps failing: alerts go out untriaged, with their evidence score.",
        ),
        _kind(
            "ledger_open",
            "0f6d0c5e-8a5b-4d5c-9a0e-52f4f0c1b70c",
            "The ledger of loss does not add up",
            Level.MEDIUM,
            "Something was lost that nobody counted: `watchdogd status` shows between which stages. Please report it.",
        ),
    )
}
"""By what they call their action; built in, as only the daemon knows it."""


class _Spell(msgspec.Struct):
    """A condition that holds: since when, and when it was told last by either clock."""

    began_ms: int
    told_ms: int
    told_s: float
    told: int
    detail: str


class KeptSpell(msgspec.Struct, frozen=True):
    """A condition that holds, as it is kept over a restart: told how often, and when last."""

    began_ms: int
    told_ms: int
    told: int
    detail: str


class HealthState(msgspec.Struct, frozen=True):
    """What is kept over a restart."""

    spells: dict[str, KeptSpell] = {}
    rules: int | None = None
    """How many audit rules there were when there were some."""
    loss_ms: int | None = None
    """When the kernel lost records last."""


class HealthMonitor:
    """Compares each look with those before it. One per daemon."""

    def __init__(self, settings: HealthSettings, host: str) -> None:
        self._settings = settings
        self._host = host
        self._before: Signs | None = None
        self._spells: dict[str, _Spell] = {}
        self._since_s: dict[str, float] = {}
        self._event_s: float | None = None
        self._longest_gap_s = 0.0
        self._loss_s: float | None = None
        self._loss_ms: int | None = None
        self._known_s: float | None = None
        self._rules: int | None = None
        """How many there were when there were some."""

    @property
    def conditions(self) -> tuple[str, ...]:
        """What holds now, by action."""
        return tuple(sorted(self._spells))

    def export(self) -> HealthState:
        """What the next life must know to go on."""
        spells = {
            name: KeptSpell(spell.began_ms, spell.told_ms, spell.told, spell.detail)
            for name, spell in self._spells.items()
        }
        return HealthState(spells, self._rules, self._loss_ms)

    def restore(self, state: HealthState, now_ms: int, monotonic_s: float) -> None:
        """Go on where an earlier life ended: what it told is not told again, and its end is."""

        def since_s(moment_ms: int) -> float:
            return monotonic_s - max(0, now_ms - moment_ms) / 1000

        for name, kept in state.spells.items():
            if name in KINDS:
                self._spells[name] = _Spell(kept.began_ms, kept.told_ms, since_s(kept.told_ms), kept.told, kept.detail)
        self._rules = state.rules
        if state.loss_ms is not None:
            self._loss_ms, self._loss_s = state.loss_ms, since_s(state.loss_ms)

    def look(self, signs: Signs) -> list[Alert]:
        """The alerts that this look gives rise to."""
        alerts = [self._build(name, signs, signs.now_ms, 0, detail) for name, detail in self._find_moments(signs)]
        holding = dict(self._find_conditions(signs))
        for name, detail in holding.items():
            alerts += self._tell(name, detail, signs)
        for name in [name for name in self._spells if name not in holding]:
            alerts.append(self._end(name, self._spells.pop(name), signs))
        self._before = signs
        return alerts

    def _find_moments(self, signs: Signs) -> Iterator[tuple[str, str]]:
        before = self._before
        if before is not None:
            wall_s, passed_s = (signs.now_ms - before.now_ms) / 1000, signs.monotonic_s - before.monotonic_s
            jump_s = wall_s - passed_s
            if abs(jump_s) >= self._settings.clock_jump_s:
                yield "clock_set", f"{'forward' if jump_s > 0 else 'back'} by {abs(jump_s):.0f} s"
        if signs.audit_rules and self._rules and signs.audit_rules < self._rules:
            yield "audit_rules_fewer", f"{self._rules} before, {signs.audit_rules} now"
        self._rules = signs.audit_rules or self._rules

    def _find_conditions(self, signs: Signs) -> Iterator[tuple[str, str]]:
        now_s = signs.monotonic_s
        if signs.audit_enabled is False or self._goes_on("audit_disabled", signs.audit_enabled):
            yield "audit_disabled", "enabled 0"
        if (signs.audit_rules == 0 and self._rules) or self._goes_on("audit_rules_gone", signs.audit_rules):
            yield "audit_rules_gone", f"{self._rules} before, none now"
        if signs.audit_enabled is not None:
            self._known_s = now_s
        elif self._known_s is not None and now_s - self._known_s >= STALE_S:
            yield "audit_unknown", f"nothing heard for {now_s - self._known_s:.0f} s"
        elif self._known_s is None and "audit_unknown" in self._spells:
            yield "audit_unknown", self._spells["audit_unknown"].detail
        yield from self._hold("log_unreadable", signs.log_trouble, LOG_GONE_S, now_s)
        yield from self._find_losses(signs)
        yield from self._find_silence(signs)
        yield from self._hold("store_refuses", "commits are refused" if signs.store_refusing else "", REFUSING_S, now_s)
        if signs.broken_rules:
            yield "rules_broken", "the last load was refused"
        down = "Ollama is left alone, for it keeps failing" if signs.triage_down else ""
        if self._goes_on("triage_down", signs.triage_down):
            yield "triage_down", self._spells["triage_down"].detail
        else:
            yield from self._hold("triage_down", down, self._settings.triage_down_after_s, now_s)
        yield from self._hold("ledger_open", "" if signs.ledger_complete else "see status", 0.0, now_s)

    def _goes_on(self, name: str, sign: int | None) -> bool:
        """Whether a condition held and nothing is known of its end."""
        return sign is None and name in self._spells

    def _hold(self, name: str, detail: str | None, after_s: float, now_s: float) -> Iterator[tuple[str, str]]:
        """The condition, once its detail has been there for so long, or while it still is."""
        if not detail:
            self._since_s.pop(name, None)
        elif name in self._spells or now_s - self._since_s.setdefault(name, now_s) >= after_s:
            yield name, detail

    def _find_losses(self, signs: Signs) -> Iterator[tuple[str, str]]:
        lost = signs.kernel_lost - (self._before.kernel_lost if self._before is not None else signs.kernel_lost)
        if lost > 0:
            self._loss_s, self._loss_ms = signs.monotonic_s, signs.now_ms
        if self._loss_s is not None and signs.monotonic_s - self._loss_s < LOSS_OVER_S:
            yield "kernel_loses", f"{signs.kernel_lost} since the start of watchdogd"

    def _find_silence(self, signs: Signs) -> Iterator[tuple[str, str]]:
        """Silence that is longer than the setting, and much longer than ever before in this life.

        One that an earlier life told lasts until the first event.
        """
        if "silent" in self._spells and not signs.events:
            yield "silent", self._spells["silent"].detail
        if self._event_s is None or self._before is None:
            self._event_s = signs.monotonic_s
            return
        gap_s = signs.monotonic_s - self._event_s
        if signs.events > self._before.events:
            self._longest_gap_s = max(self._longest_gap_s, gap_s)
            self._event_s = signs.monotonic_s
            return
        least_s = self._settings.silent_after_s
        if least_s and signs.events >= USUAL_EVENTS and gap_s >= max(least_s, USUAL_GAPS * self._longest_gap_s):
            yield "silent", f"none for {gap_s:.0f} s, {signs.events} before"

    def _tell(self, name: str, detail: str, signs: Signs) -> Iterator[Alert]:
        spell = self._spells.get(name)
        if spell is None:
            spell = self._spells[name] = _Spell(signs.now_ms, signs.now_ms, signs.monotonic_s, 0, detail)
        elif signs.monotonic_s - spell.told_s < self._settings.repeat_interval_s:
            return
        spell.told_ms, spell.told_s, spell.detail = signs.now_ms, signs.monotonic_s, detail
        yield self._build(name, signs, spell.began_ms, spell.told, detail)
        spell.told += 1

    def _end(self, name: str, spell: _Spell, signs: Signs) -> Alert:
        lasted_s = max(0, signs.now_ms - spell.began_ms) / 1000
        return self._build(
            name, signs, spell.began_ms, spell.told, f"{spell.detail}; over after {lasted_s:.0f} s", over=True
        )

    def _build(self, name: str, signs: Signs, began_ms: int, number: int, detail: str, *, over: bool = False) -> Alert:
        rule = KINDS[name].rule
        if over:
            rule = msgspec.structs.replace(
                rule, id=_id_of_the_end(rule.id), title=f"Over: {rule.title}", level=Level.LOW
            )
        action = f"{name}_over" if over else name
        found = OwnEvent(
            rule=rule,
            action=action,
            outcome="success" if over else "failure",
            time_ms=signs.now_ms,
            began_ms=began_ms,
            number=number,
            about=action,
            reason=detail,
            fields={"Detail": detail},
            lines=(f"{rule.title}: {detail}. {rule.description}",),
        )
        return build_own_alert(found, self._host)


def _id_of_the_end(rule_id: str) -> str:
    """The rule that says that it is over: the same id but for its third part."""
    first, second, _, *rest = rule_id.split("-")
    return "-".join((first, second, "4e0d", *rest))
