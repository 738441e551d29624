"""The operator's own verdicts: kept, shown to the model as cases, and what the embedded scorer learns from."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol

from watchdogd.background import Case
from watchdogd.entities import Label
from watchdogd.errors import AmbiguousNameError, UnknownNameError, WatchdogdError
from watchdogd.reports import OpinionReport, OpinionRequest
from watchdogd.triage.guard import clean, join_argv

if TYPE_CHECKING:
    from collections.abc import Callable

    from watchdogd.background import Background
    from watchdogd.entities import Alert, Process
    from watchdogd.gathering import Gatherer
    from watchdogd.store.verdicts import Verdicts
    from watchdogd.triage_desk import TriageDesk

LEARNER = "scorer"
LEAST_PREFIX = 4
NOTE_CHARACTERS = 2_000

_SHOWN = 5
_TEXT_CHARACTERS = 300
log = logging.getLogger("watchdogd.triage")


class Learner(Protocol):
    """The embedded scorer, as far as it learns."""

    def learn(self, alert: Alert, background: Background, label: Label) -> None:
        """Take one step towards this label."""

    def changes(self) -> bytes:
        """All that was learnt."""

    def restore(self, lesson: bytes) -> bool:
        """Go on with what `changes` gave; False where that cannot be used."""


class Opinions:
    """Takes the operator's verdicts, one at a time. One per daemon."""

    def __init__(
        self,
        verdicts: Verdicts,
        gatherer: Gatherer,
        desk: TriageDesk,
        tokens_of: Callable[[Alert], tuple[str, ...]],
        learner: Learner | None = None,
    ) -> None:
        self._verdicts = verdicts
        self._gatherer = gatherer
        self._desk = desk
        self._tokens_of = tokens_of
        self._learner = learner
        self._lock = asyncio.Lock()

    async def restore(self) -> None:
        """Go on with what was learnt in earlier runs. Raises StoreError."""
        self._desk.opinions = await self._verdicts.count_opinions()
        await self._gatherer.load()
        lesson = await self._verdicts.load_lesson(LEARNER)
        if self._learner is not None and lesson is not None and not self._learner.restore(lesson):
            log.warning("what the scorer had learnt from your verdicts is of another version: it is not used")

    async def take(self, request: OpinionRequest) -> OpinionReport:
        """Keep a verdict, learn from it, use it from the next question on. Raises WatchdogdError with what is wrong.

        A second verdict on the same alert replaces the first as a case, and is learnt from, too.
        """
        async with self._lock:
            if request.label is Label.UNTRIAGED:
                raise WatchdogdError("a verdict is malicious, suspicious or benign")
            alert = await self._find(request.alert_id.strip().lower())
            before = await self._verdicts.find_opinion(alert.id)
            if self._learner is not None and before is not request.label:
                self._learner.learn(alert, await self._gatherer.gather(alert), request.label)
            lesson = (LEARNER, self._learner.changes()) if self._learner is not None else None
            case = make_case(alert, request.label, request.note, self._tokens_of(alert))
            await self._verdicts.keep_opinion(case, lesson)
            await self._gatherer.load()
            self._desk.forget_verdicts()
            self._desk.opinions = await self._verdicts.count_opinions()
        said = alert.verdict.label if alert.verdict is not None else Label.UNTRIAGED
        return OpinionReport(alert.id, alert.rule.title, request.label, before, said, dict(self._desk.opinions))

    async def _find(self, prefix: str) -> Alert:
        if len(prefix) < LEAST_PREFIX:
            raise UnknownNameError(
                f"an alert is named by its id, or by at least the first {LEAST_PREFIX} characters of it"
            )
        found = await self._verdicts.find(prefix, _SHOWN + 1)
        exact = [alert for alert in found if alert.id == prefix]
        if len(found) == 1 or exact:
            return (exact or found)[0]
        if not found:
            raise UnknownNameError(f"no alert has an id that begins with {clean(prefix, 80)}")
        named = ", ".join(f"{alert.id[:16]} ({clean(alert.rule.title, 60)})" for alert in found[:_SHOWN])
        more = " and more" if len(found) > _SHOWN else ""
        raise AmbiguousNameError(f"several alerts have an id that begins with {clean(prefix, 80)}: {named}{more}")


def make_case(alert: Alert, label: Label, note: str, tokens: tuple[str, ...]) -> Case:
    """The alert as an example, cleaned and masked as everything that a model is shown."""
    document: dict[str, str] = {}
    if alert.process is not None:
        document |= _describe(alert.process, "exe", "command")
    if alert.lineage:
        document |= _describe(alert.lineage[0], "parent", "parent_command")
    for name, value in alert.fields.items():
        if not document and isinstance(value, str):
            document[clean(name, 40)] = clean(value, _TEXT_CHARACTERS)
    return Case(
        id=alert.id,
        label=label,
        title=alert.rule.title,
        level=alert.rule.level,
        tokens=tokens,
        document=document,
        by="operator",
        note=clean(note, NOTE_CHARACTERS),
    )


def _describe(process: Process, exe: str, command: str) -> dict[str, str]:
    texts = {exe: process.exe or "", command: join_argv(process.argv)}
    return {name: clean(text, _TEXT_CHARACTERS) for name, text in texts.items() if text}
