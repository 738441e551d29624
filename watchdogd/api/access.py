"""Who may ask what, how often: tokens with a scope, Host and Origin, rates."""

from __future__ import annotations

import hashlib
import hmac
from enum import IntEnum
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from watchdogd.api_settings import ApiSettings
    from watchdogd.ports import Clock

_BEARER = "bearer "
_MOST_PRINCIPALS = 256


class Scope(IntEnum):
    """What somebody may do; each includes those before it."""

    NOBODY = 0
    READ = 1
    WRITE = 2


class Principal(msgspec.Struct, frozen=True):
    """Who asks: by the name of the token, or `socket` for who may open the Unix socket."""

    name: str
    scope: Scope


NOBODY = Principal("nobody", Scope.NOBODY)
LOCAL = Principal("socket", Scope.WRITE)


class Gate:
    """Decides about one listener's requests. `is_local`: a Unix socket, whose file's mode says who may open it."""

    def __init__(self, settings: ApiSettings, clock: Clock, *, is_local: bool) -> None:
        self._is_local = is_local
        self._tokens = [
            (_digest(one.token), Principal(one.name, Scope[one.scope.upper()])) for one in settings.tokens if one.token
        ]
        self._hosts = frozenset(name.casefold() for name in list_hosts(settings))
        self._requests = Rates(settings.requests_per_minute, clock)
        self._questions = Rates(settings.questions_per_minute, clock)

    def identify(self, headers: Mapping[str, str]) -> Principal:
        """Who it is; every known token is compared, in constant time, whichever it was."""
        if self._is_local:
            return LOCAL
        given = headers.get("authorization", "")
        digest = _digest(given[len(_BEARER) :].strip() if given[: len(_BEARER)].casefold() == _BEARER else "")
        found = NOBODY
        for known, principal in self._tokens:
            if hmac.compare_digest(known, digest):
                found = principal
        return found

    def complain_origin(self, headers: Mapping[str, str]) -> str | None:
        """Say why a browser may not be led here: a name that is not ours (DNS rebinding), a page that is not (CSRF)."""
        host = headers.get("host", "").casefold()
        if not self._is_local and host not in self._hosts:
            return "this Host is not served here (api.hosts names further ones)"
        origin = headers.get("origin")
        if origin is not None and origin.casefold().partition("://")[2] not in self._hosts:
            return "requests from pages of other origins are refused"
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return "requests from pages of other sites are refused"
        return None

    def wait_s(self, principal: Principal, *, question: bool) -> float:
        """Take one request from the principal's budget: 0, or how long to wait before the next one is answered."""
        return (self._questions if question else self._requests).take(principal.name)


class Rates:
    """A token bucket for each name: `per_minute` at once, filled again evenly."""

    def __init__(self, per_minute: int, clock: Clock) -> None:
        self._most = float(per_minute)
        self._clock = clock
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, name: str) -> float:
        """0 where one may pass; else seconds until one may."""
        now_s = self._clock.monotonic_s()
        left, since_s = self._left.get(name, (self._most, now_s))
        left = min(self._most, left + (now_s - since_s) * self._most / 60)
        if len(self._left) >= _MOST_PRINCIPALS and name not in self._left:
            self._left.clear()
        if left < 1:
            self._left[name] = (left, now_s)
            return (1 - left) * 60 / self._most
        self._left[name] = (left - 1, now_s)
        return 0.0


def list_hosts(settings: ApiSettings) -> Sequence[str]:
    """What may stand in Host: where it listens, localhost on that port, and the names that the settings add."""
    if not settings.listen:
        return settings.hosts
    port = settings.listen.rpartition(":")[2]
    names = [settings.listen, f"localhost:{port}"]
    for host in settings.hosts:
        names += [host, f"{host}:{port}"]
    return names


def _digest(token: str | None) -> bytes:
    return hashlib.sha256((token or "").encode("utf-8", "surrogateescape")).digest()
