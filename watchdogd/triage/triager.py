"""Asks the model about one alert: label first, explanation second, within bounds, and without ever raising."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from watchdogd.background import NO_BACKGROUND, Background, Scored
from watchdogd.entities import Label, Verdict
from watchdogd.errors import TriageError
from watchdogd.triage import anomaly, answer, prompt
from watchdogd.triage.breaker import Breaker
from watchdogd.triage.fusion import fuse, probability, weigh_shares
from watchdogd.triage.guard import INJECTION, find_instruction
from watchdogd.triage.injection import differ, withhold_from, withhold_orders
from watchdogd.triage.ollama import ChatOptions, TriageTimeoutError
from watchdogd.triage.policy import OBEYED

if TYPE_CHECKING:
    from watchdogd.background import Standing
    from watchdogd.config import TriageSettings
    from watchdogd.entities import Alert
    from watchdogd.ports import AlertScorer, Clock, Standings
    from watchdogd.telemetry import Counters
    from watchdogd.triage.ollama import ChatReply, OllamaClient
    from watchdogd.triage.prompt import Question

log = logging.getLogger("watchdogd.triage")

WARM_UP_S = 300.0
COLD_S = 0.5
_AVAILABLE_S = 2.0
_DIGEST_FRESH_S = 60.0


class _Inquiry(NamedTuple):
    """Everything that is needed to ask about one alert."""

    question: Question
    """As it may be explained: without orders to the model."""
    suspect: Question | None
    """With them; None where there are none."""
    scored: Scored
    techniques: tuple[str, ...]


class Triager:
    """Puts alerts to the model. One per configuration; safe to use from several tasks of one loop."""

    def __init__(
        self,
        settings: TriageSettings,
        client: OllamaClient,
        counters: Counters,
        clock: Clock,
        scorer: AlertScorer,
        standings: Standings,
    ) -> None:
        self._settings = settings
        self._client = client
        self._counters = counters
        self._clock = clock
        self._scorer = scorer
        self._standings = standings
        self._slots = asyncio.Semaphore(settings.max_in_flight)
        self._breaker = Breaker(settings.breaker_failures, settings.breaker_open_s, clock)
        self._digest: str | None = None
        self._digest_until_s = float("-inf")
        self._options = ChatOptions.choose(settings, settings.num_predict)

    async def close(self) -> None:
        """Release the connections; nothing may be asked any more."""
        await self._client.close()

    async def available(self) -> str | None:
        """The server's version where one answers within two seconds, else None."""
        try:
            async with asyncio.timeout(_AVAILABLE_S):
                return await self._client.version()
        except (TriageError, TimeoutError):
            return None

    @property
    def breaker_state(self) -> str:
        """`closed` while the server is asked, `open` while it is left alone, `half-open` while it is tried again."""
        return self._breaker.state

    async def identify(self) -> tuple[str, ...]:
        """What a verdict depends on beside the alert: a kept one holds only while this is the same.

        Empty where the model's digest is not known: nothing may be kept then.
        """
        digest = await self._find_digest()
        if digest is None:
            return ()
        return (self._settings.model, digest, prompt.TEMPLATE_VERSION, repr(self._options), self._settings.language)

    async def warm_up(self) -> None:
        """Have the model loaded before the first question. Never raises: a failure shows again when it matters."""
        try:
            async with asyncio.timeout(WARM_UP_S):
                await self._client.load(self._options)
        except (TriageError, TimeoutError) as error:
            log.warning("the model %s is not loaded yet: %s", self._settings.model, error or "it takes long")

    async def ask(self, alert: Alert, background: Background = NO_BACKGROUND) -> Verdict:
        """A verdict in at most `timeout_s`; whatever goes wrong is a verdict `untriaged` that says so.

        A model that passed its exam shares in the label (`by: fusion`), and its `benign` needs a grounded explanation.
        Of others the label is the scorer's (`by: scorer`), and only the explanation is asked for. Where text of the
        event reads like an order to a model, the label is never `benign`, and a model that answers differently
        without that text is not listened to.
        """
        started_s = self._clock.monotonic_s()
        draft = msgspec.structs.replace(self._begin(), summary=anomaly.describe(alert, self._settings.language))
        if not self._settings.enabled or alert.rule.triage == "never":
            return self._finish(msgspec.structs.replace(draft, error="triage is off"), started_s)
        scored = self._scorer.score(alert, background)
        alert = msgspec.structs.replace(alert, evidence_score=scored.probability, reasons=scored.reasons)
        draft = msgspec.structs.replace(draft, scorer=scored.probability)
        masked: Alert | None = alert
        order = find_instruction(prompt.host_texts(alert))
        if order is not None:
            self._counters.add("triage_injections_total")
            draft = msgspec.structs.replace(draft, injection="suspected")
            masked = withhold_orders(alert)
        if masked is None:
            return self._finish(_discard(draft, f"{INJECTION}: {order}; it cannot be withheld"), started_s)
        background = withhold_from(background)
        try:
            question = self._build(masked, background)
            suspect = None if order is None else self._build(alert, background)
        except TriageError as error:
            self._counters.add("triage_errors_total")
            return self._finish(_discard(draft, str(error)), started_s)
        draft = msgspec.structs.replace(draft, prompt_sha256=question.sha256)
        techniques = (*alert.rule.techniques, *(one for related in background.related for one in related.techniques))
        inquiry = _Inquiry(question, suspect, scored, techniques)
        return self._finish(await self._ask_bounded(inquiry, draft), started_s)

    def _begin(self) -> Verdict:
        """A verdict of nobody yet, with what shapes the answer."""
        options = msgspec.structs.asdict(self._options)
        return Verdict(
            label=Label.UNTRIAGED,
            by="none",
            model=options.pop("model"),
            model_digest=self._digest,
            prompt_version=prompt.TEMPLATE_VERSION,
            options=options,
        )

    def _finish(self, verdict: Verdict, started_s: float) -> Verdict:
        return msgspec.structs.replace(verdict, elapsed_s=round(self._clock.monotonic_s() - started_s, 3))

    def _build(self, alert: Alert, background: Background) -> Question:
        settings = self._settings
        return prompt.build_question(alert, background, num_ctx=settings.num_ctx, num_predict=settings.num_predict)

    async def _ask_bounded(self, inquiry: _Inquiry, draft: Verdict) -> Verdict:
        """Breaker, slot and the time limit around the questions."""
        if not self._breaker.admit():
            self._counters.add("triage_breaker_open_total")
            return _discard(draft, "Ollama failed too often: not asked until it is tried again")
        asking = False
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                async with self._slots:
                    asking = True
                    standing = await self._find_standing()
                    draft = msgspec.structs.replace(draft, model_digest=self._digest, believed=standing is not None)
                    draft = await self._judge(inquiry, draft, standing)
                    if standing is not None:
                        self._breaker.succeed()
                    if draft.label is Label.UNTRIAGED:
                        return draft
                    return await self._explain(inquiry, draft)
        except TimeoutError:
            self._counters.add("triage_timeouts_total" if asking else "triage_crowded_total")
            if asking and draft.by != "fusion":
                self._breaker.fail()
            what = "no answer" if asking else "no free slot"
            return _without_answer(draft, f"{what} within {self._settings.timeout_s:g} s")
        except TriageError as error:
            late = isinstance(error, TriageTimeoutError)
            self._counters.add("triage_timeouts_total" if late else "triage_errors_total")
            if draft.by != "fusion":
                self._breaker.fail()
            return _without_answer(draft, str(error))
        except Exception as error:  # noqa: BLE001 - the promise: a fault of ours must not stop an alert
            self._counters.add("triage_faults_total")
            return _discard(draft, f"a fault in watchdogd: {type(error).__name__}")
        finally:
            self._breaker.release()

    async def _judge(self, inquiry: _Inquiry, draft: Verdict, standing: Standing | None) -> Verdict:
        """The label: the scorer's, or, where the model is believed, that of both. Raises TriageError."""
        if standing is None:
            return self._label(inquiry, draft, "scorer", inquiry.scored.probability)
        reply = await self._ask_label(inquiry.question)
        draft = _count_tokens(draft, reply)
        if _is_cut(inquiry.question, reply):
            return self._say_cut(draft, inquiry.question, reply)
        shares = answer.read_shares(reply)
        draft = msgspec.structs.replace(draft, model_share=round(probability(weigh_shares(shares)), 4))
        if inquiry.suspect is not None:
            second = await self._ask_label(inquiry.suspect)
            draft = _count_tokens(draft, second)
            if _is_cut(inquiry.suspect, second):
                return self._say_cut(draft, inquiry.suspect, second)
            if differ(answer.read_shares(second), shares):
                self._counters.add("triage_obeyed_total")
                draft = msgspec.structs.replace(draft, injection=OBEYED)
                return _discard(draft, f"{INJECTION}: without that text the model answers differently")
            draft = msgspec.structs.replace(draft, injection="withstood")
        log_odds = fuse(standing.fusion, inquiry.scored.log_odds, weigh_shares(shares))
        return self._label(inquiry, draft, "fusion", probability(log_odds))

    def _label(self, inquiry: _Inquiry, draft: Verdict, by: str, chance: float) -> Verdict:
        label = answer.choose_label(chance, self._scorer, inquiry.scored.probability)
        if label is Label.BENIGN and draft.injection:
            label = Label.SUSPICIOUS
        return msgspec.structs.replace(draft, label=label, by=by, confidence=answer.find_confidence(label, chance))

    async def _ask_label(self, question: Question) -> ChatReply:
        self._counters.add("triage_requests_total")
        options = msgspec.structs.replace(self._options, num_predict=prompt.LABEL_TOKENS)
        began_s = self._clock.monotonic_s()
        reply = await self._client.chat(list(question.messages), prompt.LABEL_SCHEMA, options, logprobs=True)
        self._observe(reply, self._clock.monotonic_s() - began_s)
        return reply

    def _observe(self, reply: ChatReply, elapsed_s: float) -> None:
        """How long it took, and how many tokens; a load of more than a blink is a cold start."""
        start = "cold" if (reply.load_s or 0) > COLD_S else "warm"
        self._counters.observe("ai_request_seconds", (start,), elapsed_s)
        self._counters.add_by("ai_tokens_total", ("prompt",), reply.prompt_tokens or 0)
        self._counters.add_by("ai_tokens_total", ("answer",), reply.answer_tokens or 0)

    async def _explain(self, inquiry: _Inquiry, verdict: Verdict) -> Verdict:
        """The question for an explanation; it never shows the model what reads like orders. Raises TriageError."""
        self._counters.add("triage_requests_total")
        messages = prompt.explain_label(inquiry.question, verdict.label, self._settings.language)
        began_s = self._clock.monotonic_s()
        reply = await self._client.chat(messages, prompt.EXPLANATION_SCHEMA, self._options)
        self._observe(reply, self._clock.monotonic_s() - began_s)
        self._breaker.succeed()
        verdict = _count_tokens(verdict, reply)
        if _is_cut(inquiry.question, reply):
            return self._say_cut(verdict, inquiry.question, reply)
        try:
            said = answer.check_explanation(reply.content, inquiry.question.evidence, inquiry.techniques)
        except answer.InvalidExplanationError as error:
            self._counters.add("triage_invalid_total")
            return _without_explanation(verdict, str(error))
        except answer.UngroundedError as error:
            self._counters.add("triage_ungrounded_total")
            return _without_explanation(verdict, str(error))
        self._counters.add("triage_unsupported_parts_total", said.dropped)
        return msgspec.structs.replace(
            verdict, summary=said.summary, next_steps=said.next_steps, techniques=said.techniques
        )

    def _say_cut(self, draft: Verdict, question: Question, reply: ChatReply) -> Verdict:
        self._counters.add("triage_truncated_total")
        counted = f"{reply.prompt_tokens} tokens counted, at least {question.least_tokens} were sent"
        return _discard(msgspec.structs.replace(draft, truncated=True), f"the server cut the question: {counted}")

    async def _find_standing(self) -> Standing | None:
        """The exam that the model passed with these bytes and this prompt, else None."""
        digest = await self._find_digest()
        if digest is None:
            return None
        standing = self._standings.find(self._settings.model, digest, prompt.TEMPLATE_VERSION)
        return standing if standing is not None and standing.passed else None

    async def _find_digest(self) -> str | None:
        """The model's digest, asked for again after a minute; None where the server does not say."""
        if self._clock.monotonic_s() >= self._digest_until_s:
            try:
                self._digest = await self._client.digest(self._settings.model)
            except TriageError:
                self._digest = None
            self._digest_until_s = self._clock.monotonic_s() + _DIGEST_FRESH_S
        return self._digest


