"""`/api/v1/ai/*`: how the model's server is, a free question to it, and a verdict on something that is told."""

from __future__ import annotations

import asyncio
import hashlib
import math
from contextlib import aclosing, asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta
from starlette.responses import StreamingResponse

from watchdogd.api.problems import ProblemError, as_json
from watchdogd.api.requests import read_body
from watchdogd.background import NO_BACKGROUND
from watchdogd.entities import Alert, EventId, FieldValue, Label, Level, Process, ProcessKey, Rule, Verdict
from watchdogd.errors import TriageError, WatchdogdError
from watchdogd.masking import mask_secrets
from watchdogd.triage.advice import ask_freely
from watchdogd.triage.guard import clean
from watchdogd.triage.ollama import AnswerPiece, ChatOptions, is_same_model

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from starlette.requests import Request
    from starlette.responses import Response

    from watchdogd.api.backend import Backend
    from watchdogd.api_settings import ApiSettings

HEALTH_TIMEOUT_S = 3.0
HEALTH_FRESH_S = 5.0
PROMPT_CHARACTERS = 32_768
IN_FLIGHT = 2
"""Free questions at once; alerts must find the model free."""
ANALYSIS_RULE = "f2c6c0f4-8c0b-4b57-9a44-0f7a3c1d2e10"
"""Id of the rule that an analysed anomaly is told under; it is not stored."""

_Text = Annotated[str, Meta(max_length=4096)]
_Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z][\w.-]*\Z")]
_Whole = float
"""A whole number, as JSON knows it: 5, 5.0 and 5e0 are one. (openapi.py says `integer`.)"""
_Value = _Text | int | float | bool | None


class ModelInMemory(msgspec.Struct, frozen=True):
    """A model that the server has loaded."""

    name: str
    size_bytes: int
    vram_bytes: int
    context: int


class Health(msgspec.Struct, frozen=True):
    """The model's server and triage's queue, now."""

    enabled: bool
    reachable: bool
    model: str | None
    installed: bool
    loaded: bool
    vram_bytes: int
    """Of all models in memory."""
    version: str | None
    models: tuple[ModelInMemory, ...]
    breaker: str
    """`closed`, `open`, `half-open`."""
    waiting: int
    in_flight: int
    budget_left: int
    examined: bool
    """Whether the model passed its exam: only then does its label carry weight."""
    error: str | None = None


