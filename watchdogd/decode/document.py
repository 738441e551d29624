"""The Event contract: a line of `watchdogd decode --format json` (docs/schemas/event.schema.json)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from watchdogd.decode.record import escape_bytes

if TYPE_CHECKING:
    from watchdogd.entities import AuditRecord, Event, EventId


def event_document(event: Event) -> dict[str, Any]:
    r"""Plain data for one event; bytes that are not UTF-8 are written `\xNN`, everything else stays as it was."""
    return {
        "id": _describe_id(event.id),
        "records": [_describe_record(record) for record in event.records],
        "views": [msgspec.to_builtins(view) for view in event.views],
        "process": msgspec.to_builtins(event.process),
        "lineage": [msgspec.to_builtins(process) for process in event.lineage],
        "warnings": list(event.warnings),
    }


def _describe_id(event_id: EventId) -> dict[str, Any]:
    described: dict[str, Any] = {
        "source": event_id.source,
        "node": event_id.node,
        "time_ms": event_id.time_ms,
        "serial": event_id.serial,
    }
    if event_id.name:
        described["name"] = event_id.name
    return described


def _describe_record(record: AuditRecord) -> dict[str, Any]:
    return {
        "type": record.type,
        "raw": escape_bytes(record.line),
        "fields": [list(triple) for triple in record.fields],
    }
