"""`/api/v1/alerts*`: the history of alerts, as the JSON contract has them, and the operator's verdicts."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from watchdogd.api.access import Scope
from watchdogd.api.problems import ProblemError, as_json
from watchdogd.api.requests import read_body, read_query
from watchdogd.entities import AlertState, Label, Level
from watchdogd.errors import AmbiguousNameError, StoreError, UnknownNameError, WatchdogdError
from watchdogd.listings import PAGE, AlertRequest, AlertsRequest, Cursor, DeliveryReport, ListedAlert, OpinionGiven
from watchdogd.reports import OpinionRequest
from watchdogd.store.documents import decode_alert
from watchdogd.write.formats.ecs import alert_document
from watchdogd.write.masked import mask_alert

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from watchdogd.api.backend import Backend
    from watchdogd.api_settings import ApiSettings

_CURSOR = re.compile(r"(-?[0-9]{1,15})-([0-9]{1,18})")
_ID = re.compile(r"[0-9a-f]{8,64}")
_Text = Annotated[str, Meta(min_length=1, max_length=200)]


class AlertsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which alerts, the newest first; what is not given does not matter."""

    state: AlertState | None = None
    rule: _Text | None = None
    """Id or title."""
    level: Level | None = None
    verdict: Label | None = None
    user: _Text | None = None
    since: Annotated[str, Meta(max_length=40, extra_json_schema={"format": "date-time"})] | None = None
    """RFC 3339."""
    until: Annotated[str, Meta(max_length=40, extra_json_schema={"format": "date-time"})] | None = None
    limit: Annotated[int, Meta(ge=1, le=PAGE)] = PAGE
    cursor: Annotated[str, Meta(max_length=40, pattern=r"^-?[0-9]{1,15}-[0-9]{1,18}$")] | None = None
    """`next` of the page before."""


class AlertQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one alert is shown."""

    mask: Literal["on", "off"] = "on"
    """`off`, with write scope: secrets as they were."""


class AlertsPage(msgspec.Struct, frozen=True):
    """A page of alerts, each as docs/schemas/alert.schema.json has it."""

    alerts: tuple[dict[str, Any], ...]
    next: str | None
    """`cursor` of the next page; null where there is none."""


class AlertDetails(msgspec.Struct, frozen=True):
    """One alert with its original lines, and what became of it."""

    alert: dict[str, Any]
    deliveries: tuple[DeliveryReport, ...]
    repeats: tuple[dict[str, Any], ...]
    """The newest of those folded into it or inhibited by it."""
    more_repeats: bool
    opinion: OpinionGiven | None
    silence: str


class Opinion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The operator's verdict."""

    label: Literal["malicious", "suspicious", "benign"]
    note: Annotated[str, Meta(max_length=2000)] = ""


class Alerts:
    """Answers about alerts of the past."""

    def __init__(self, settings: ApiSettings, backend: Backend) -> None:
        self._settings = settings
        self._backend = backend

    async def list_page(self, request: Request) -> Response:
        """`GET /api/v1/alerts`."""
        query = read_query(request, AlertsQuery)
        try:
            report = await self._backend.search(_translate(query))
        except StoreError as error:
            raise _explain(error) from None
        following = None if report.next is None else f"{report.next.time_ms}-{report.next.seq}"
        page = AlertsPage(tuple(render(one, masked=True) for one in report.alerts), following)
        return as_json(page, headers=_NO_STORE)

    async def show(self, request: Request) -> Response:
        """`GET /api/v1/alerts/{id}`: by id, or by how it begins."""
        masked = read_query(request, AlertQuery).mask == "on"
        if not masked and request.state.principal.scope < Scope.WRITE:
            raise ProblemError(HTTPStatus.FORBIDDEN, "secrets are shown to tokens with write scope only")
        try:
            report = await self._backend.show(AlertRequest(_read_id(request)))
        except StoreError as error:
            raise _explain(error) from None
        details = AlertDetails(
            alert=render(report.alert, masked=masked),
            deliveries=report.deliveries,
            repeats=tuple(render(one, masked=masked) for one in report.repeats),
            more_repeats=report.more_repeats,
            opinion=report.opinion,
            silence=report.silence,
        )
        return as_json(details, headers=_NO_STORE)

    async def opine(self, request: Request) -> Response:
        """`POST /api/v1/alerts/{id}/verdict`: as `watchdogd verdict`."""
        opinion = await read_body(request, Opinion, self._settings.max_body_bytes)
        try:
            wanted = OpinionRequest(_read_id(request), Label(opinion.label), opinion.note)
            return as_json(await self._backend.take_opinion(wanted), headers=_NO_STORE)
        except WatchdogdError as error:
            raise _explain(error) from None


_NO_STORE = {"Cache-Control": "no-store"}


def render(listed: ListedAlert, *, masked: bool) -> dict[str, object]:
    """The alert's document, with its state of now."""
    alert = decode_alert(bytes(listed.document))
    alert = msgspec.structs.replace(alert, state=listed.state, leader=listed.leader, silence=listed.silence)
    return alert_document(mask_alert(alert) if masked else alert)


def _translate(query: AlertsQuery) -> AlertsRequest:
    return AlertsRequest(
        state=query.state,
        rule=query.rule,
        level=query.level,
        verdict=query.verdict,
        user=query.user,
        since_ms=_read_time(query.since, "since"),
        until_ms=_read_time(query.until, "until"),
        before=_read_cursor(query.cursor),
        limit=query.limit,
    )


def _read_time(text: str | None, name: str) -> int | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return int(moment.timestamp() * 1000)
    except (ValueError, OverflowError):
        detail = f"Expected a moment as 2026-11-23T08:00:00Z - at `$.{name}`"
        raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, detail) from None


def _read_cursor(text: str | None) -> Cursor | None:
    if text is None:
        return None
    found = _CURSOR.fullmatch(text)
    if found is None:
        raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, "Expected `next` of a page before - at `$.cursor`")
    return Cursor(int(found[1]), int(found[2]))


def _read_id(request: Request) -> str:
    text: str = request.path_params["id"].strip().casefold()
    if not _ID.fullmatch(text):
        raise ProblemError(HTTPStatus.NOT_FOUND, "an alert is named by its id, or by at least its first 8 digits")
    return text


def _explain(error: WatchdogdError) -> ProblemError:
    """No alert, several, or a database that cannot be read."""
    status = HTTPStatus.SERVICE_UNAVAILABLE
    if isinstance(error, UnknownNameError):
        status = HTTPStatus.NOT_FOUND
    elif isinstance(error, AmbiguousNameError):
        status = HTTPStatus.CONFLICT
    return ProblemError(status, str(error))