class Query(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A free question."""

    prompt: Annotated[str, Meta(min_length=1, max_length=PROMPT_CHARACTERS)]
    max_tokens: Annotated[_Whole, Meta(ge=1, le=4096)] = 512
    stream: bool = False
    """Answer piece by piece, as server-sent events."""

    def __post_init__(self) -> None:
        """Raise ValueError for half a token."""
        _demand_whole(self.max_tokens, "max_tokens")


class QueryAnswer(msgspec.Struct, frozen=True):
    """The model's answer. Times in seconds; tokens are null where the server does not say."""

    response: str
    model: str
    elapsed_s: float
    load_s: float | None
    prompt_tokens: int | None
    answer_tokens: int | None
    tokens_per_s: float | None
    truncated: bool
    """It ended because of `max_tokens`."""


class ToldProcess(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A process, by ECS names."""

    pid: Annotated[_Whole, Meta(ge=0, le=1 << 31)]
    executable: _Text | None = None
    args: Annotated[tuple[_Text, ...], Meta(max_length=256)] = ()
    user: _Text | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for half a pid."""
        _demand_whole(self.pid, "pid")


class Metric(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An odd figure of the host."""

    metric: _Name
    value: float
    unit: Annotated[str, Meta(max_length=40)] = ""
    baseline: float | None = None
    zscore: float | None = None


class ToldEvent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An event as rules see it: a category and its fields, by Sigma's names."""

    category: _Name
    fields: Annotated[dict[_Name, _Value], Meta(min_length=1, max_length=64)]


class Anomaly(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to be judged: a metric or an event, and who was behind it."""

    metric: Metric | None = None
    event: ToldEvent | None = None
    process: ToldProcess | None = None
    title: Annotated[str, Meta(min_length=1, max_length=200)] = "Anomaly told through the API"
    level: Level = Level.MEDIUM


class Analysis(msgspec.Struct, frozen=True):
    """The verdict, and what the policy makes of it."""

    verdict: Verdict
    rule_level: Level
    level: Level
    """Never below `rule_level`."""
    journald_only: bool
    """Whether the policy would keep it from webhooks."""
    evidence_score: float
    reasons: tuple[str, ...]


class Ai:
    """Answers about the local model. One per daemon."""

    def __init__(self, settings: ApiSettings, backend: Backend) -> None:
        self._settings = settings
        self._backend = backend
        self._in_flight = 0
        self._known: tuple[float, Health] | None = None

    async def health(self, _: Request) -> Response:
        """`GET /api/v1/ai/health`: 200 whatever it is, `reachable` says it."""
        return as_json(await self.look())

    async def look(self) -> Health:
        """How it is; asked of the server at most every HEALTH_FRESH_S."""
        now_s = self._backend.clock.monotonic_s()
        if self._known is None or now_s - self._known[0] >= HEALTH_FRESH_S:
            self._known = (now_s, await self._look_now())
        return self._known[1]

    async def _look_now(self) -> Health:
        settings = self._backend.triage().settings
        report = (await self._backend.status()).triage
        health = Health(
            enabled=settings.enabled,
            reachable=False,
            model=settings.model,
            installed=False,
            loaded=False,
            vram_bytes=0,
            version=None,
            models=(),
            breaker=report.server if report else "closed",
            waiting=report.waiting if report else 0,
            in_flight=report.in_flight if report else 0,
            budget_left=report.budget_left if report else 0,
            examined=bool(report and report.standing and report.standing.passed),
        )
        client = self._backend.connect(settings.ollama_url, HEALTH_TIMEOUT_S)
        try:
            async with asyncio.timeout(HEALTH_TIMEOUT_S):
                version = await client.version()
                models = await client.list_loaded()
                installed = await client.digest(settings.model) is not None
        except (TriageError, TimeoutError) as error:
            return msgspec.structs.replace(health, error=str(error) or "no answer in time")
        finally:
            await client.close()
        return msgspec.structs.replace(
            health,
            reachable=True,
            version=version,
            installed=installed,
            loaded=any(is_same_model(model.name, settings.model) for model in models),
            vram_bytes=sum(model.vram_bytes for model in models),
            models=tuple(ModelInMemory(one.name, one.size_bytes, one.vram_bytes, one.context) for one in models),
        )

    async def query(self, request: Request) -> Response:
        """`POST /api/v1/ai/query`. Raises ProblemError: 503 where the model does not answer, or is wanted elsewhere."""
        query = await read_body(request, Query, self._settings.max_body_bytes)
        if not query.prompt.strip():
            raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, "Expected a question - at `$.prompt`")
        if not self._backend.triage().settings.enabled:
            raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, "AI is turned off (triage.enabled)")
        if self._in_flight >= IN_FLIGHT:
            detail = f"{IN_FLIGHT} questions are being answered"
            raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, detail, {"Retry-After": "10"})
        if query.stream:
            return StreamingResponse(self._stream(query), media_type="text/event-stream", headers=_NO_STORE)
        return as_json(await self._answer(query), headers=_NO_STORE)

    @asynccontextmanager
    async def _asking(self, query: Query) -> AsyncIterator[tuple[str, AsyncGenerator[AnswerPiece]]]:
        """The model's name and the pieces of its answer; at most IN_FLIGHT at once. Raises TriageError."""
        settings = self._backend.triage().settings
        client = self._backend.connect(settings.ollama_url, self._settings.question_timeout_s)
        tokens = min(int(query.max_tokens), settings.num_ctx // 2)
        messages = ask_freely(query.prompt)
        self._in_flight += 1
        self._backend.counters.add("api_questions_total")
        try:
            async with aclosing(client.answer(messages, ChatOptions.choose(settings, tokens))) as pieces:
                yield settings.model, pieces
        finally:
            self._in_flight -= 1
            await client.close()

    async def _answer(self, query: Query) -> QueryAnswer:
        began_s = self._backend.clock.monotonic_s()
        texts: list[str] = []
        last = AnswerPiece("")
        try:
            async with asyncio.timeout(self._settings.question_timeout_s), self._asking(query) as (model, pieces):
                async for last in pieces:
                    texts.append(last.text)
        except (TriageError, TimeoutError) as error:
            self._backend.counters.add("api_question_errors_total")
            raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, str(error) or "the model takes too long") from None
        return self._conclude("".join(texts), model, last, began_s)

    def _conclude(self, text: str, model: str, last: AnswerPiece, began_s: float) -> QueryAnswer:
        elapsed_s = self._backend.clock.monotonic_s() - began_s
        answering_s = elapsed_s - (last.load_s or 0)
        speed = last.answer_tokens / answering_s if last.answer_tokens and answering_s > 0 else None
        return QueryAnswer(
            response=text.strip(),
            model=model,
            elapsed_s=round(elapsed_s, 3),
            load_s=last.load_s,
            prompt_tokens=last.prompt_tokens,
            answer_tokens=last.answer_tokens,
            tokens_per_s=None if speed is None else round(speed, 2),
            truncated=last.is_cut,
        )

    async def _stream(self, query: Query) -> AsyncIterator[bytes]:
        """Server-sent events: `token` for each piece, then `done` with all but the text, or `error`."""
        began_s = self._backend.clock.monotonic_s()
        try:
            async with asyncio.timeout(self._settings.question_timeout_s), self._asking(query) as (model, pieces):
                last = AnswerPiece("")
                async for last in pieces:
                    if last.text:
                        yield _event("token", {"text": last.text})
                yield _event("done", self._conclude("", model, last, began_s))
        except (TriageError, TimeoutError) as error:
            self._backend.counters.add("api_question_errors_total")
            yield _event("error", {"detail": str(error) or "the model takes too long"})

    async def analyze(self, request: Request) -> Response:
        """`POST /api/v1/ai/analyze-anomaly`: judged as an alert of that level would be; nothing is stored or sent."""
        anomaly = await read_body(request, Anomaly, self._settings.max_body_bytes)
        triage = self._backend.triage()
        try:
            alert = triage.score(build_alert(anomaly, self._backend.host, self._backend.clock.now_ms()))
        except ValueError as error:
            raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from None
        verdict = Verdict(label=Label.UNTRIAGED, by="none", error="triage is off")
        if triage.ask is not None:
            try:
                verdict = await triage.ask(alert, NO_BACKGROUND)
            except WatchdogdError as error:
                raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from None
        ruling = triage.policy.rule_on(alert, verdict)
        return as_json(
            Analysis(
                verdict=verdict,
                rule_level=alert.rule.level,
                level=ruling.alert.level,
                journald_only=ruling.journald_only,
                evidence_score=round(alert.evidence_score, 3),
                reasons=tuple(mask_secrets(reason) for reason in ruling.alert.reasons),
            ),
            headers=_NO_STORE,
        )


_NO_STORE = {"Cache-Control": "no-store"}


def _event(name: str, data: object) -> bytes:
    """One server-sent event; JSON has no line ends, so none can be forged."""
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(data) + b"\n\n"


def build_alert(anomaly: Anomaly, host: str, now_ms: int) -> Alert:
    """An alert of what was told, to be judged and not kept. Raises ValueError with what is wrong."""
    if (anomaly.metric is None) is (anomaly.event is None):
        raise ValueError("Expected either `metric` or `event`")
    category, fields = _list_fields(anomaly)
    process = None if anomaly.process is None else _build_process(anomaly.process, now_ms)
    if process is not None:
        fields |= {"Image": process.exe or "", "User": process.user or "", "ProcessId": process.pid}
    rule = Rule(id=ANALYSIS_RULE, title=clean(anomaly.title, 200), level=anomaly.level)
    told = hashlib.sha256(msgspec.json.encode(anomaly)).hexdigest()
    return Alert(
        id=told,
        time_ms=now_ms,
        rule=rule,
        level=anomaly.level,
        source="api",
        category=category,
        action="told",
        outcome="unknown",
        events=(EventId("api", None, now_ms, 0, told[:16]),),
        fields=dict(fields),
        matched={name: str(value) for name, value in fields.items() if value is not None},
        process=process,
        lineage=(),
        group_key=f"{rule.id}|{told[:16]}",
        first_seen_ms=now_ms,
        last_seen_ms=now_ms,
        evidence_score=0.0,
        reasons=(),
        lines=(),
        host=host,
    )


def _demand_whole(number: float, name: str) -> None:
    if not float(number).is_integer():
        raise ValueError(f"Expected `int`, got `float` - at `$.{name}`")


def _list_fields(anomaly: Anomaly) -> tuple[str, dict[str, FieldValue]]:
    if anomaly.event is not None:
        return anomaly.event.category, dict(anomaly.event.fields)
    metric = anomaly.metric
    assert metric is not None  # noqa: S101 (one of them is there)
    if not all(math.isfinite(number) for number in (metric.value, metric.baseline or 0, metric.zscore or 0)):
        raise ValueError("Expected finite numbers - at `$.metric`")
    fields: dict[str, FieldValue] = {
        "metric": metric.metric,
        "value": metric.value,
        "unit": metric.unit,
        "baseline": metric.baseline,
        "zscore": metric.zscore,
    }
    return "host_metrics", fields


def _build_process(told: ToldProcess, now_ms: int) -> Process:
    return Process(
        key=ProcessKey("", int(told.pid), now_ms),
        pid=int(told.pid),
        ppid=None,
        exe=told.executable,
        comm=(told.executable or "").rpartition("/")[2] or None,
        argv=told.args,
        cwd=None,
        uid=None,
        user=told.user,
        auid=None,
        login=None,
        session=None,
        tty=None,
    )


STREAM_EVENTS: tuple[Literal["token", "done", "error"], ...] = ("token", "done", "error")
