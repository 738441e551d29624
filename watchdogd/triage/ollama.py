"""Talks to Ollama's HTTP API. Every way it can fail ends in one TriageError with a short, clear message.

The API: https://github.com/ollama/ollama/blob/main/docs/api.md (`/api/chat`, `/api/tags`, `/api/ps`, `/api/show`,
`/api/pull`, `/api/version`).
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Self, TypeVar

import msgspec

from watchdogd.errors import TriageError
from watchdogd.triage.connection import (
    MAX_REPLY_BYTES,
    Connection,
    ModelMissingError,
    OllamaAbsentError,
    TriageTimeoutError,
    explain_error,
)
from watchdogd.triage.guard import clean
from watchdogd.triage.logprobs import Logprob, TokenLogprob, first_token_shares

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    import httpx

    from watchdogd.config import TriageSettings

__all__ = [
    "MAX_REPLY_BYTES",
    "AnswerPiece",
    "ChatOptions",
    "ChatReply",
    "InstalledModel",
    "LoadedModel",
    "Logprob",
    "ModelMissingError",
    "OllamaAbsentError",
    "OllamaClient",
    "PullStep",
    "TokenLogprob",
    "TriageTimeoutError",
    "first_token_shares",
]

TOP_LOGPROBS = 20
"""As many as Ollama allows: labels begin with several tokens each."""

PULL_STALL_S = 300.0
"""A download tells of itself every moment; checking what came may take minutes on a slow disk."""

_NAME_CHARS = 120
_Body = TypeVar("_Body")


class ChatOptions(msgspec.Struct, frozen=True):
    """Everything that shapes an answer; always all of it is sent."""

    model: str
    num_ctx: int
    num_predict: int
    temperature: float
    seed: int
    keep_alive: str

    @classmethod
    def choose(cls, settings: TriageSettings, num_predict: int, model: str = "") -> Self:
        """As the configuration says, for an answer of so many tokens; of another model where one is named."""
        return cls(
            model=model or settings.model,
            num_ctx=settings.num_ctx,
            num_predict=num_predict,
            temperature=settings.temperature,
            seed=settings.seed,
            keep_alive=settings.keep_alive,
        )


class ChatReply(msgspec.Struct, frozen=True):
    """What a complete, untruncated answer holds. Token counts are None where the server does not say."""

    content: str
    logprobs: tuple[Logprob, ...]
    prompt_tokens: int | None
    answer_tokens: int | None = None
    load_s: float | None = None
    """How long the model took to be brought into memory; None where the server does not say."""


class AnswerPiece(msgspec.Struct, frozen=True):
    """A piece of a free answer; the last one is `done` and tells what it took, as far as the server says."""

    text: str
    done: bool = False
    prompt_tokens: int | None = None
    answer_tokens: int | None = None
    load_s: float | None = None
    """How long the model took to be brought into memory."""
    is_cut: bool = False
    """It reached `num_predict`."""


class InstalledModel(msgspec.Struct, frozen=True):
    """A model on the server's disk; unknown parts are empty or 0."""

    name: str
    digest: str
    size_bytes: int
    quantisation: str = ""
    parameters: str = ""
    """As a person says it: `3.8B`."""


class LoadedModel(msgspec.Struct, frozen=True):
    """A model in memory."""

    name: str
    digest: str
    size_bytes: int
    vram_bytes: int
    """How much of it lies in the GPU's memory."""
    context: int
    """Tokens that it was loaded with; 0 where the server does not say."""


class ModelFacts(msgspec.Struct, frozen=True):
    """What the server knows of one installed model."""

    quantisation: str
    parameters: str
    context: int
    """The longest that the model was made for; 0 where it is not said."""
    capabilities: tuple[str, ...]


class PullStep(msgspec.Struct, frozen=True):
    """How a download stands: of one layer where `total_bytes` is not 0."""

    status: str
    layer: str = ""
    completed_bytes: int = 0
    total_bytes: int = 0


class _Message(msgspec.Struct):
    content: str = ""


class _ChatBody(msgspec.Struct):
    message: _Message
    done: bool = False
    done_reason: str | None = None
    prompt_eval_count: int | None = None
    eval_count: int | None = None
    load_duration: int | None = None
    """Nanoseconds."""
    logprobs: tuple[Logprob, ...] | None = None


class _Details(msgspec.Struct):
    quantization_level: str | None = None
    parameter_size: str | None = None


