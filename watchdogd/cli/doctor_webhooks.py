"""The doctor on webhooks: name, connection and certificate are tried; only with `--send` is anything sent."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import socket
import ssl
import time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from watchdogd.cli.doctor_findings import error, ok, unknown, warning
from watchdogd.errors import DeliveryError
from watchdogd.secret_files import mask_url
from watchdogd.transport_checks import make_context

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from watchdogd.cli.doctor_findings import Finding
    from watchdogd.cli.doctor_site import Site
    from watchdogd.webhook_settings import WebhookSettings

CONNECT_S: Final = 5.0
CERTIFICATE_DAYS: Final = 14


def check_webhooks(site: Site) -> Iterator[Finding]:
    """Each webhook: does its name resolve, does somebody listen, is its certificate believed."""
    if not site.config.webhooks:
        yield unknown("webhooks", "Not needed: the configuration names no webhook.")
    for webhook in site.config.webhooks:
        if webhook.format == "apprise":
            yield unknown(
                f"webhook {webhook.name}",
                "Where apprise sends to is not tried here.",
                f"watchdogd test-alert --sink {webhook.name}",
            )
            continue
        if not webhook.url:
            yield error(f"webhook {webhook.name}", "Its URL cannot be read from its file.", "watchdogd check")
            continue
        found = _try_webhook(webhook)
        yield found
        if site.send and found.level != "error":
            yield _send(webhook)


def _try_webhook(webhook: WebhookSettings) -> Finding:
    """Up to the handshake: nothing is sent, and nothing of the URL but its host is shown."""
    check = f"webhook {webhook.name}"
    first = urlsplit(webhook.proxy or webhook.url)
    shown = mask_url(webhook.proxy or webhook.url)
    host, port = first.hostname or "", first.port or (443 if first.scheme == "https" else 80)
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as problem:
        return error(
            check, f"The name {host} does not resolve: {problem.strerror}.", f"getent hosts {shlex.quote(host)}"
        )
    connection, trouble = _connect(addresses, min(webhook.connect_timeout_s, CONNECT_S))
    if connection is None:
        return error(check, f"{shown} cannot be reached: {trouble}.", f"nc -vz {shlex.quote(host)} {port}")
    with contextlib.closing(connection):
        if webhook.proxy:
            return ok(check, f"The proxy {shown} listens; what lies behind it is tried with --send only.")
        if first.scheme != "https":
            return ok(check, f"{shown} listens. (Nothing was sent.)")
        return _shake_hands(webhook, connection, shown, host, port)


def _shake_hands(webhook: WebhookSettings, connection: socket.socket, shown: str, host: str, port: int) -> Finding:
    check = f"webhook {webhook.name}"
    look = f"openssl s_client -connect {shlex.quote(f'{host}:{port}')} -servername {shlex.quote(host)} </dev/null"
    try:
        context = make_context(webhook.ca_file, webhook.client_certificate, webhook.client_key)
        with context.wrap_socket(connection, server_hostname=host) as secured:
            left_days = _count_days_left(secured)
    except ssl.SSLCertVerificationError as problem:
        return error(
            check,
            f"The certificate of {shown} is not believed: {problem.verify_message}.",
            f"{look}    # ca_file: names an authority of your own",
        )
    except OSError as problem:
        return error(check, f"{shown} breaks off the TLS handshake: {problem.strerror or problem}.", look)
    if left_days is not None and left_days < CERTIFICATE_DAYS:
        text = f"{shown} listens; its certificate ends in {left_days} days."
        return warning(check, text, f"{look} | openssl x509 -noout -dates")
    return ok(check, f"{shown} listens, and its certificate is believed. (Nothing was sent.)")


def _connect(addresses: Sequence[Any], timeout_s: float) -> tuple[socket.socket | None, str]:
    """A connection to the first address that takes one; else why the last did not."""
    trouble = "it has no address"
    until_s = time.monotonic() + timeout_s
    for family, kind, protocol, _, address in addresses:
        connection = socket.socket(family, kind, protocol)
        connection.settimeout(max(0.1, until_s - time.monotonic()))
        try:
            connection.connect(address)
        except OSError as problem:
            trouble = problem.strerror or str(problem)
            connection.close()
        else:
            return connection, ""
    return None, trouble


def _count_days_left(secured: ssl.SSLSocket) -> int | None:
    certificate = secured.getpeercert() or {}
    ends = certificate.get("notAfter")
    return int((ssl.cert_time_to_seconds(ends) - time.time()) // 86_400) if isinstance(ends, str) else None


def _send(webhook: WebhookSettings) -> Finding:
    """A test alert, which says of itself that it is one."""
    from watchdogd.cli.test_alert import make_test_alert  # noqa: PLC0415 - only with --send
    from watchdogd.entities import Level  # noqa: PLC0415
    from watchdogd.ports import SystemClock  # noqa: PLC0415
    from watchdogd.write.webhook import WebhookSink  # noqa: PLC0415

    clock = SystemClock()
    alert = make_test_alert(Level(webhook.min_level), clock)

    async def send() -> None:
        sink = WebhookSink(webhook, clock)
        try:
            await sink.send(alert, kind="alert", delivery_id=f"alert_{alert.id}")
        finally:
            await sink.close()

    check = f"webhook {webhook.name}"
    try:
        asyncio.run(send())
    except DeliveryError as problem:
        return error(check, f"The test alert was not taken: {problem}.", f"watchdogd test-alert --sink {webhook.name}")
    return ok(check, "The test alert was taken.")
