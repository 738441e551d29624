"""Alerts as the database keeps them: JSON that a person can read with the sqlite3 shell."""

from __future__ import annotations

from typing import Any

import msgspec

from watchdogd.entities import Alert

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Alert)


def encode_alert(alert: Alert) -> bytes:
    r"""UTF-8 JSON of an alert; never fails on what the host put into it.

    Lone surrogates, which JSON cannot hold, are escaped as `\udcNN`.
    """
    try:
        return _encoder.encode(alert)
    except UnicodeEncodeError:
        return _encoder.encode(_escape(msgspec.structs.asdict(alert)))


def escape_text(text: str) -> str:
    r"""Text as SQLite and JSON can hold it: a lone surrogate (a byte that was not UTF-8) becomes `\udcNN`."""
    return text.encode("utf-8", "backslashreplace").decode()


def decode_alert(document: bytes) -> Alert:
    """The alert again. Raises msgspec.DecodeError where the document is none."""
    return _decoder.decode(document)


def _escape(value: Any) -> Any:  # noqa: ANN401 - any part of a document
    if isinstance(value, msgspec.Struct):
        return _escape(msgspec.structs.asdict(value))
    if isinstance(value, dict):
        return {_escape(key): _escape(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_escape(part) for part in value]
    if isinstance(value, str):
        return escape_text(value)
    return value
