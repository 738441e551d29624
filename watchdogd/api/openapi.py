"""The OpenAPI 3.1 document, made of the types that requests are read by and answers written from."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec

from watchdogd import __version__
from watchdogd.api import ai, alerts
from watchdogd.api.problems import MEDIA_TYPE, ProblemDetails
from watchdogd.reports import OpinionReport, StatusReport
from watchdogd.resources import find_resource

if TYPE_CHECKING:
    from collections.abc import Mapping

_REF = "#/components/schemas/{name}"
_BODIES = (ai.Query, ai.Anomaly, alerts.Opinion)
_ANSWERS = (ai.Health, ai.QueryAnswer, ai.Analysis, alerts.AlertsPage, alerts.AlertDetails, OpinionReport, StatusReport)
_QUERIES = (alerts.AlertsQuery, alerts.AlertQuery)
_PROBLEMS = {
    400: "The body is no JSON.",
    401: "No token, or an unknown one.",
    403: "The token's scope does not allow it, or a page of another origin asks.",
    404: "There is none.",
    405: "Not by this method.",
    409: "Several begin so.",
    413: "The body is too large.",
    415: "The body is not application/json.",
    421: "This Host is not served here.",
    422: "A value is not as it must be.",
    429: "Too many requests; Retry-After says when to ask again.",
    503: "The database, or the model, does not answer now.",
}
_ALWAYS = (401, 403, 421, 429)


@cache
def build_document() -> dict[str, Any]:
    """The document."""
    _, components = msgspec.json.schema_components((*_BODIES, *_ANSWERS, *_QUERIES, ProblemDetails), ref_template=_REF)
    queries = {kind.__name__: components.pop(kind.__name__) for kind in _QUERIES}
    components["Alert"] = _read_alert_schema()
    either = [{"required": [name], "properties": {name: {"type": "object"}}} for name in ("metric", "event")]
    components["Anomaly"] |= {"oneOf": either}
    components["Query"]["properties"]["prompt"]["pattern"] = r"\S"
    components["Query"]["properties"]["max_tokens"]["type"] = "integer"
    components["ToldProcess"]["properties"]["pid"]["type"] = "integer"
    components["AlertsPage"]["properties"]["alerts"]["items"] = _refer("Alert")
    components["AlertDetails"]["properties"]["alert"] = _refer("Alert")
    components["AlertDetails"]["properties"]["repeats"]["items"] = _refer("Alert")
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "watchdogd",
            "version": __version__,
            "description": "Alerts of a host, triaged by its local model. Over TCP each request bears a token.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}],
        "paths": _list_paths(queries),
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "responses": {
                str(status): {"description": text, "content": {MEDIA_TYPE: {"schema": _refer("ProblemDetails")}}}
                for status, text in _PROBLEMS.items()
            },
        },
    }
    plain: dict[str, Any] = json.loads(msgspec.json.encode(document))
    return plain


def _list_paths(queries: Mapping[str, Any]) -> dict[str, Any]:
    alert_id = {
        "name": "id",
        "in": "path",
        "required": True,
        "description": "An alert's id, or how it begins.",
        "schema": {"type": "string", "pattern": "^[0-9a-f]{8,64}$"},
    }
    page, one = (_list_parameters(queries[name]) for name in ("AlertsQuery", "AlertQuery"))
    events = {
        "text/event-stream": {
            "schema": {"type": "string", "description": "With `stream`: events `token`, then `done` or `error`."}
        }
    }
    text = {"200": {"description": "Yes.", "content": {"text/plain": {"schema": {"type": "string"}}}}}
    return {
        "/api/v1/ai/health": {"get": _operate("getAiHealth", "How the model's server is.", "Health")},
        "/api/v1/ai/query": {
            "post": _operate("query", "Ask the model a free question.", "QueryAnswer", "Query", (503,), also=events)
        },
        "/api/v1/ai/analyze-anomaly": {
            "post": _operate(
                "analyzeAnomaly", "Judge a metric or an event as an alert would be.", "Analysis", "Anomaly", (503,)
            )
        },
        "/api/v1/alerts": {
            "get": _operate(
                "listAlerts", "Alerts, the newest first.", "AlertsPage", problems=(404, 422, 503), parameters=page
            )
        },
        "/api/v1/alerts/{id}": {
            "parameters": [alert_id],
            "get": _operate(
                "getAlert", "One alert, with its original lines.", "AlertDetails", None, (404, 409, 422, 503), one
            ),
        },
        "/api/v1/alerts/{id}/verdict": {
            "parameters": [alert_id],
            "post": _operate(
                "giveVerdict", "Your own verdict on an alert.", "OpinionReport", "Opinion", (404, 409, 503)
            ),
        },
        "/api/v1/status": {"get": _operate("getStatus", "The daemon as it is now.", "StatusReport")},
        "/api/v1/openapi.json": {
            "get": {
                "operationId": "getDocument",
                "summary": "This document.",
                "responses": {
                    "200": {"description": "It.", "content": {"application/json": {"schema": {"type": "object"}}}}
                }
                | _refuse(_ALWAYS),
            }
        },
        "/metrics": {
            "get": {
                "operationId": "getMetrics",
                "summary": "What the daemon counts, in Prometheus' text format.",
                "responses": text | _refuse((*_ALWAYS, 503)),
            }
        },
        "/healthz": {
            "get": {
                "operationId": "isAlive",
                "summary": "Whether it lives.",
                "security": [],
                "responses": text | _refuse((403, 421, 429)),
            }
        },
        "/readyz": {
            "get": {
                "operationId": "isReady",
                "summary": "Whether it reads and stores.",
                "security": [],
                "responses": text
                | {"503": {"description": "No.", "content": {"text/plain": {"schema": {"type": "string"}}}}}
                | _refuse((403, 421, 429)),
            }
        },
    }


def _operate(
    name: str,
    summary: str,
    answer: str,
    body: str | None = None,
    problems: tuple[int, ...] = (),
    parameters: list[dict[str, Any]] | None = None,
    *,
    also: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """One operation, with all that it may answer."""
    operation: dict[str, Any] = {"operationId": name, "summary": summary}
    if parameters:
        operation["parameters"] = parameters
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": _refer(body)}}}
        problems = (*problems, 400, 413, 415, 422)
    content = {"application/json": {"schema": _refer(answer)}} | dict(also or {})
    operation["responses"] = {"200": {"description": "The answer.", "content": content}} | _refuse(
        (*_ALWAYS, *problems)
    )
    return operation


def _refuse(statuses: tuple[int, ...]) -> dict[str, Any]:
    return {str(status): {"$ref": f"#/components/responses/{status}"} for status in sorted(set(statuses))}


def _list_parameters(schema: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A query's parameters, made of the properties of its type."""
    return [{"name": name, "in": "query", "schema": _drop_null(kind)} for name, kind in schema["properties"].items()]


def _drop_null(schema: dict[str, Any]) -> dict[str, Any]:
    """What is not given is left out: in a query there is no null."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    rest = {key: value for key, value in schema.items() if key not in {"anyOf", "default"}}
    return {**rest, **kinds[0]} if len(kinds) == 1 else schema


def _refer(name: str) -> dict[str, str]:
    return {"$ref": _REF.format(name=name)}


def _read_alert_schema() -> dict[str, Any]:
    text = (find_resource("schemas") / "alert.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text.replace('"#/$defs/', '"#/components/schemas/Alert/$defs/'))
    schema.pop("$schema", None)
    schema.pop("$id", None)
    return schema
