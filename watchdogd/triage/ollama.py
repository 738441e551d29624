"""Talks to Ollama's HTTP API. Every way it can fail ends in one TriageError with a short, clear message.

The API: https://github.com/ollama/ollama/blob/main/docs/api.md (`/api/chat`, `/api/tags`, `/api/version`).
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import ssl
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from watchdogd.errors import TriageError
from watchdogd.triage.guard import clean

if TYPE_CHECKING:
    import httpx

MAX_REPLY_BYTES = 1 << 20
"""No reply to our questions is larger; what claims to be is not read."""

TOP_LOGPROBS = 20
"""As many as Ollama allows: labels begin with several tokens each."""

_Body = TypeVar("_Body")

_CONNECT_S = 5.0
_HTTP_OK = 200
_HTTP_BAD_REQUEST = 400
_HTTP_NOT_FOUND = 404
_HTTP_BUSY = 503


class TriageTimeoutError(TriageError):
    """Ollama did not answer in time."""


class TokenLogprob(msgspec.Struct, frozen=True):
    """A token and its natural log probability before any grammar was applied."""

    token: str
    logprob: float


class Logprob(msgspec.Struct, frozen=True):
    """One generated token, and the likeliest tokens at its place."""

    token: str
    logprob: float
    top_logprobs: tuple[TokenLogprob, ...] = ()


class ChatOptions(msgspec.Struct, frozen=True):
    """Everything that shapes an answer; always all of it is sent."""

    model: str
    num_ctx: int
    num_predict: int
    temperature: float
    seed: int
    keep_alive: str


class ChatReply(msgspec.Struct, frozen=True):
    """What a complete, untruncated answer holds. `prompt_tokens` is None where the server does not say."""

    content: str
    logprobs: tuple[Logprob, ...]
    prompt_tokens: int | None


class _Message(msgspec.Struct):
    content: str = ""


class _ChatBody(msgspec.Struct):
    message: _Message
    done: bool = False
    done_reason: str | None = None
    prompt_eval_count: int | None = None
    logprobs: tuple[Logprob, ...] | None = None


class _Model(msgspec.Struct):
    name: str = ""
    model: str = ""
    digest: str = ""


class _TagsBody(msgspec.Struct):
    models: tuple[_Model, ...] | None = None


class _VersionBody(msgspec.Struct):
    version: str


class OllamaClient:
    """Client of one Ollama server. Not bound to a loop until first used; `close` ends its connections.

    `timeout_s` bounds each call as a whole, however slowly bytes arrive. Proxies from the environment are never
    used for a server on this host. httpx is imported at first use: it is heavy, and triage may be off.
    """

    def __init__(self, base_url: str, *, timeout_s: float, client: httpx.AsyncClient | None = None) -> None:
        self._base_url = base_url.rstrip("/")
        self._timeout_s = timeout_s
        self._client = client
        self.place = clean(self._base_url, 120)
        """The server's address as it may be shown: without a password."""

    async def chat(
        self, messages: list[dict[str, str]], schema: dict[str, Any], options: ChatOptions, *, logprobs: bool = False
    ) -> ChatReply:
        """Ask once, not streamed, the answer constrained to `schema`. Raises TriageError.

        A reply that reached `num_predict` is an error: it is JSON cut anywhere. `logprobs` asks for them; an older
        server leaves them out.
        """
        question: dict[str, Any] = {
            "model": options.model,
            "messages": messages,
            "stream": False,
            "format": schema,
            "think": False,
            "keep_alive": options.keep_alive,
            "options": {
                "num_ctx": options.num_ctx,
                "num_predict": options.num_predict,
                "temperature": options.temperature,
                "seed": options.seed,
            },
        }
        if logprobs:
            question |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        body = _decode(await self._call("POST", "/api/chat", question, model=options.model), _ChatBody)
        if body.done_reason == "length":
            raise TriageError(f"the answer was cut at num_predict ({options.num_predict} tokens)")
        if not body.done:
            raise TriageError("the answer is incomplete")
        return ChatReply(
            content=body.message.content,
            logprobs=tuple(body.logprobs or ()),
            prompt_tokens=body.prompt_eval_count or None,
        )

    async def version(self) -> str:
        """The server's version. Raises TriageError."""
        return clean(_decode(await self._call("GET", "/api/version"), _VersionBody).version, 40)

    async def digest(self, model: str) -> str | None:
        """sha256 of the installed model, None where it is not installed. Raises TriageError."""
        names = {model, model if ":" in model.rpartition("/")[2] else f"{model}:latest"}
        body = _decode(await self._call("GET", "/api/tags"), _TagsBody)
        found = (entry.digest for entry in body.models or () if names & {entry.name, entry.model})
        return clean(next(found, ""), 80) or None

    async def close(self) -> None:
        """End the connections; the client can be used again after."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _call(self, method: str, path: str, body: object = None, *, model: str = "") -> bytes:
        """The body of a 200. Raises TriageError for all else."""
        import httpx  # noqa: PLC0415 - 10 MB that a daemon without triage never needs

        try:
            async with asyncio.timeout(self._timeout_s):
                status, content = await self._exchange(method, path, body)
        except (httpx.TimeoutException, TimeoutError):
            raise TriageTimeoutError(f"Ollama at {self.place} did not answer within {self._timeout_s:g} s") from None
        except httpx.ConnectError as error:
            raise TriageError(f"Ollama does not answer at {self.place}: {clean(str(error), 120)}") from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, ValueError) as error:
            detail = clean(str(error), 120) or type(error).__name__
            raise TriageError(f"the connection to Ollama at {self.place} failed: {detail}") from None
        if status != _HTTP_OK:
            raise TriageError(_explain(status, content, model))
        return content

    async def _exchange(self, method: str, path: str, body: object) -> tuple[int, bytes]:
        """Status and body, read at most to the bound."""
        if self._client is None:
            self._client = _open_client(self._base_url)
        content = msgspec.json.encode(body) if body is not None else None
        headers = {"accept": "application/json", "accept-encoding": "identity", "content-type": "application/json"}
        url = self._base_url + path
        async with self._client.stream(method, url, content=content, headers=headers) as response:
            if response.headers.get("content-encoding", "identity") != "identity":
                raise TriageError("the answer is compressed, which was not asked for")
            received = bytearray()
            async for chunk in response.aiter_raw():
                received += chunk
                if len(received) > MAX_REPLY_BYTES:
                    raise TriageError(f"the answer is larger than {MAX_REPLY_BYTES} bytes")
            if "html" in response.headers.get("content-type", ""):
                raise TriageError(f"HTTP {response.status_code} with HTML: {self.place} is a proxy or no Ollama")
            return response.status_code, bytes(received)


def first_token_shares(logprobs: tuple[Logprob, ...], field: str, choices: tuple[str, ...]) -> dict[str, float]:
    """How the model's probability falls on `choices` at the first token of the string `field`, summing to 1.

    Several tokens may begin one choice (`b`, `ben`, `benign`): their probabilities add up. Empty where the tokens do
    not show the field, or where nothing likely begins any choice.
    """
    said = "".join(entry.token for entry in logprobs)
    place = _find_value(said, field)
    if place is None:
        return {}
    start = 0
    for entry in logprobs:
        if start <= place < start + len(entry.token):
            prefix = entry.token[: place - start]
            return _shares(entry, prefix, choices)
        start += len(entry.token)
    return {}


def _find_value(said: str, field: str) -> int | None:
    """Where the text of a JSON string field begins."""
    _, name, rest = said.rpartition(f'"{field}"')
    colon = rest.lstrip()
    value = colon[1:].lstrip()
    if not name or not colon.startswith(":") or not value.startswith('"'):
        return None
    return len(said) - len(value) + 1


def _shares(entry: Logprob, prefix: str, choices: tuple[str, ...]) -> dict[str, float]:
    alternatives = {other.token: other.logprob for other in entry.top_logprobs} | {entry.token: entry.logprob}
    mass = dict.fromkeys(choices, 0.0)
    for token, logprob in alternatives.items():
        if not token.startswith(prefix) or not math.isfinite(logprob):
            continue
        begins = token.removeprefix(prefix).strip().lower()
        hits = [choice for choice in choices if begins and (choice.startswith(begins) or begins.startswith(choice))]
        if len(hits) == 1:
            mass[hits[0]] += math.exp(min(logprob, 0.0))
    total = sum(mass.values())
    return {choice: part / total for choice, part in mass.items()} if total > 0 else {}


def _open_client(base_url: str) -> httpx.AsyncClient:
    import httpx  # noqa: PLC0415 - as above

    parts = urlsplit(base_url)
    # Plain HTTP needs no certificates: an empty context saves loading them (about 5 MB).
    verify: ssl.SSLContext | bool = parts.scheme == "https" or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return httpx.AsyncClient(
        trust_env=not _is_loopback(parts.hostname or ""),
        verify=verify,
        follow_redirects=False,
        timeout=httpx.Timeout(None, connect=_CONNECT_S),
        limits=httpx.Limits(max_connections=8, max_keepalive_connections=2),
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _decode(content: bytes, kind: type[_Body]) -> _Body:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TriageError(f"the answer is no valid reply of Ollama: {clean(str(error), 120)}") from None


def _explain(status: int, content: bytes, model: str) -> str:
    """What a person can do about an HTTP error."""
    try:
        error = msgspec.json.decode(content, type=dict[str, Any]).get("error", "")
    except (msgspec.DecodeError, UnicodeDecodeError):
        error = content[:400].decode("utf-8", "replace")
    detail = clean(error if isinstance(error, str) else str(error), 200)
    if status == _HTTP_NOT_FOUND and model:
        return f"Ollama has no model {clean(model, 80)!r}: ollama pull {clean(model, 80)}"
    if status == _HTTP_BUSY:
        return f"Ollama is busy (503): {detail}"
    if status == _HTTP_BAD_REQUEST and "context" in detail.lower():
        return f"the question is longer than the model's context: {detail}"
    return f"Ollama answered {status}: {detail}"
