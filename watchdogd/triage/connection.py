"""The HTTP below Ollama's API: bounded in time and size. Every way it can fail ends in one TriageError.

Ollama answers an error with a status and `{"error": text}`; a stream that fails after its first line does so with an
`error` line in a 200.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import ssl
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from watchdogd.errors import TriageError
from watchdogd.memory import load_httpx
from watchdogd.triage.guard import clean

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    import httpx

MAX_REPLY_BYTES = 1 << 20
"""No reply to our questions is larger; what claims to be is not read."""

_CONNECT_S = 5.0
_HTTP_OK = 200
_HTTP_BAD_REQUEST = 400
_HTTP_NOT_FOUND = 404
_HTTP_BUSY = 503
_HEADERS = {"accept": "application/json", "accept-encoding": "identity", "content-type": "application/json"}


class TriageTimeoutError(TriageError):
    """Ollama did not answer in time."""


class OllamaAbsentError(TriageError):
    """Nothing listens where Ollama should."""


class ModelMissingError(TriageError):
    """Ollama is there, the model is not installed."""


class EndpointMissingError(TriageError):
    """Something is there that does not know this part of the API: an old Ollama, or another server."""


class Connection:
    """HTTP to one Ollama server. Not bound to a loop until first used; `close` ends it, and it can be used again after.

    Proxies from the environment are never used for a server on this host. httpx is imported at first use: it is heavy,
    and triage may be off.
    """

    def __init__(self, base_url: str, client: httpx.AsyncClient | None = None) -> None:
        self._base_url = base_url.rstrip("/")
        self._client = client
        self.place = clean(self._base_url, 120)
        """The server's address as it may be shown: without a password."""

    async def call(self, method: str, path: str, body: object = None, *, timeout_s: float, model: str = "") -> bytes:
        """The body of a 200, however slowly its bytes arrive within `timeout_s`. Raises TriageError for all else."""
        with self._explained(timeout_s):
            async with asyncio.timeout(timeout_s), self._open(method, path, body) as response:
                self._check_headers(response)
                received = bytearray()
                async for chunk in response.aiter_raw():
                    received += chunk
                    _bound(received)
                _check_status(response, bytes(received), model)
                return bytes(received)

    async def lines(self, path: str, body: object, *, stall_s: float, model: str = "") -> AsyncGenerator[bytes]:
        """Each line of a streamed answer to a POST. Raises TriageError, also where no line comes for `stall_s`."""
        with self._explained(stall_s):
            async with contextlib.AsyncExitStack() as stack:
                async with asyncio.timeout(stall_s):
                    response = await stack.enter_async_context(self._open("POST", path, body))
                self._check_headers(response)
                rest = bytearray()
                chunks = aiter(response.aiter_raw())
                while True:
                    async with asyncio.timeout(stall_s):
                        chunk = await anext(chunks, None)
                    if chunk is None:
                        break
                    rest += chunk
                    if response.status_code == _HTTP_OK:
                        *complete, last = rest.split(b"\n")
                        rest = bytearray(last)
                        for line in complete:
                            yield bytes(line)
                    _bound(rest)
                _check_status(response, bytes(rest), model)
                if rest.strip():
                    yield bytes(rest)

    async def close(self) -> None:
        """End the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def _open(self, method: str, path: str, body: object) -> contextlib.AbstractAsyncContextManager[httpx.Response]:
        if self._client is None:
            self._client = _open_client(self._base_url)
        content = msgspec.json.encode(body) if body is not None else None
        return self._client.stream(method, self._base_url + path, content=content, headers=_HEADERS)

    def _check_headers(self, response: httpx.Response) -> None:
        """Raise TriageError where the body cannot be Ollama's."""
        if response.headers.get("content-encoding", "identity") != "identity":
            raise TriageError("the answer is compressed, which was not asked for")
        if "html" in response.headers.get("content-type", ""):
            raise TriageError(f"HTTP {response.status_code} with HTML: {self.place} is a proxy or no Ollama")

    @contextlib.contextmanager
    def _explained(self, limit_s: float) -> Iterator[None]:
        """Whatever the connection raises, as a TriageError."""
        httpx = load_httpx()
        try:
            yield
        except (httpx.TimeoutException, TimeoutError):
            raise TriageTimeoutError(f"Ollama at {self.place} did not answer within {limit_s:g} s") from None
        except httpx.ConnectError as error:
            reason = f"{clean(str(error), 120)}; is it running, and is triage.ollama_url right?"
            raise OllamaAbsentError(f"Ollama does not answer at {self.place}: {reason}") from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, ValueError) as error:
            detail = clean(str(error), 120) or type(error).__name__
            raise TriageError(f"the connection to Ollama at {self.place} failed: {detail}") from None


def explain_error(content: bytes) -> str:
    """What an error of Ollama says, cleaned; some hold a second document of llama.cpp's in their text."""
    try:
        error = msgspec.json.decode(content, type=dict[str, Any]).get("error", "")
    except (msgspec.DecodeError, UnicodeDecodeError):
        error = content[:400].decode("utf-8", "replace")
    for _ in range(4):
        if isinstance(error, dict):
            error = error.get("error") or error.get("message") or str(error)
        elif isinstance(error, str) and error.lstrip().startswith("{"):
            try:
                error = msgspec.json.decode(error, type=dict[str, Any])
            except (msgspec.DecodeError, UnicodeError):
                break
    return clean(error if isinstance(error, str) else str(error), 200)


def _check_status(response: httpx.Response, content: bytes, model: str) -> None:
    """Raise what a person can do about an HTTP error, unless there is none."""
    status = response.status_code
    if status == _HTTP_OK:
        return
    detail = explain_error(content)
    if status == _HTTP_NOT_FOUND and model:
        name = clean(model, 80)
        raise ModelMissingError(f"Ollama has no model {name!r}: ollama pull {name}")
    if status == _HTTP_BUSY:
        raise TriageError(f"Ollama is busy (503): {detail}")
    if status == _HTTP_BAD_REQUEST and "context" in detail.lower():
        raise TriageError(f"the question is longer than the model's context: {detail}")
    if status == _HTTP_NOT_FOUND:
        path = clean(response.request.url.path, 80)
        raise EndpointMissingError(f"the server has no {path}: it is an old Ollama, or none (HTTP 404: {detail})")
    raise TriageError(f"Ollama answered {status}: {detail}")


def _bound(received: bytearray) -> None:
    if len(received) > MAX_REPLY_BYTES:
        raise TriageError(f"the answer is larger than {MAX_REPLY_BYTES} bytes")


def _open_client(base_url: str) -> httpx.AsyncClient:
    parts = urlsplit(base_url)
    # Plain HTTP needs no certificates: an empty context saves loading them (about 5 MB).
    verify: ssl.SSLContext | bool = parts.scheme == "https" or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    loaded = load_httpx()
    client: httpx.AsyncClient = loaded.AsyncClient(
        trust_env=not _is_loopback(parts.hostname or ""),
        verify=verify,
        follow_redirects=False,
        timeout=loaded.Timeout(None, connect=_CONNECT_S),
        limits=loaded.Limits(max_connections=8, max_keepalive_connections=2),
    )
    return client


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
