"""Alerts to an HTTP receiver, signed as Standard Webhooks (https://www.standardwebhooks.com) describes."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import logging
import math
import ssl
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

from watchdogd import __version__
from watchdogd.errors import DeliveryError
from watchdogd.memory import load_httpx
from watchdogd.transport_checks import make_context
from watchdogd.write.formats.message import load_format
from watchdogd.write.masked import Masker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import httpx

    from watchdogd.entities import Alert
    from watchdogd.ports import Clock
    from watchdogd.webhook_settings import WebhookSettings
    from watchdogd.write.formats.message import Format, Message

KIND_HEADER: Final = "X-Watchdogd-Kind"
"""`alert`, or `verdict` where the alert was sent before and this is the same with its verdict."""

_MAX_RETRY_AFTER_S: Final = 3600.0
_MAX_ANSWER_BYTES: Final = 65536
_RETRY_STATUS: Final = frozenset({408, 425, 429})
_SECRET_PREFIX: Final = "whsec_"  # noqa: S105 (marks a secret, is none)
_SUCCESS: Final = range(200, 300)
_REDIRECT: Final = range(300, 400)
_SERVER_ERROR: Final = range(500, 600)


def sign_message(secret: str, message_id: str, timestamp_s: int, body: bytes) -> str:
    """Value of `webhook-signature`: HMAC-SHA256 over `id.timestamp.body`, base64, after `v1,`.

    A secret that begins with `whsec_` is base64 behind that prefix, any other is used as it is.
    Raises ValueError for bad base64.
    """
    message = f"{message_id}.{timestamp_s}.".encode() + body
    digest = hmac.new(_secret_key(secret), message, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def _secret_key(secret: str) -> bytes:
    if not secret.startswith(_SECRET_PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(_SECRET_PREFIX), validate=True)
    except binascii.Error:
        raise ValueError("the secret begins with whsec_ and is not base64 behind it") from None


def make_client(settings: WebhookSettings) -> httpx.AsyncClient:
    """The client of one receiver: own connections, TLS checked, no redirects, no proxy but its own."""
    loaded = load_httpx()
    for name in ("httpx", "httpcore"):  # they log whole URLs at INFO and headers at DEBUG: tokens in both
        logging.getLogger(name).setLevel(logging.WARNING)
    client: httpx.AsyncClient = loaded.AsyncClient(
        timeout=loaded.Timeout(settings.timeout_s, connect=min(settings.connect_timeout_s, settings.timeout_s)),
        follow_redirects=False,
        trust_env=False,
        verify=make_context(settings.ca_file, settings.client_certificate, settings.client_key),
        proxy=settings.proxy or None,
        limits=loaded.Limits(
            max_connections=settings.max_in_flight + 1, max_keepalive_connections=settings.max_in_flight
        ),
    )
    return client


class WebhookSink:
    """POSTs alerts to one receiver, in the form that it takes (write/formats).

    Errors name the sink and never the URL, the headers or the secret, which may all hold tokens.
    """

    def __init__(
        self,
        settings: WebhookSettings,
        clock: Clock,
        *,
        client_factory: Callable[[WebhookSettings], httpx.AsyncClient] = make_client,
        masker: Masker | None = None,
    ) -> None:
        """`masker` is what sinks share."""
        self._masker = masker or Masker()
        self.name = settings.name
        self._settings = settings
        self._clock = clock
        self._client_factory = client_factory
        self._client: httpx.AsyncClient | None = None
        self._format: Format | None = None

    async def send(self, alert: Alert, *, kind: str, delivery_id: str) -> None:
        """POST once. `delivery_id` is stable across retries. Raises DeliveryError."""
        message = self._write(self._masker.mask(alert) if self._settings.mask else alert, kind)
        headers = self._headers(message, kind, delivery_id)
        status, retry_after = await self._post(message, headers)
        self._judge(status, retry_after)

    async def close(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def _write(self, alert: Alert, kind: str) -> Message:
        if self._format is None:
            self._format = load_format(self._settings.format)
        return self._format(alert, kind, self._settings)

    def _headers(self, message: Message, kind: str, delivery_id: str) -> dict[str, str]:
        timestamp_s = self._clock.now_ms() // 1000
        headers = dict(self._settings.headers)
        headers |= {
            "content-type": message.content_type,
            "user-agent": f"watchdogd/{__version__}",
            "webhook-id": delivery_id,
            "webhook-timestamp": str(timestamp_s),
            KIND_HEADER: kind,
        }
        if self._settings.secret:
            try:
                headers["webhook-signature"] = sign_message(
                    self._settings.secret, delivery_id, timestamp_s, message.body
                )
            except ValueError as error:
                raise DeliveryError(f"webhook {self.name}: {error}", recoverable=False) from None
        return headers

    async def _post(self, message: Message, headers: Mapping[str, str]) -> tuple[int, str | None]:
        """Status and Retry-After of the answer; once a status is there, what happens to the rest is of no matter."""
        httpx = load_httpx()

        answer: list[tuple[int, str | None]] = []
        try:
            if self._client is None:
                self._client = self._client_factory(self._settings)
            # httpx's timeouts are per read: a receiver that drips bytes would hold us for ever.
            async with asyncio.timeout(self._settings.timeout_s):
                await self._exchange(self._client, message, headers, answer)
        except TimeoutError:
            error = f"no answer within {self._settings.timeout_s:g} s"
            recoverable = True
        except (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.LocalProtocolError, UnicodeError, ValueError):
            error, recoverable = "its URL or headers cannot be used", False
        except (httpx.HTTPError, OSError) as exception:
            error, recoverable = _explain(exception), True
        else:
            return answer[0]
        if answer:
            return answer[0]
        raise DeliveryError(f"webhook {self.name}: {error}", recoverable=recoverable) from None

    async def _exchange(
        self,
        client: httpx.AsyncClient,
        message: Message,
        headers: Mapping[str, str],
        answer: list[tuple[int, str | None]],
    ) -> None:
        url = message.url or self._settings.url
        async with client.stream("POST", url, content=message.body, headers=dict(headers)) as response:
            answer.append((response.status_code, response.headers.get("retry-after")))
            read = 0
            async for chunk in response.aiter_raw():  # read it, so that the connection can be used again
                read += len(chunk)
                if read > _MAX_ANSWER_BYTES:
                    break

    def _judge(self, status: int, retry_after: str | None) -> None:
        if status in _SUCCESS:
            return
        if status in _REDIRECT:
            message = f"it redirects ({status}), which is not followed: configure the final address"
            raise DeliveryError(f"webhook {self.name}: {message}", recoverable=False)
        recoverable = status in _SERVER_ERROR or status in _RETRY_STATUS
        raise DeliveryError(
            f"webhook {self.name}: answered {status}",
            recoverable=recoverable,
            retry_after_s=parse_retry_after(retry_after, self._clock.now_ms()) if recoverable else None,
        )


def parse_retry_after(value: str | None, now_ms: int) -> float | None:
    """Seconds to wait by a Retry-After header (RFC 9110, 10.2.3): a number or a date; at most an hour, None if bad."""
    if value is None:
        return None
    try:
        seconds = float(value) if value.strip().isdecimal() else _seconds_until(value, now_ms)
    except (ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER_S) if math.isfinite(seconds) else _MAX_RETRY_AFTER_S


def _seconds_until(date: str, now_ms: int) -> float:
    return parsedate_to_datetime(date).timestamp() - now_ms / 1000


def _explain(error: Exception) -> str:
    """What went wrong without a word that could hold the URL: the kind of error and the system's own reason."""
    cause: BaseException | None = error
    for _ in range(8):
        if isinstance(cause, ssl.SSLError):
            why = getattr(cause, "verify_message", "").partition(",")[0]  # OpenSSL's; behind the comma is the host
            return f"TLS failed ({cause.reason or type(cause).__name__}{f': {why}' if why else ''})"
        if isinstance(cause, OSError) and cause.strerror and cause.errno:
            return f"cannot reach it ({cause.strerror})"
        following = (cause.__cause__ or cause.__context__) if cause is not None else None
        if following is None:
            break
        cause = following
    return f"the exchange failed ({type(error).__name__})"
