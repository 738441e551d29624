"""The triage half of the pipeline: alerts that ask the same are asked about once, the worst first, within a budget.

Every alert is in the database before it comes here, and its deliveries have their deadlines there: whatever happens on
this desk, an alert goes out in time. What cannot be asked about is `untriaged`, counted, and delivered at once.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol

from watchdogd.background import NO_BACKGROUND
from watchdogd.entities import Label, Verdict
from watchdogd.errors import StoreError
from watchdogd.reports import TriageReport
from watchdogd.store.batch import NewAlert, RuledAlert
from watchdogd.telemetry import count_own_alerts
from watchdogd.triage.policy import Policy
from watchdogd.triage.questions import SUSPECT, ask_by_name
from watchdogd.triage.quota import Budget, Sessions
from watchdogd.triage.recall import VerdictCache, mark_cached, name_verdict

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator

    from watchdogd.background import Background
    from watchdogd.config import TriageSettings
    from watchdogd.entities import Alert
    from watchdogd.ports import Clock
    from watchdogd.routes import Routes
    from watchdogd.store.verdicts import Verdicts
    from watchdogd.telemetry import Counters

log = logging.getLogger("watchdogd.triage")

SETTLED_AT_ONCE = 100
GATHER_S = 10.0
"""For the background: a question without it is better than none."""
IDENTIFY_S = 5.0
"""For the model's digest: without it no kept verdict is used."""


class Asker(Protocol):
    """The triager, as the desk sees it."""

    @property
    def breaker_state(self) -> str:
        """`closed` while the server is asked, `open` while it is left alone, `half-open` while it is tried again."""

    async def identify(self) -> tuple[str, ...]:
        """What a verdict depends on beside the alert; empty where that is not known, and nothing may be kept."""

    async def ask(self, alert: Alert, background: Background) -> Verdict:
        """A verdict, whatever happens."""

    async def warm_up(self) -> None:
        """Have the model loaded; never raises."""

    async def close(self) -> None:
        """Release the connections; nothing may be asked any more."""


class _Question:
    """What some alerts wait for."""

    __slots__ = ("alert", "arrived", "asked_id", "background", "name", "verdict_name")

    def __init__(self, name: str, alert: Alert) -> None:
        self.name = name
        self.asked_id = alert.id
        self.alert = alert
        self.arrived = 1
        """How many alerts asked it; it is done when none of them waits any more."""
        self.background = NO_BACKGROUND
        self.verdict_name = ""

    @property
    def group(self) -> str:
        """Whose session it is part of."""
        return f"{self.alert.host}|{self.alert.group_key}"

    @property
    def suspect(self) -> bool:
        """Whether the alert holds text that reads like an order to a model."""
        return self.name.startswith(SUSPECT)

    def urgency(self) -> tuple[int, int]:
        """The least is asked first: the highest level, then the oldest."""
        return -self.alert.level.rank, self.alert.time_ms