class _Model(msgspec.Struct):
    name: str = ""
    model: str = ""
    digest: str = ""
    size: int = 0
    size_vram: int = 0
    context_length: int = 0
    details: _Details | None = None


class _ModelsBody(msgspec.Struct):
    models: tuple[_Model, ...] | None = None


class _ShowBody(msgspec.Struct):
    details: _Details | None = None
    model_info: dict[str, Any] | None = None
    capabilities: tuple[str, ...] | None = None


class _PullLine(msgspec.Struct):
    status: str = ""
    digest: str = ""
    total: int = 0
    completed: int = 0


class _VersionBody(msgspec.Struct):
    version: str


class OllamaClient:
    """Client of one Ollama server. Not bound to a loop until first used; `close` ends its connections.

    `timeout_s` bounds each call as a whole, however slowly bytes arrive; of a stream it bounds each pause.
    """

    def __init__(self, base_url: str, *, timeout_s: float, client: httpx.AsyncClient | None = None) -> None:
        self._connection = Connection(base_url, client)
        self._timeout_s = timeout_s
        self.place = self._connection.place
        """The server's address as it may be shown: without a password."""

    async def chat(
        self, messages: list[dict[str, str]], schema: dict[str, Any], options: ChatOptions, *, logprobs: bool = False
    ) -> ChatReply:
        """Ask once, not streamed, the answer constrained to `schema`. Raises TriageError.

        A reply that reached `num_predict` is an error: it is JSON cut anywhere. `logprobs` asks for them; an older
        server leaves them out.
        """
        question = _ask(messages, options, stream=False) | {"format": schema}
        if logprobs:
            question |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        body = await self._call("POST", "/api/chat", _ChatBody, question, model=options.model)
        if body.done_reason == "length":
            raise TriageError(f"the answer was cut at num_predict ({options.num_predict} tokens)")
        if not body.done:
            raise TriageError("the answer is incomplete")
        return ChatReply(
            content=body.message.content,
            logprobs=tuple(body.logprobs or ()),
            prompt_tokens=body.prompt_eval_count or None,
            answer_tokens=body.eval_count or None,
            load_s=_seconds(body.load_duration),
        )

    async def converse(self, messages: list[dict[str, str]], options: ChatOptions) -> AsyncGenerator[str]:
        """The text of `answer`, piece by piece. Raises TriageError, also in the middle."""
        async with aclosing(self.answer(messages, options)) as pieces:
            async for piece in pieces:
                if piece.text:
                    yield piece.text

    async def answer(self, messages: list[dict[str, str]], options: ChatOptions) -> AsyncGenerator[AnswerPiece]:
        """The pieces of a free answer as they come, uncleaned. Raises TriageError, also in the middle.

        An answer that reaches `num_predict` ends there without an error.
        """
        question = _ask(messages, options, stream=True)
        async with aclosing(self._stream("/api/chat", question, self._timeout_s)) as lines:
            async for line in lines:
                piece = _decode(line, _ChatBody)
                yield AnswerPiece(
                    piece.message.content,
                    piece.done,
                    piece.prompt_eval_count or None,
                    piece.eval_count or None,
                    _seconds(piece.load_duration),
                    piece.done_reason == "length",
                )
                if piece.done:
                    return
        raise TriageError("the answer is incomplete")

    async def load(self, options: ChatOptions) -> None:
        """Bring a model into memory, and keep it there for `keep_alive`. Raises TriageError."""
        question = _ask([], options, stream=False)
        await self._call("POST", "/api/chat", _ChatBody, question, model=options.model)

    async def unload(self, model: str) -> None:
        """Take a model out of memory at once; one that is not there is no error. Raises TriageError."""
        question = {"model": model, "messages": [], "keep_alive": 0, "stream": False}
        await self._call("POST", "/api/chat", _ChatBody, question, model=model)

    async def pull(self, model: str, *, stall_s: float = PULL_STALL_S) -> AsyncGenerator[PullStep]:
        """Download a model; yields how it stands. Raises TriageError unless the server reports success.

        A download that fails does so by a line in an answer that began as a success. What came is kept by the server:
        the next try goes on from there.
        """
        succeeded = False
        async with aclosing(self._stream("/api/pull", {"model": model, "stream": True}, stall_s)) as lines:
            async for line in lines:
                step = _decode(line, _PullLine)
                succeeded = step.status == "success"
                done, total = max(step.completed, 0), max(step.total, 0)
                yield PullStep(clean(step.status, 80), clean(step.digest, 80), done, total)
        if not succeeded:
            raise TriageError(f"the download of {clean(model, 80)!r} ended before it was complete: try again")

    async def version(self) -> str:
        """The server's version. Raises TriageError."""
        return clean((await self._call("GET", "/api/version", _VersionBody)).version, 40)

    async def list_installed(self) -> tuple[InstalledModel, ...]:
        """The models on the server's disk. Raises TriageError."""
        body = await self._call("GET", "/api/tags", _ModelsBody)
        return tuple(
            InstalledModel(
                name=clean(entry.name or entry.model, _NAME_CHARS),
                digest=clean(entry.digest, 80),
                size_bytes=entry.size,
                quantisation=clean((entry.details or _Details()).quantization_level or "", 20),
                parameters=clean((entry.details or _Details()).parameter_size or "", 20),
            )
            for entry in body.models or ()
        )

    async def list_loaded(self) -> tuple[LoadedModel, ...]:
        """The models in memory. Raises TriageError."""
        body = await self._call("GET", "/api/ps", _ModelsBody)
        return tuple(
            LoadedModel(
                name=clean(entry.name or entry.model, _NAME_CHARS),
                digest=clean(entry.digest, 80),
                size_bytes=entry.size,
                vram_bytes=entry.size_vram,
                context=entry.context_length,
            )
            for entry in body.models or ()
        )

    async def show(self, model: str) -> ModelFacts:
        """What the server knows of an installed model. Raises TriageError, ModelMissingError where it is none."""
        body = await self._call("POST", "/api/show", _ShowBody, {"model": model}, model=model)
        details = body.details or _Details()
        lengths = (value for name, value in (body.model_info or {}).items() if name.endswith(".context_length"))
        return ModelFacts(
            quantisation=clean(details.quantization_level or "", 20),
            parameters=clean(details.parameter_size or "", 20),
            context=next((value for value in lengths if isinstance(value, int)), 0),
            capabilities=tuple(clean(name, 40) for name in body.capabilities or ()),
        )

    async def digest(self, model: str) -> str | None:
        """sha256 of the installed model, None where it is not installed. Raises TriageError."""
        found = (entry.digest for entry in await self.list_installed() if is_same_model(entry.name, model))
        return next(found, "") or None

    async def close(self) -> None:
        """End the connections; the client can be used again after."""
        await self._connection.close()

    async def _call(self, method: str, path: str, kind: type[_Body], body: object = None, *, model: str = "") -> _Body:
        return _decode(await self._connection.call(method, path, body, timeout_s=self._timeout_s, model=model), kind)

    async def _stream(self, path: str, body: dict[str, Any], stall_s: float) -> AsyncGenerator[bytes]:
        """The lines of a stream that are no errors. Raises TriageError for one that is."""
        async with aclosing(self._connection.lines(path, body, stall_s=stall_s, model=body["model"])) as lines:
            async for line in lines:
                if line.strip():
                    _raise_error_line(line)
                    yield line


def is_same_model(installed: str, wanted: str) -> bool:
    """Whether a name that Ollama lists is the model that a person named: a tag left out is `latest`."""
    return installed in (wanted, wanted if ":" in wanted.rpartition("/")[2] else f"{wanted}:latest")


def _ask(messages: list[dict[str, str]], options: ChatOptions, *, stream: bool) -> dict[str, Any]:
    return {
        "model": options.model,
        "messages": messages,
        "stream": stream,
        "think": False,
        "keep_alive": options.keep_alive,
        "options": {
            "num_ctx": options.num_ctx,
            "num_predict": options.num_predict,
            "temperature": options.temperature,
            "seed": options.seed,
        },
    }


def _seconds(duration_ns: int | None) -> float | None:
    return None if duration_ns is None else round(max(duration_ns, 0) / 1e9, 3)


def _raise_error_line(line: bytes) -> None:
    """Raise TriageError where a line of a stream is an error: the status was sent long before."""
    if _decode(line, dict[str, Any]).get("error"):
        raise TriageError(f"Ollama failed: {explain_error(line)}")


def _decode(content: bytes, kind: type[_Body]) -> _Body:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TriageError(f"the answer is no valid reply of Ollama: {clean(str(error), 120)}") from None
