"""Requests read and checked: bodies within their limit, queries by name, each mistake said with its place."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeVar

import msgspec

from watchdogd.api.problems import ProblemError

if TYPE_CHECKING:
    from starlette.requests import Request

T = TypeVar("T", bound=msgspec.Struct)

_NUMBER = re.compile(r"-?[0-9]{1,18}")


async def read_body(request: Request, kind: type[T], most_bytes: int) -> T:
    """The JSON body as a Struct. Raises ProblemError: 411, 413, 415, 400, 422."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().casefold()
    if media_type != "application/json":
        raise ProblemError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send JSON, with Content-Type: application/json")
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > most_bytes:
            raise ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body may have {most_bytes} bytes")
    try:
        return msgspec.json.decode(bytes(body), type=kind)
    except msgspec.ValidationError as error:
        raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProblemError(HTTPStatus.BAD_REQUEST, f"no JSON: {error}") from None


def read_query(request: Request, kind: type[T]) -> T:
    """The query's parameters as a Struct. Raises ProblemError: 422."""
    given: dict[str, str | int] = {}
    numbers = {field.name for field in msgspec.structs.fields(kind) if isinstance(field.default, int)}
    for name, value in request.query_params.multi_items():
        if name in given:
            raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, f"the parameter {name[:60]!r} is there twice")
        given[name] = int(value) if name in numbers and _NUMBER.fullmatch(value) else value
    try:
        return msgspec.convert(given, type=kind)
    except msgspec.ValidationError as error:
        raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from None