def _is_cut(question: Question, reply: ChatReply) -> bool:
    return reply.prompt_tokens is not None and reply.prompt_tokens < question.least_tokens


def _count_tokens(draft: Verdict, reply: ChatReply) -> Verdict:
    """Tokens of the first question, and of all answers."""
    answered = draft.answer_tokens if reply.answer_tokens is None else (draft.answer_tokens or 0) + reply.answer_tokens
    asked = reply.prompt_tokens if draft.prompt_tokens is None else draft.prompt_tokens
    return msgspec.structs.replace(draft, prompt_tokens=asked, answer_tokens=answered)


def _discard(draft: Verdict, error: str) -> Verdict:
    """Nobody's verdict; what was asked and answered stays on record."""
    return msgspec.structs.replace(draft, label=Label.UNTRIAGED, by="none", confidence=None, error=error)


def _without_answer(draft: Verdict, error: str) -> Verdict:
    """No explanation came: what both said together stands, except `benign`; the scorer's label waits for an answer."""
    return _without_explanation(draft, error) if draft.by == "fusion" else _discard(draft, error)


def _without_explanation(draft: Verdict, error: str) -> Verdict:
    """The label stands alone, except a model's `benign`: that must be explained from the evidence to count."""
    if draft.by == "fusion" and draft.label is Label.BENIGN:
        return _discard(draft, error)
    return msgspec.structs.replace(draft, error=error)
