"""`watchdogd decode FILE...`: audit logs as events, readable or as JSON."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from watchdogd.entities import Event, FieldMap

HELP = "show recorded audit logs as events, every field interpreted"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("files", nargs="+", metavar="FILE", help="audit log, also .gz .xz .zst; - is standard input")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="json: one event a line")


def run(args: argparse.Namespace) -> int:
    """Print every event. 0 fine; unreadable input raises SourceError, after what could be read was printed."""
    from watchdogd.cli.losses import report_losses  # noqa: PLC0415 - start-up of other commands
    from watchdogd.collect.files import read_files  # noqa: PLC0415
    from watchdogd.decode.decoder import Decoder  # noqa: PLC0415
    from watchdogd.telemetry import Counters  # noqa: PLC0415

    counters = Counters()
    decoder = Decoder(counters, live=False)
    show = _format_json if args.format == "json" else _format_text
    try:
        for records in read_files(args.files, counters):
            _print(decoder.feed(records, 0).events, show)
    finally:
        _print(decoder.drain().events, show)
        sys.stdout.buffer.flush()
    report_losses(counters)
    return 0


def _print(events: list[Event], show: Callable[[Event], bytes]) -> None:
    sys.stdout.buffer.write(b"".join(map(show, events)))


def _format_json(event: Event) -> bytes:
    import msgspec  # noqa: PLC0415 - start-up of other commands

    from watchdogd.decode.document import event_document  # noqa: PLC0415

    return msgspec.json.encode(event_document(event)) + b"\n"


def _format_text(event: Event) -> bytes:
    """As `ausearch -i`, with times in UTC and the Sigma views below the records; nothing in it moves a cursor."""
    from watchdogd.write.formats.text import escape_controls  # noqa: PLC0415

    return "".join(f"{escape_controls(line)}\n" for line in _list_lines(event)).encode("utf-8", "backslashreplace")


def _list_lines(event: Event) -> Iterator[str]:
    yield "----"
    when = _format_time(event.id.time_ms)
    node = f"node={event.id.node} " if event.id.node is not None else ""
    for record in event.records:
        fields = " ".join(f"{name}={value}" for name, _, value in record.fields)
        yield f"{node}type={record.type} msg=audit({when}:{event.id.serial}): {fields}".rstrip()
    for view in event.views:
        yield f"  {view.category} {view.action} {view.outcome}: {_format_fields(view.fields)}"
    for warning in event.warnings:
        yield f"  warning: {warning}"


def _format_fields(fields: FieldMap) -> str:
    return " ".join(
        f"{name}={', '.join(map(str, value)) if isinstance(value, tuple) else value}" for name, value in fields.items()
    )


def _format_time(time_ms: int) -> str:
    try:
        text = datetime.fromtimestamp(time_ms // 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError):  # a year that the calendar lacks
        text = str(time_ms // 1000)
    return f"{text}.{time_ms % 1000:03d}"
