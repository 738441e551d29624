"""Every log that there is, and bytes that are no log."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.decode.conftest import decode_lines, make_event, make_records
from watchdogd.decode.decoder import COUNTERS, Decoder
from watchdogd.decode.document import event_document
from watchdogd.resources import find_resource
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = json.loads((find_resource("schemas") / "event.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def list_logs(corpora: Path) -> list[Path]:
    return sorted(
        path for path in corpora.rglob("*") if path.is_file() and ".log" in path.name and path.suffix != ".xz"
    )


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_counters_are_known_from_the_start() -> None:
    counters = Counters()
    Decoder(counters, live=True)
    assert set(COUNTERS) <= set(counters.snapshot())


@pytest.mark.slow
def test_every_log_decodes_and_a_sample_of_it_keeps_the_contract(corpora: Path) -> None:
    logs = list_logs(corpora)
    assert len(logs) > 180
    for log in logs:
        events = decode_lines(log.read_bytes().split(b"\n"))
        assert all(event.views for event in events)
        for event in events[:: max(1, len(events) // 3)]:
            VALIDATOR.validate(json.loads(msgspec.json.encode(event_document(event))))


def test_garbage_is_counted_and_closed() -> None:
    counters = Counters()
    decoder = Decoder(counters, live=False)
    records = make_records([b"\x00\xff\xfe", b"----", b"time->now", b"", b"hello"], positions=True)
    assert decoder.feed(records, 0).ignored == [record.position for record in records]
    assert counters.get("decode_garbage_lines_total") == 2


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_random_bytes_never_crash(lines: list[bytes]) -> None:
    decode_lines(lines)


@given(
    st.lists(
        st.tuples(st.sampled_from([b"SYSCALL", b"EOE", b"UNKNOWN[1]", b"0", b"USER_CMD"]), st.binary(max_size=100)),
        max_size=10,
    )
)
def test_records_of_random_bytes_make_documents(records: list[tuple[bytes, bytes]]) -> None:
    lines = [b"type=" + kind + b" msg=audit(1.000:1): " + body for kind, body in records]
    for event in decode_lines(lines):
        VALIDATOR.validate(json.loads(msgspec.json.encode(event_document(event))))


def test_what_a_torn_line_swallowed_is_missed() -> None:
    """auditd wrote on behind half a line: the record that stands there shows by what it lacks."""
    first, second, third = make_event(1), make_event(2), make_event(3)
    events = decode_lines([*first[:-1], first[-1][:40] + second[0], *second[1:], *third])
    assert [(event.id.serial, bool(event.warnings)) for event in events] == [(1, False), (2, True), (3, False)]
    counters = Counters()
    alone = b"type=USER_CMD msg=audit(1700000000.008:2): pid=1"
    events = decode_lines([*first[:-1], first[-1][:70] + alone, *third], counters)
    assert [event.id.serial for event in events] == [1, 3]
    assert counters.get("decode_serial_gaps_total") == 1
