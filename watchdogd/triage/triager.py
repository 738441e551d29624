"""Asks the model about one alert: label first, explanation second, within bounds, and without ever raising."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Annotated

import msgspec

from watchdogd.background import NO_BACKGROUND, Background
from watchdogd.entities import Label, Verdict
from watchdogd.errors import TriageError
from watchdogd.triage import prompt
from watchdogd.triage.breaker import Breaker
from watchdogd.triage.guard import INJECTION, clean, find_instruction, find_ungrounded, supported_techniques
from watchdogd.triage.ollama import ChatOptions, TriageTimeoutError, first_token_shares

if TYPE_CHECKING:
    from watchdogd.config import TriageSettings
    from watchdogd.entities import Alert
    from watchdogd.ports import Clock
    from watchdogd.telemetry import Counters
    from watchdogd.triage.ollama import OllamaClient
    from watchdogd.triage.prompt import Question

log = logging.getLogger("watchdogd.triage")

WARM_UP_S = 300.0
_AVAILABLE_S = 2.0
_DIGEST_FRESH_S = 60.0


class _LabelAnswer(msgspec.Struct):
    label: Label


class _Explanation(msgspec.Struct):
    summary: Annotated[str, msgspec.Meta(max_length=prompt.SUMMARY_CHARS)]
    techniques: Annotated[tuple[str, ...], msgspec.Meta(max_length=prompt.MAX_TECHNIQUES)]
    next_steps: Annotated[
        tuple[Annotated[str, msgspec.Meta(max_length=prompt.STEP_CHARS)], ...],
        msgspec.Meta(max_length=prompt.MAX_STEPS),
    ]


class Triager:
    """Puts alerts to the model. One per configuration; safe to use from several tasks of one loop."""

    def __init__(self, settings: TriageSettings, client: OllamaClient, counters: Counters, clock: Clock) -> None:
        self._settings = settings
        self._client = client
        self._counters = counters
        self._clock = clock
        self._slots = asyncio.Semaphore(settings.max_in_flight)
        self._breaker = Breaker(settings.breaker_failures, settings.breaker_open_s, clock)
        self._digest: str | None = None
        self._digest_until_s = float("-inf")
        self._options = ChatOptions(
            model=settings.model,
            num_ctx=settings.num_ctx,
            num_predict=settings.num_predict,
            temperature=settings.temperature,
            seed=settings.seed,
            keep_alive=settings.keep_alive,
        )

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
        return (self._settings.model, digest, prompt.TEMPLATE_VERSION, repr(self._options))

    async def warm_up(self) -> None:
        """Have the model loaded before the first question. Never raises: a failure shows again when it matters."""
        try:
            async with asyncio.timeout(WARM_UP_S):
                await self._client.load(self._options)
        except (TriageError, TimeoutError) as error:
            log.warning("the model %s is not loaded yet: %s", self._settings.model, error or "it takes long")

    async def ask(self, alert: Alert, background: Background = NO_BACKGROUND) -> Verdict:  # noqa: ARG002 - soon
        """A verdict in at most `timeout_s`; whatever goes wrong is a verdict `untriaged` that says so.

        `benign` needs a valid and grounded explanation too: where that fails it becomes `untriaged`. The other labels
        stand without one. Text of the event that reads like an instruction ends the matter before any question.
        """
        started_s = self._clock.monotonic_s()
        if not self._settings.enabled or alert.rule.triage == "never":
            return self._decline("triage is off", started_s)
        instruction = find_instruction(prompt.host_texts(alert))
        if instruction is not None:
            self._counters.add("triage_injections_total")
            return msgspec.structs.replace(
                self._decline(f"{INJECTION}: {instruction}", started_s), injection="suspected"
            )
        try:
            question = prompt.build_question(
                alert, num_ctx=self._settings.num_ctx, num_predict=self._settings.num_predict
            )
        except TriageError as error:
            self._counters.add("triage_errors_total")
            return self._decline(str(error), started_s)
        verdict = await self._ask_bounded(alert, question)
        return msgspec.structs.replace(verdict, elapsed_s=round(self._clock.monotonic_s() - started_s, 3))

    def _decline(self, error: str, started_s: float) -> Verdict:
        elapsed_s = round(self._clock.monotonic_s() - started_s, 3)
        return Verdict(label=Label.UNTRIAGED, by="none", model=self._settings.model, elapsed_s=elapsed_s, error=error)

    async def _ask_bounded(self, alert: Alert, question: Question) -> Verdict:
        """Breaker, slot and the time limit around the questions."""
        if not self._breaker.admit():
            self._counters.add("triage_breaker_open_total")
            return self._untriaged(question, "Ollama failed too often: not asked until it is tried again")
        asking = False
        draft = self._untriaged(question, "")
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                async with self._slots:
                    asking = True
                    draft = await self._ask_label(question)
                    self._breaker.succeed()
                    return await self._explain(alert, question, draft)
        except TimeoutError:
            self._counters.add("triage_timeouts_total" if asking else "triage_crowded_total")
            if asking and draft.label is Label.UNTRIAGED:
                self._breaker.fail()
            what = "no answer" if asking else "no free slot"
            return self._without_explanation(question, draft, f"{what} within {self._settings.timeout_s:g} s")
        except TriageTimeoutError as error:
            self._counters.add("triage_timeouts_total")
            self._breaker.fail()
            return self._untriaged(question, str(error))
        except TriageError as error:
            self._counters.add("triage_errors_total")
            self._breaker.fail()
            return self._untriaged(question, str(error))
        except Exception as error:  # noqa: BLE001 - the promise: a fault of ours must not stop an alert
            self._counters.add("triage_faults_total")
            return self._untriaged(question, f"a fault in watchdogd: {type(error).__name__}")
        finally:
            self._breaker.release()

    async def _ask_label(self, question: Question) -> Verdict:
        """The first question. Raises TriageError where no valid label comes back."""
        self._counters.add("triage_requests_total")
        options = msgspec.structs.replace(self._options, num_predict=prompt.LABEL_TOKENS)
        reply = await self._client.chat(list(question.messages), prompt.LABEL_SCHEMA, options, logprobs=True)
        label = _read_label(reply.content)
        if reply.prompt_tokens is not None and reply.prompt_tokens < question.least_tokens:
            self._counters.add("triage_truncated_total")
            counted = f"{reply.prompt_tokens} tokens counted, at least {question.least_tokens} were sent"
            return self._untriaged(question, f"the server cut the question: {counted}", truncated=True)
        share = first_token_shares(reply.logprobs, "label", prompt.LABELS).get(label.value)
        return Verdict(
            label=label,
            by="model",
            confidence=None if share is None else round(share, 4),
            model=self._settings.model,
            model_digest=await self._find_digest(),
            prompt_sha256=question.sha256,
            prompt_tokens=reply.prompt_tokens,
        )

    async def _explain(self, alert: Alert, question: Question, verdict: Verdict) -> Verdict:
        """The second question; its failure costs the explanation, and with it a `benign`."""
        if verdict.label is Label.UNTRIAGED:
            return verdict
        self._counters.add("triage_requests_total")
        messages = prompt.explain_label(question, verdict.label)
        try:
            reply = await self._client.chat(messages, prompt.EXPLANATION_SCHEMA, self._options)
            said = msgspec.json.decode(reply.content, type=_Explanation)
        except TriageError as error:
            late = isinstance(error, TriageTimeoutError)
            self._counters.add("triage_timeouts_total" if late else "triage_errors_total")
            return self._without_explanation(question, verdict, f"no explanation: {error}")
        except (msgspec.DecodeError, UnicodeError):
            self._counters.add("triage_invalid_total")
            return self._without_explanation(question, verdict, "no explanation: it does not follow the schema")
        return self._check_explanation(alert, question, verdict, said)

    def _check_explanation(self, alert: Alert, question: Question, verdict: Verdict, said: _Explanation) -> Verdict:
        """What of the explanation may be shown: only what the evidence and the rule support."""
        summary = clean(said.summary, prompt.SUMMARY_CHARS).strip()
        ungrounded = find_ungrounded(summary, question.evidence)
        if ungrounded or not summary:
            self._counters.add("triage_ungrounded_total")
            what = clean(", ".join(ungrounded), 120) or "it is empty"
            return self._without_explanation(question, verdict, f"summary discarded, not in the evidence: {what}")
        steps = [clean(step, prompt.STEP_CHARS).strip() for step in said.next_steps]
        grounded = tuple(step for step in steps if step and not find_ungrounded(step, question.evidence))
        techniques = supported_techniques(said.techniques, alert.rule.techniques)
        dropped = len(steps) - len(grounded) + len(said.techniques) - len(techniques)
        self._counters.add("triage_unsupported_parts_total", dropped)
        return msgspec.structs.replace(verdict, summary=summary, next_steps=grounded, techniques=techniques)

    def _without_explanation(self, question: Question, verdict: Verdict, error: str) -> Verdict:
        """The label stands alone, except `benign`: that must be explained from the evidence to count."""
        if verdict.label in (Label.BENIGN, Label.UNTRIAGED):
            return self._untriaged(question, error, seen=verdict)
        return msgspec.structs.replace(verdict, error=error)

    def _untriaged(
        self, question: Question, error: str, *, truncated: bool = False, seen: Verdict | None = None
    ) -> Verdict:
        return Verdict(
            label=Label.UNTRIAGED,
            by="none",
            model=self._settings.model,
            model_digest=seen.model_digest if seen is not None else self._digest,
            prompt_sha256=question.sha256,
            prompt_tokens=seen.prompt_tokens if seen is not None else None,
            truncated=truncated,
            error=error,
        )

    async def _find_digest(self) -> str | None:
        """The model's digest, asked for again after a minute; None where the server does not say."""
        if self._clock.monotonic_s() >= self._digest_until_s:
            try:
                self._digest = await self._client.digest(self._settings.model)
            except TriageError:
                self._digest = None
            self._digest_until_s = self._clock.monotonic_s() + _DIGEST_FRESH_S
        return self._digest


def _read_label(content: str) -> Label:
    try:
        label = msgspec.json.decode(content, type=_LabelAnswer).label
    except (msgspec.DecodeError, UnicodeError):
        raise TriageError(f"the label does not follow the schema: {clean(content, 60)!r}") from None
    if label is Label.UNTRIAGED:
        raise TriageError("the label does not follow the schema: 'untriaged'")
    return label
