"""What is answered where something is wrong: problem details (RFC 9457)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from starlette.responses import Response

if TYPE_CHECKING:
    from http import HTTPStatus

MEDIA_TYPE = "application/problem+json"


class ProblemDetails(msgspec.Struct, frozen=True, omit_defaults=False):
    """A problem, for programs and people."""

    title: str
    status: int
    detail: str
    type: str = "about:blank"


class ProblemError(Exception):
    """Ends a request with a problem."""

    def __init__(self, status: HTTPStatus, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers or {}


def respond(error: ProblemError) -> Response:
    """The problem as an answer."""
    problem = ProblemDetails(error.status.phrase, error.status.value, error.detail)
    return Response(msgspec.json.encode(problem), error.status.value, error.headers, MEDIA_TYPE)


def as_json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:  # noqa: ANN401
    """Anything that msgspec encodes, as an answer."""
    return Response(msgspec.json.encode(value), status, headers, "application/json")
