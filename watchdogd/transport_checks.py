"""How a webhook is reached: certificates, keys and proxies, tried when settings are read, not when an alert is due."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec

from watchdogd.errors import Problem
from watchdogd.secret_files import complain_url, find_readable, has_password, read_secret

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from watchdogd.errors import Place
    from watchdogd.secret_files import Search


class _Webhook(Protocol):
    """The parts of a webhook's settings that say how it is reached."""

    @property
    def url(self) -> str: ...
    @property
    def ca_file(self) -> str | None: ...
    @property
    def client_certificate(self) -> str | None: ...
    @property
    def client_key(self) -> str | None: ...
    @property
    def proxy(self) -> str: ...
    @property
    def proxy_file(self) -> str | None: ...


WebhookT = TypeVar("WebhookT", bound=msgspec.Struct)


def make_context(ca_file: str | None, certificate: str | None, key: str | None) -> ssl.SSLContext:
    """TLS 1.2 or newer, the receiver's certificate checked by `ca_file` or the system's store, ours shown if asked for.

    Raises OSError (ssl.SSLError is one).
    """
    import ssl  # noqa: PLC0415 - start-up of commands that read settings and send nothing

    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if certificate is not None:
        context.load_cert_chain(certificate, key, password=lambda: "")  # else OpenSSL would ask the terminal for one
    return context


def complete_transport(
    webhook: WebhookT, place_of: Callable[..., Place], search: Search, problems: list[Problem]
) -> WebhookT:
    """Find what a webhook names by file, read its proxy, and report what cannot be used."""
    settings: _Webhook = webhook  # type: ignore[assignment]  # WebhookSettings, which this module must not import
    found: dict[str, str | None] = {}
    for name in ("client_certificate", "client_key"):
        given: str | None = getattr(settings, name)
        if given is not None:
            path = find_readable(given, place_of(name), search, problems, is_secret=name == "client_key")
            found[name] = None if path is None else str(path)
    if settings.client_key is not None and settings.client_certificate is None:
        message = "client_key without client_certificate"
        problems.append(Problem(place_of("client_key"), message, "the certificate that the key belongs to"))
    elif None not in found.values():
        _try_certificate(settings.ca_file, found, place_of, problems)
    if settings.client_certificate is not None and settings.url.startswith("http:"):
        message = "client_certificate is not used: the URL begins with http://"
        problems.append(Problem(place_of("client_certificate"), message, "use https://", "warning"))
    proxy = _complete_proxy(settings, place_of, search, problems)
    return msgspec.structs.replace(webhook, **found, proxy=proxy)


def _try_certificate(
    ca_file: str | None, found: dict[str, str | None], place_of: Callable[..., Place], problems: list[Problem]
) -> None:
    if ca_file is not None and os.access(ca_file, os.R_OK):
        try:
            make_context(ca_file, None, None)
        except OSError:
            problems.append(Problem(place_of("ca_file"), f"{ca_file} holds no certificate in PEM"))
    certificate, key = found.get("client_certificate"), found.get("client_key")
    if certificate is None:
        return
    try:
        make_context(None, certificate, key)
    except OSError as error:
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            problems.append(Problem(place_of("client_key"), f"{key} is not the key of {certificate}"))
            return
        what = f"{certificate} and its key" if key is not None else f"{certificate}, which must hold its key, too,"
        hint = "both in PEM, the key without a passphrase"
        problems.append(Problem(place_of("client_certificate"), f"{what} cannot be used", hint))


def _complete_proxy(settings: _Webhook, place_of: Callable[..., Place], search: Search, problems: list[Problem]) -> str:
    if settings.proxy and settings.proxy_file is not None:
        message = "both of proxy and proxy_file"
        problems.append(Problem(place_of("proxy_file"), message, "one of them says by way of whom alerts go"))
    if settings.proxy_file is None:
        if has_password(settings.proxy):
            message = "the proxy's URL holds a password"
            problems.append(Problem(place_of("proxy"), message, "proxy_file keeps it out of here", "warning"))
        return settings.proxy
    proxy = read_secret(settings.proxy_file, place_of("proxy_file"), search, problems)
    complaint = complain_url(proxy) if proxy is not None else None
    if complaint is not None:
        problems.append(Problem(place_of("proxy_file"), f"the URL in {settings.proxy_file} {complaint}"))
        return ""
    return proxy or ""
