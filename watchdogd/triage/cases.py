"""Judged cases like an alert, shown to the model as examples: the operator's own verdicts, and a few that ship."""

from __future__ import annotations

import functools
from importlib import resources
from typing import TYPE_CHECKING

import msgspec

from watchdogd.background import Case
from watchdogd.entities import Alert, EventId, Label, Level, Process, ProcessKey, Rule
from watchdogd.triage.features import tokens_of

if TYPE_CHECKING:
    from collections.abc import Sequence

FILE = "cases.json"
MOST_CASES = 6
LEAST_SIMILARITY = 0.15
"""Of all tokens of both, the share that both have: less is no example of anything."""
_UNCOUNTED = ("rule:", "category:")
_RECALLED = 512
"""Cases are the same for alert after alert."""


class _ShippedCase(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A generic, invented case; no host's names, accounts or addresses."""

    label: Label
    level: Level
    title: str
    exe: str
    command: str
    parent: str
    uid: int = 0


def choose_cases(alert: Alert, own: Sequence[Case]) -> tuple[Case, ...]:
    """At most MOST_CASES of the operator's and the shipped ones, the most similar first; the operator's win ties."""
    tokens = _count_tokens(tokens_of(alert))
    ranked = [
        (measure_similarity(tokens, _count_tokens(case.tokens)), case.by == "operator", case)
        for case in (*own, *load_cases())
        if case.id != alert.id
    ]
    near = [entry for entry in ranked if entry[0] >= LEAST_SIMILARITY]
    near.sort(key=lambda entry: (-entry[0], not entry[1], entry[2].id))
    return tuple(case for *_, case in near[:MOST_CASES])


def measure_similarity(one: frozenset[str], other: frozenset[str]) -> float:
    """Tokens that both have, of those that either has: 0 to 1."""
    either = len(one | other)
    return len(one & other) / either if either else 0.0


@functools.cache
def load_cases() -> tuple[Case, ...]:
    """The cases that ship."""
    data = resources.files("watchdogd.triage").joinpath(FILE).read_bytes()
    shipped = msgspec.json.decode(data, type=tuple[_ShippedCase, ...])
    return tuple(_make_case(number, case) for number, case in enumerate(shipped, 1))


@functools.lru_cache(maxsize=_RECALLED)
def _count_tokens(tokens: tuple[str, ...]) -> frozenset[str]:
    return frozenset(token for token in tokens if not token.startswith(_UNCOUNTED))


def _make_case(number: int, shipped: _ShippedCase) -> Case:
    return Case(
        id=f"shipped-{number}",
        label=shipped.label,
        title=shipped.title,
        level=shipped.level,
        tokens=tokens_of(_make_alert(shipped)),
        document={"exe": shipped.exe, "command": shipped.command, "parent": shipped.parent},
    )


def _make_alert(shipped: _ShippedCase) -> Alert:
    """Only as much of an alert as tokens are made of."""
    return Alert(
        id="",
        time_ms=0,
        rule=Rule(id="", title=shipped.title, level=shipped.level),
        level=shipped.level,
        source="",
        category="",
        action="",
        outcome="",
        events=(EventId("", None, 0, 0),),
        fields={},
        matched={},
        process=_make_process(shipped.exe, tuple(shipped.command.split()), shipped.uid),
        lineage=(_make_process(shipped.parent, (shipped.parent,), shipped.uid),),
        group_key="",
        first_seen_ms=0,
        last_seen_ms=0,
        evidence_score=0.0,
        reasons=(),
        lines=(),
    )


def _make_process(exe: str, argv: tuple[str, ...], uid: int) -> Process:
    return Process(
        key=ProcessKey("", 0, 0),
        pid=0,
        ppid=None,
        exe=exe,
        comm=None,
        argv=argv,
        cwd=None,
        uid=uid,
        user=None,
        auid=None,
        login=None,
        session=None,
        tty=None,
    )
