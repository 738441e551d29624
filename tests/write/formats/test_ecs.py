"""The alert's document: a contract that other programs rely on."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdogd.entities import Alert, EventId, Label, Level, Process, ProcessKey, Rule, Verdict
from watchdogd.resources import find_resource
from watchdogd.write.formats.ecs import alert_document, format_time

if TYPE_CHECKING:
    from collections.abc import Callable

VALIDATOR = jsonschema.Draft202012Validator(
    json.loads((find_resource("schemas") / "alert.schema.json").read_text()),
    format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER,
)


def as_json(alert: Alert) -> dict[str, object]:
    document = json.loads(msgspec.json.encode(alert_document(alert)))
    assert isinstance(document, dict)
    return document


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(VALIDATOR.schema)


def test_document_of_a_full_alert(make_alert: Callable[..., Alert]) -> None:
    document = as_json(make_alert())
    VALIDATOR.validate(document)
    assert document["@timestamp"] == "2025-07-20T08:26:40.123Z"
    assert document["event"] == {
        "kind": "alert",
        "category": ["process"],
        "type": ["start"],
        "action": "executed",
        "outcome": "success",
        "module": "watchdogd",
        "dataset": "audit_log",
        "severity": 3,
        "reason": 'root (login alice) ran "/usr/bin/cat /etc/shadow" from bash < sshd',
    }
    assert document["host"] == {"name": "web01"}
    assert document["rule"] == {"id": "5f0f9e9e-0000-4000-8000-000000000001", "name": "Shadow file read"}
    assert document["process"] == {
        "pid": 4000,
        "name": "cat",
        "executable": "/usr/bin/cat",
        "args": ["/usr/bin/cat", "/etc/shadow"],
        "command_line": "/usr/bin/cat /etc/shadow",
        "working_directory": "/root",
        "parent": {
            "pid": 3999,
            "name": "bash",
            "executable": "/bin/bash",
            "args": ["/bin/bash", "-i"],
            "command_line": "/bin/bash -i",
            "working_directory": "/root",
        },
    }
    assert document["user"] == {"name": "root", "id": "0", "audit": {"name": "alice", "id": "1000"}}
    assert document["threat"] == {"technique": {"id": ["T1003.008"]}}
    own = document["watchdogd"]
    assert isinstance(own, dict)
    assert own["alert_id"] == "a1b2c3"
    assert own["events"] == [{"node": None, "time_ms": 1753000000123, "serial": 4567}]
    assert own["last_seen"] == "2025-07-20T08:26:40.128Z"
    assert own["verdict"]["label"] == "malicious"
    assert own["lineage"][1]["executable"] == "/usr/sbin/sshd"


def test_nothing_known_still_fits_the_schema(make_alert: Callable[..., Alert]) -> None:
    alert = make_alert(process=None, lineage=(), verdict=None, host="", action="", outcome="", category="auditd")
    document = as_json(alert)
    VALIDATOR.validate(document)
    assert "process" not in document
    assert "user" not in document
    own = document["watchdogd"]
    assert isinstance(own, dict)
    assert own["verdict"]["label"] == "untriaged"
    assert own["verdict"]["by"] == "none"


def test_the_parent_is_named_by_pid_where_its_process_is_unknown(make_alert: Callable[..., Alert]) -> None:
    document = as_json(make_alert(lineage=()))
    VALIDATOR.validate(document)
    process = document["process"]
    assert isinstance(process, dict)
    assert process["parent"] == {"pid": 3999}


@pytest.mark.parametrize("place", [("watchdogd",), ("watchdogd", "verdict"), ("process",), ("process", "parent"), ()])
def test_the_schema_refuses_keys_it_does_not_know(make_alert: Callable[..., Alert], place: tuple[str, ...]) -> None:
    document = as_json(make_alert())
    inner: dict[str, object] = document
    for key in place:
        following = inner[key]
        assert isinstance(following, dict)
        inner = following
    inner["surprise"] = 1
    assert not VALIDATOR.is_valid(document)


def test_a_correlation_tells_its_group_and_its_number(make_alert: Callable[..., Alert]) -> None:
    plain = as_json(make_alert())["watchdogd"]
    assert isinstance(plain, dict)
    assert plain["correlation"] is None
    matched = {"User": "b\udcffob", "SourceIp": "10.0.0.1", "count": "11+"}
    document = as_json(make_alert(is_correlation=True, matched=matched))
    VALIDATOR.validate(document)
    own = document["watchdogd"]
    assert isinstance(own, dict)
    group = {"User": "b\\xffob", "SourceIp": "10.0.0.1"}
    assert own["correlation"] == {"measure": "count", "number": "11+", "group": group}


@pytest.mark.parametrize("key", ["late", "verdict", "lines", "group_key", "correlation"])
def test_the_schema_misses_a_key_under_watchdogd(make_alert: Callable[..., Alert], key: str) -> None:
    document = as_json(make_alert())
    own = document["watchdogd"]
    assert isinstance(own, dict)
    del own[key]
    assert not VALIDATOR.is_valid(document)


@given(st.integers(min_value=0, max_value=253_402_300_799_999))
def test_times_read_back_as_they_were(time_ms: int) -> None:
    moment = datetime.fromisoformat(format_time(time_ms))
    assert round(moment.timestamp() * 1000) == time_ms


@pytest.mark.parametrize(
    ("time_ms", "text"), [(10**20, "9999-12-31T23:59:59.999Z"), (-(10**20), "0001-01-01T00:00:00.000Z")]
)
def test_impossible_times_are_the_nearest_possible(time_ms: int, text: str) -> None:
    assert format_time(time_ms) == text


TEXTS = st.text(st.characters(codec=None), max_size=12)
"""Any code point, lone surrogates included."""
PROCESSES = st.builds(
    Process,
    key=st.builds(ProcessKey, boot=TEXTS, pid=st.integers(), start_ms=st.integers()),
    pid=st.integers(min_value=-(2**31), max_value=2**31),
    ppid=st.none() | st.integers(min_value=0, max_value=2**31),
    exe=st.none() | TEXTS,
    comm=st.none() | TEXTS,
    argv=st.lists(TEXTS, max_size=3).map(tuple),
    cwd=st.none() | TEXTS,
    uid=st.none() | st.integers(min_value=0, max_value=2**32),
    user=st.none() | TEXTS,
    auid=st.none() | st.integers(min_value=0, max_value=2**32),
    login=st.none() | TEXTS,
    session=st.none(),
    tty=st.none(),
)
ALERTS = st.builds(
    Alert,
    id=st.just("x"),
    time_ms=st.integers(),
    rule=st.builds(Rule, id=st.just("r"), title=st.just("t"), level=st.sampled_from(Level)),
    level=st.sampled_from(Level),
    source=TEXTS,
    category=st.sampled_from(["process_creation", "file_event", "network_connection", "host_metrics", "auditd"]),
    action=TEXTS,
    outcome=TEXTS,
    events=st.lists(
        st.builds(
            EventId, source=TEXTS, node=st.none() | TEXTS, time_ms=st.integers(), serial=st.integers(0, 2**64 - 1)
        ),
        max_size=2,
    ).map(tuple),
    fields=st.dictionaries(
        st.sampled_from(["TargetFilename", "DestinationIp", "DestinationPort", "metric", "value", "baseline"]),
        st.none() | st.integers() | TEXTS | st.tuples(TEXTS),
    ),
    matched=st.just({}),
    process=st.none() | PROCESSES,
    lineage=st.lists(PROCESSES, max_size=2).map(tuple),
    group_key=TEXTS,
    first_seen_ms=st.integers(),
    last_seen_ms=st.integers(),
    evidence_score=st.floats(0, 1),
    reasons=st.lists(TEXTS, max_size=2).map(tuple),
    lines=st.lists(TEXTS, max_size=2).map(tuple),
    verdict=st.none()
    | st.builds(
        Verdict,
        label=st.sampled_from(Label),
        by=st.sampled_from(["fusion", "scorer", "none"]),
        summary=TEXTS,
        error=st.none() | TEXTS,
        prompt_version=st.none() | st.just("triage-2"),
        answer_tokens=st.none() | st.integers(0, 9999),
        options=st.just({}) | st.just({"num_ctx": 4096, "temperature": 0.0, "keep_alive": "30m"}),
        scorer=st.none() | st.floats(0, 1),
        model_share=st.none() | st.floats(0, 1),
        believed=st.booleans(),
        injection=st.sampled_from(["", "suspected", "withstood", "obeyed"]),
    ),
)


@given(ALERTS)
def test_whatever_the_host_wrote_fits_the_schema(alert: Alert) -> None:
    # Integers beyond 64 bits cannot come from the kernel and cannot be JSON for us.
    alert = msgspec.structs.replace(
        alert,
        events=tuple(msgspec.structs.replace(e, time_ms=max(-(2**62), min(2**62, e.time_ms))) for e in alert.events),
    )
    VALIDATOR.validate(as_json(alert))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"TargetFilename": "/etc/shadow"}, {"file": {"path": "/etc/shadow"}}),
        ({"DestinationIp": "192.0.2.7", "DestinationPort": "443"}, {"destination": {"ip": "192.0.2.7", "port": 443}}),
        ({"DestinationIp": "192.0.2.7", "DestinationPort": "x"}, {"destination": {"ip": "192.0.2.7"}}),
        ({"TargetFilename": "", "DestinationIp": None}, {}),
    ],
)
def test_what_it_was_done_to(
    make_alert: Callable[..., Alert], fields: dict[str, str | None], expected: dict[str, object]
) -> None:
    document = as_json(make_alert(fields=fields))
    VALIDATOR.validate(document)
    assert {name: document[name] for name in ("file", "destination") if name in document} == expected