class TriageDesk:
    """One per daemon. Its loops are tasks: `sort` and `settle_shed` once each, `answer` once for each in flight."""

    def __init__(
        self,
        asker: Asker | None,
        settings: TriageSettings,
        routes: Routes,
        verdicts: Verdicts,
        gather: Callable[[Alert], Awaitable[Background]],
        fingerprint: Callable[[Alert], str],
        counters: Counters,
        clock: Clock,
    ) -> None:
        self._verdicts = verdicts
        self._gather = gather
        self._fingerprint = fingerprint
        self.wake_deliverer = asyncio.Event()
        self._counters = counters
        self._clock = clock
        self._questions: dict[str, _Question] = {}
        self._unsorted: dict[str, _Question] = {}
        self._sorted: dict[str, _Question] = {}
        self._in_flight = 0
        self._shed: dict[str, str] = {}
        self._more_stored = False
        self._arrival = asyncio.Event()
        self._ready = asyncio.Event()
        self._cold = asyncio.Event()
        self._shedding = asyncio.Event()
        self._pulses: list[asyncio.Event] = []
        self.opinions: dict[str, int] = {}
        """How many verdicts the operator has given, by label."""
        self.routes = routes
        self.replace(asker, settings)

    def replace(self, asker: Asker | None, settings: TriageSettings) -> None:
        """Ask by other settings from the next question on; kept verdicts and sessions are forgotten."""
        self.asker = asker
        self.policy = Policy(settings)
        self._settings = settings
        self._budget = Budget(settings.budget_per_minute, self._clock)
        self._sessions = Sessions(settings.questions_per_group, settings.group_s, self._clock)
        self.cache = VerdictCache(settings.cache_s, self._clock)
        self._cold.set()

    @property
    def settings(self) -> TriageSettings:
        """In force now."""
        return self._settings

    def loops(self) -> list[tuple[str, Coroutine[None, None, None]]]:
        """What the service runs as tasks, each with a name; the number in flight needs a restart to change."""
        answers = [(f"triage {number}", self.answer()) for number in range(self._settings.max_in_flight)]
        return [
            ("triage sort", self.sort()),
            ("triage shed", self.settle_shed()),
            ("warm up", self.warm_up()),
            *answers,
        ]

    # --- arrivals -----------------------------------------------------------------------------------------------

    def wants(self, alert: Alert) -> bool:
        """Whether the alert is to be asked about at all."""
        return self.asker is not None and alert.rule.triage != "never"

    def name_question(self, alert: Alert) -> str:
        """Which question the alert asks. Only the very same suspect texts share one."""
        return ask_by_name(alert, self._fingerprint(alert))

    def take(self, alert: Alert, name: str) -> None:
        """Have a stored alert asked about, with those that ask the same. Where too much waits, shed the least."""
        question = self._questions.get(name)
        if question is not None:
            question.arrived += 1
            self._counters.add("triage_folded_total")
            return
        question = self._questions[name] = _Question(name, alert)
        self._unsorted[name] = question
        self._arrival.set()
        if len(self._unsorted) + len(self._sorted) > self._settings.waiting_limit:
            least = max((*self._unsorted.values(), *self._sorted.values()), key=_Question.urgency)
            self._drop(least)
            del least.alert  # thousands may be shed before the first of them is settled
            self._shed[least.name] = f"shed: more than {self._settings.waiting_limit} questions waited"
            self._shedding.set()

    async def resume(self) -> None:
        """Take what waits in the database, as far as there is room: after a start. Raises StoreError."""
        if self.asker is None:
            return
        room = self._settings.waiting_limit - len(self._questions)
        waiting = await self._verdicts.waiting_questions(room + len(self._questions)) if room > 0 else []
        self._more_stored = len(waiting) >= room > 0
        for name, alert in waiting:
            if name not in self._questions:
                self.take(alert, name)

    def _drop(self, question: _Question) -> None:
        self._unsorted.pop(question.name, None)
        self._sorted.pop(question.name, None)

    async def pulse(self) -> None:
        """Return when `sort` has come round: where it is stuck, never. A model that is slow does not hold it up."""
        pulse = asyncio.Event()
        self._pulses.append(pulse)
        self._arrival.set()
        await pulse.wait()

    # --- sorting: background, kept verdicts, quotas --------------------------------------------------------------

    async def sort(self) -> None:
        """Gather the background of each question as it comes; answer those that need no model. Runs for ever."""
        while True:
            await self._arrival.wait()
            pulses, self._pulses = self._pulses, []
            for pulse in pulses:
                pulse.set()
            if not self._unsorted:
                self._arrival.clear()
                continue
            question = min(self._unsorted.values(), key=_Question.urgency)
            question.background = await self._find_background(question.alert)
            if self._unsorted.pop(question.name, None) is None:
                question.background = NO_BACKGROUND  # shed meanwhile
                continue
            known = await self._answer_at_once(question)
            if known is not None:
                await self._settle(question, known)
                continue
            self._sorted[question.name] = question
            self._ready.set()

    async def _find_background(self, alert: Alert) -> Background:
        try:
            async with asyncio.timeout(GATHER_S):
                return await self._gather(alert)
        except (StoreError, TimeoutError) as error:
            self._counters.add("triage_backgrounds_missing_total")
            log.warning("asking without background: %s", error or "it took too long")
        except Exception:  # our own fault, on text an attacker chose
            self._counters.add("triage_backgrounds_missing_total")
            log.exception("the background of alert %s could not be gathered: please report this", alert.id)
        return NO_BACKGROUND

    async def _answer_at_once(self, question: _Question) -> Verdict | None:
        """The verdict where nobody needs to be asked; None where somebody does."""
        alert, asker = question.alert, self.asker
        if asker is None:
            return self._decline(question, "triage is off")
        model = () if question.suspect else await self._identify(asker)
        if model:
            question.verdict_name = name_verdict(alert, self._fingerprint(alert), question.background, model)
            kept = self.cache.find(question.verdict_name)
            if kept is not None:
                self._counters.add("triage_cached_total")
                return kept
        if asker.breaker_state == "open":
            return await asker.ask(alert, question.background)  # says so, and asks nobody
        if not self._sessions.admit(question.group):
            self._counters.add("triage_over_quota_total")
            most = self._settings.questions_per_group
            return self._decline(question, f"this group of alerts has had its {most} questions for now")
        return None

    async def _identify(self, asker: Asker) -> tuple[str, ...]:
        try:
            async with asyncio.timeout(IDENTIFY_S):
                return await asker.identify()
        except TimeoutError:
            return ()

    def _decline(self, question: _Question, error: str) -> Verdict:
        injection = "suspected" if question.suspect else ""
        return Verdict(label=Label.UNTRIAGED, by="none", model=self._settings.model, error=error, injection=injection)

    # --- asking -------------------------------------------------------------------------------------------------

    async def answer(self) -> None:
        """Ask the most urgent question that waits, within the budget; rule on the answer; store it. Runs for ever."""
        while True:
            question = await self._next_question()
            self._in_flight += 1
            try:
                asker = self.asker
                if asker is None:
                    verdict = self._decline(question, "triage is off")
                else:
                    verdict = await asker.ask(question.alert, question.background)
                    if asker.breaker_state != "closed":
                        self._sessions.refund(question.group)
                    if question.verdict_name:
                        self.cache.keep(question.verdict_name, verdict)
                await self._settle(question, verdict)
            finally:
                self._in_flight -= 1

    async def _next_question(self) -> _Question:
        while True:
            await self._ready.wait()
            if not self._sorted:
                self._ready.clear()
                if self._more_stored and not self._questions:
                    await self._resume_later()
                continue
            wait_s = self._budget.spend()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
                continue
            question = min(self._sorted.values(), key=_Question.urgency)
            del self._sorted[question.name]
            return question

    async def _resume_later(self) -> None:
        try:
            await self.resume()
        except StoreError as error:
            log.error("%s; what waits for triage goes out without", error)

    # --- settling -----------------------------------------------------------------------------------------------

    async def settle_shed(self) -> None:
        """Say of what was shed that nobody was asked, and let it go. Runs for ever."""
        while True:
            await self._shedding.wait()
            if not self._shed:
                self._shedding.clear()
                continue
            name, error = self._shed.popitem()
            question = self._questions[name]
            await self._settle(question, self._decline(question, error), counter="triage_shed_total")

    async def _settle(self, question: _Question, verdict: Verdict, counter: str = "") -> None:
        """Give the verdict to every alert that waits for it, those that come meanwhile included."""
        asked_id = question.asked_id
        try:
            while True:
                arrived = question.arrived
                alerts = await self._verdicts.waiting_alerts(question.name, SETTLED_AT_ONCE)
                if alerts:
                    new = await self._verdicts.record([*self._rule_on(alerts, verdict, asked_id)])
                    count_own_alerts(self._counters, len(new))
                    self._counters.add("triage_settled_total", len(alerts))
                    self._counters.add_by("verdicts_total", (verdict.label, verdict.by), len(alerts))
                    if counter:
                        self._counters.add(counter, len(alerts))
                    self.wake_deliverer.set()
                if len(alerts) < SETTLED_AT_ONCE and arrived == question.arrived:
                    return
        except StoreError as error:
            self._counters.add("triage_verdicts_unstored_total")
            log.error("%s; the alert goes out without its verdict", error)
        finally:
            self._questions.pop(question.name, None)
            self._ready.set()

    def _rule_on(self, alerts: list[Alert], verdict: Verdict, asked_id: str) -> Iterator[RuledAlert]:
        cached = mark_cached(verdict) if verdict.label is not Label.UNTRIAGED else verdict
        for alert in alerts:
            ruling = self.policy.rule_on(alert, verdict if alert.id == asked_id else cached)
            extra = tuple(
                NewAlert(
                    extra, self.routes.choose(extra.level, rule=extra.rule), due_ms=self._clock.now_ms(), triage=False
                )
                for extra in ruling.extra
            )
            wanted = ruling.alert.level, ruling.alert.rule.notify, ruling.alert.rule, ruling.label
            yield RuledAlert(
                ruling.alert,
                ruling.journald_only,
                ruling.verdict_changes,
                self.routes.choose(*wanted),
                self.routes.refuse(*wanted),
                extra,
            )

    async def warm_up(self) -> None:
        """Have each model loaded before somebody waits for it: the first, and what a reload names. Runs for ever."""
        loading: asyncio.Task[None] | None = None
        async with asyncio.TaskGroup() as group:
            while True:
                await self._cold.wait()
                self._cold.clear()
                if loading is not None:
                    loading.cancel()  # of a model that nobody will ask
                if self.asker is not None:
                    loading = group.create_task(self.asker.warm_up(), name="load model")

    async def close(self) -> None:
        """Release the connections; the loops have ended."""
        if self.asker is not None:
            await self.asker.close()

    # --- how it stands ------------------------------------------------------------------------------------------

    def forget_verdicts(self) -> None:
        """What verdicts rest on has changed: a lesson, or an exam."""
        self.cache.clear()

    def report(self) -> TriageReport:
        """For `watchdogd status`."""
        return TriageReport(
            model=self._settings.model if self.asker is not None else None,
            server=self.asker.breaker_state if self.asker is not None else "",
            waiting=len(self._unsorted) + len(self._sorted),
            in_flight=self._in_flight,
            budget_left=self._budget.remaining(),
            budget_per_minute=self._settings.budget_per_minute,
            sessions=self._sessions.count(),
            sessions_opened=self._sessions.opened,
            cached=len(self.cache),
            opinions=dict(self.opinions),
        )
