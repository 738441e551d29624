"""Verdicts that are used again: which alerts ask the same, and what was answered."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import TYPE_CHECKING

import msgspec

from watchdogd.entities import Label
from watchdogd.triage.traits import OFTEN, SELDOM

if TYPE_CHECKING:
    from watchdogd.background import Background
    from watchdogd.entities import Alert, Rarity, Rule, Verdict
    from watchdogd.ports import Clock

KEPT = 1_024


def name_question(alert: Alert, fingerprint: str, suspect_texts: str = "") -> str:
    """The same for alerts that may share a verdict while it is asked for: of one host, group, rule and fingerprint.

    `suspect_texts`: the host's texts where they read like orders to a model. Only alerts of the very same ones share.
    """
    parts = (alert.host, alert.group_key, digest_rule(alert.rule), fingerprint, suspect_texts)
    return _hash(*parts)[:32]


def digest_rule(rule: Rule) -> str:
    """Of everything that an alert says of its rule: a rule that was rewritten asks anew."""
    return _hash(repr(rule))


def name_verdict(alert: Alert, fingerprint: str, background: Background, model: tuple[str, ...]) -> str:
    """The same for alerts that a verdict may be used again for: all that it depends on, identities folded.

    `model`: model, digest, prompt version and whatever else shapes an answer.
    """
    package = background.package
    facts = (
        "" if package is None else f"{package.name} {package.version} {package.intact}",
        *sorted({f"{one.rule_id} {one.level} {one.label is Label.MALICIOUS}" for one in background.related}),
        *(f"{case.id} {case.label}" for case in background.cases),
        _name_rarity(alert.rarity),
        f"{alert.level} {alert.is_correlation}",
    )
    return _hash(digest_rule(alert.rule), fingerprint, *model, "", *facts)


def _name_rarity(rarity: Rarity | None) -> str:
    if rarity is None:
        return "unknown"
    return ", ".join(
        "new" if n == 0 else "seldom" if n < SELDOM else "some" if n < OFTEN else "often"
        for n in (rarity.seen, rarity.recent or 0)
    )


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "backslashreplace")).hexdigest()


class VerdictCache:
    """Verdicts by name (`name_verdict`) for `max_age_s`, bounded: the one used least recently goes first."""

    def __init__(self, max_age_s: float, clock: Clock, *, limit: int = KEPT) -> None:
        self._max_age_s = max_age_s
        self._clock = clock
        self._limit = limit
        self._kept: OrderedDict[str, tuple[float, Verdict]] = OrderedDict()

    def __len__(self) -> int:
        """How many verdicts are kept."""
        return len(self._kept)

    def find(self, name: str) -> Verdict | None:
        """The verdict, marked as cached; None where there is none, or only one that is too old."""
        found = self._kept.get(name)
        if found is None:
            return None
        since_s, verdict = found
        if self._clock.monotonic_s() - since_s >= self._max_age_s:
            del self._kept[name]
            return None
        self._kept.move_to_end(name)
        return mark_cached(verdict)

    def keep(self, name: str, verdict: Verdict) -> None:
        """Keep a verdict that may be used again; others are left out: untriaged, and those on suspect texts."""
        if verdict.label is Label.UNTRIAGED or verdict.injection or verdict.error or self._max_age_s <= 0:
            return
        self._kept[name] = (self._clock.monotonic_s(), verdict)
        self._kept.move_to_end(name)
        while len(self._kept) > self._limit:
            self._kept.popitem(last=False)

    def clear(self) -> None:
        """Forget all: what verdicts rest on has changed."""
        self._kept.clear()


def mark_cached(verdict: Verdict) -> Verdict:
    """The verdict as that of an alert that was not asked about itself."""
    return msgspec.structs.replace(verdict, cached=True)
