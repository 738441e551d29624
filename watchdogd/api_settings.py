"""The settings of the HTTP API, and what is checked about them together."""

from __future__ import annotations

import ipaddress
import os
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta

from watchdogd import secret_files
from watchdogd.errors import Place, Problem
from watchdogd.setting_types import FilePath, Settings, Text, Timeout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LEAST_TOKEN_CHARACTERS = 16
_SOCKET_PATH_BYTES = 107


def complain_listen(value: str) -> str | None:
    """Say what is wrong with `ADDRESS:PORT`, None where nothing is; empty means nowhere."""
    if not value:
        return None
    try:
        split_listen(value)
    except ValueError:
        return "must be an IP address and a port, as 127.0.0.1:8000 or [::1]:8000"
    return None


def split_listen(value: str) -> tuple[str, int]:
    """Address and port. Raises ValueError."""
    host, colon, port = value.rpartition(":")
    address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]") if host.startswith("[") else host)
    if not colon or (address.version == 6) is not host.startswith("["):  # noqa: PLR2004 (IPv6)
        raise ValueError(value)
    number = int(port) if port.isascii() and port.isdecimal() else -1
    if not 0 <= number <= 65535:  # noqa: PLR2004 (TCP's ports)
        raise ValueError(value)
    return str(address), number


def complain_socket_path(value: str) -> str | None:
    """Say that no socket can have this name (unix(7): 107 bytes), None where it can."""
    return "must not be longer than 107 bytes" if len(os.fsencode(value)) > _SOCKET_PATH_BYTES else None


class TokenSettings(Settings, frozen=True, kw_only=True):
    """Who may ask over TCP. `token` is complete once loaded."""

    name: Annotated[str, Meta(max_length=64, pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?\Z")]
    token_file: Text
    scope: Literal["read", "write"] = "read"
    token: Annotated[str | None, Meta(extra={"internal": True, "mask": secret_files.mask_all})] = None


class ApiSettings(Settings, frozen=True, kw_only=True):
    """Where the API is served and to whom."""

    enabled: bool = True
    path: Annotated[str, Meta(min_length=1, extra={"path": True, "check": complain_socket_path})] = (
        "/run/watchdogd/api.sock"
    )
    listen: Annotated[str, Meta(extra={"check": complain_listen})] = ""
    hosts: tuple[Text, ...] = ()
    tls_certificate: FilePath | None = None
    tls_key: FilePath | None = None
    tokens: tuple[TokenSettings, ...] = ()
    max_body_bytes: Annotated[int, Meta(ge=1024, le=1 << 24)] = 65_536
    requests_per_minute: Annotated[int, Meta(ge=1, le=1_000_000)] = 300
    questions_per_minute: Annotated[int, Meta(ge=1, le=100_000)] = 10
    question_timeout_s: Timeout = 300.0


def complete_api(
    api: ApiSettings, place_of: Callable[..., Place], search: secret_files.Search, problems: list[Problem]
) -> ApiSettings:
    """The settings with their tokens; what is wrong or unwise is added to `problems`."""
    problems += _check_listen(api, place_of)
    return msgspec.structs.replace(api, tokens=tuple(_complete_tokens(api, place_of, search, problems)))


def _check_listen(api: ApiSettings, place_of: Callable[..., Place]) -> Iterator[Problem]:
    if bool(api.tls_certificate) is not bool(api.tls_key):
        there = "tls_certificate" if api.tls_certificate else "tls_key"
        yield Problem(place_of("api", there), "api.tls_certificate and api.tls_key go together")
    for name in ("tls_certificate", "tls_key"):
        path = getattr(api, name)
        if path is not None and not os.access(path, os.R_OK):
            yield Problem(place_of("api", name), f"api.{name} {path} cannot be read")
    if not api.listen or complain_listen(api.listen):
        return
    here = place_of("api", "listen")
    if not api.tokens:
        yield Problem(here, "api.listen without api.tokens: any account of the host could ask", "name a token_file")
    if not ipaddress.ip_address(split_listen(api.listen)[0]).is_loopback and not api.tls_certificate:
        message = "api.listen is no loopback address: tokens and alerts would travel unencrypted"
        yield Problem(here, message, "give tls_certificate and tls_key, or listen on 127.0.0.1")


def _complete_tokens(
    api: ApiSettings, place_of: Callable[..., Place], search: secret_files.Search, problems: list[Problem]
) -> Iterator[TokenSettings]:
    names: set[str] = set()
    tokens: tuple[TokenSettings | None, ...] = api.tokens
    for index, settings in enumerate(tokens):
        if settings is None:
            continue  # reported when it was converted
        here = ("api", "tokens", index)
        if settings.name in names:
            message = f"api.tokens[{index}].name {settings.name!r} is there twice"
            problems.append(Problem(place_of(*here, "name"), message))
        names.add(settings.name)
        token = secret_files.read_secret(settings.token_file, place_of(*here, "token_file"), search, problems)
        if token is not None and (len(token) < LEAST_TOKEN_CHARACTERS or not token.isascii() or " " in token):
            message = f"the token must be at least {LEAST_TOKEN_CHARACTERS} ASCII characters without spaces"
            problems.append(Problem(place_of(*here, "token_file"), message, "openssl rand -hex 32"))
            token = None
        yield msgspec.structs.replace(settings, token=token)
