"""The API's routes: who may ask for what, and which answer it is given. One application for each listener."""

from __future__ import annotations

import logging
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from watchdogd.api.access import NOBODY, Gate, Scope
from watchdogd.api.ai import Ai
from watchdogd.api.alerts import Alerts
from watchdogd.api.exposition import CONTENT_TYPE, Exposition
from watchdogd.api.openapi import build_document
from watchdogd.api.problems import ProblemError, as_json, respond
from watchdogd.errors import WatchdogdError
from watchdogd.reports import OutboxRequest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from starlette.requests import Request

    from watchdogd.api.backend import Backend
    from watchdogd.api_settings import ApiSettings

log = logging.getLogger("watchdogd.api")

OPENAPI_PATH = "/api/v1/openapi.json"
_SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}


class Endpoint(NamedTuple):
    """One path and method, and what it takes to ask for it."""

    method: str
    path: str
    handle: Callable[[Request], Awaitable[Response]]
    scope: Scope
    is_question: bool = False
    """It takes the model's time, and has a budget of its own."""


class Api:
    """What all listeners serve."""

    def __init__(self, settings: ApiSettings, backend: Backend) -> None:
        self._backend = backend
        self._exposition = Exposition()
        self._ai = ai = Ai(settings, backend)
        alerts = Alerts(settings, backend)
        self.endpoints: Sequence[Endpoint] = (
            Endpoint("GET", "/api/v1/ai/health", ai.health, Scope.READ),
            Endpoint("POST", "/api/v1/ai/query", ai.query, Scope.WRITE, is_question=True),
            Endpoint("POST", "/api/v1/ai/analyze-anomaly", ai.analyze, Scope.WRITE, is_question=True),
            Endpoint("GET", "/api/v1/alerts", alerts.list_page, Scope.READ),
            Endpoint("GET", "/api/v1/alerts/{id}", alerts.show, Scope.READ),
            Endpoint("POST", "/api/v1/alerts/{id}/verdict", alerts.opine, Scope.WRITE),
            Endpoint("GET", "/api/v1/status", self._show_status, Scope.READ),
            Endpoint("GET", OPENAPI_PATH, self._show_document, Scope.READ),
            Endpoint("GET", "/metrics", self._show_metrics, Scope.READ),
            Endpoint("GET", "/healthz", self._say_alive, Scope.NOBODY),
            Endpoint("GET", "/readyz", self._say_ready, Scope.NOBODY),
        )

    def serve(self, gate: Gate) -> Starlette:
        """The application for one listener."""
        routes: dict[str, dict[str, Endpoint]] = {}
        for endpoint in self.endpoints:
            routes.setdefault(endpoint.path, {})[endpoint.method] = endpoint

        def route(path: str, known: dict[str, Endpoint]) -> Route:
            async def answer(request: Request) -> Response:
                return await self._answer(request, gate, known)

            found = Route(path, answer)
            found.methods = None  # `_admit` says which there are
            return found

        async def refuse(request: Request, _: Exception) -> Response:
            return await self._answer(request, gate, None)

        application = Starlette(
            routes=[route(path, known) for path, known in routes.items()],
            exception_handlers={HTTPException: refuse},
        )
        application.router.redirect_slashes = False
        return application

    async def _answer(self, request: Request, gate: Gate, known: dict[str, Endpoint] | None) -> Response:
        """Whatever happens, an answer: nothing that a client sends ends the daemon."""
        self._backend.counters.add("api_requests_total")
        try:
            response = await self._admit(request, gate, known)
        except ProblemError as error:
            if error.status < HTTPStatus.INTERNAL_SERVER_ERROR:
                self._backend.counters.add("api_refused_total")
            response = respond(error)
        except Exception:
            log.exception("a request could not be answered: please report this")
            self._backend.counters.add("api_failed_total")
            response = respond(ProblemError(HTTPStatus.INTERNAL_SERVER_ERROR, "the daemon failed to answer"))
        response.headers.update(_SAFE_HEADERS)
        response.headers["Date"] = formatdate(self._backend.clock.now_ms() / 1000, usegmt=True)
        if request.method == "HEAD":
            response.body = b""
        return response

    async def _admit(self, request: Request, gate: Gate, known: dict[str, Endpoint] | None) -> Response:
        complaint = gate.complain_origin(request.headers)
        if complaint is not None:
            raise ProblemError(
                HTTPStatus.MISDIRECTED_REQUEST if "Host" in complaint else HTTPStatus.FORBIDDEN, complaint
            )
        principal = gate.identify(request.headers)
        if known is None:
            if principal is NOBODY:
                raise _ask_for_token()
            raise ProblemError(HTTPStatus.NOT_FOUND, "nothing is here: GET /api/v1/openapi.json lists what is")
        endpoint = known.get("GET" if request.method == "HEAD" else request.method)
        needed = endpoint.scope if endpoint is not None else min(one.scope for one in known.values())
        if needed > Scope.NOBODY and principal is NOBODY:
            raise _ask_for_token()
        if endpoint is None:
            allowed = ", ".join(sorted({*known, *(("HEAD",) if "GET" in known else ())}))
            raise ProblemError(HTTPStatus.METHOD_NOT_ALLOWED, f"here one may {allowed}", {"Allow": allowed})
        if principal.scope < needed:
            raise ProblemError(HTTPStatus.FORBIDDEN, f"the token {principal.name!r} has no {needed.name.lower()} scope")
        wait_s = gate.wait_s(principal, question=endpoint.is_question)
        if wait_s > 0:
            retry_after = {"Retry-After": str(int(wait_s) + 1)}
            raise ProblemError(HTTPStatus.TOO_MANY_REQUESTS, "more requests in a minute than are allowed", retry_after)
        request.state.principal = principal
        return await endpoint.handle(request)

    async def _show_status(self, _: Request) -> Response:
        return as_json(await self._backend.status())

    async def _show_document(self, _: Request) -> Response:
        return as_json(build_document())

    async def _show_metrics(self, _: Request) -> Response:
        backend = self._backend
        try:
            outbox = await backend.list_outbox(OutboxRequest(limit=1))
            status = await backend.status()
        except WatchdogdError as error:
            raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from None
        health = await self._ai.look() if backend.triage().settings.enabled else None
        return Response(self._exposition.render(backend.counters, status, health, outbox), media_type=CONTENT_TYPE)

    async def _say_alive(self, _: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def _say_ready(self, _: Request) -> Response:
        """200 once rules are loaded and sources open, which is before anything is served; 503 where it is blind."""
        status = await self._backend.status()
        running = any(source.running for source in status.sources)
        if running and not status.gauges.get("store_refusing"):
            return PlainTextResponse("ready\n")
        return PlainTextResponse("not ready\n", 503)


def _ask_for_token() -> ProblemError:
    headers = {"WWW-Authenticate": 'Bearer realm="watchdogd"'}
    return ProblemError(HTTPStatus.UNAUTHORIZED, "send a token: Authorization: Bearer ...", headers)
