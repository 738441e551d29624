"""The format `template`: the documented example, what a template is handed, and hostile text in it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.write.conftest import build_alert
from tests.write.formats.made import HOSTILE, make_cases, make_hostile
from tests.write.nasty import NASTY
from watchdogd.errors import DeliveryError
from watchdogd.message_samples import BARE, FULL, list_samples
from watchdogd.message_templates import MAX_BYTES, MessageTemplate
from watchdogd.webhook_settings import WebhookSettings
from watchdogd.write.formats.template import build_template, list_values

if TYPE_CHECKING:
    from watchdogd.entities import Alert
    from watchdogd.write.formats.message import Message

GOLDEN = Path(__file__).parent / "golden_template"
DOCS = Path(__file__).parents[3] / "docs" / "delivery.md"
EVERYTHING = (
    '{"all": {{ alert | tojson }}, "lines": {{ lines | tojson }}, "text": "{{ text }}{{ command }}{{ summary }}"}'
)


def read_example() -> str:
    found = re.search(r"`desk\.json\.j2`:\n\n((?: {4}.*\n|\n)+)", DOCS.read_text(encoding="utf-8"))
    assert found is not None
    return re.sub(r"^ {4}", "", found[1], flags=re.MULTILINE).rstrip() + "\n"


def write(source: str, alert: Alert, kind: str = "alert", content_type: str = "application/json") -> Message:
    chosen = WebhookSettings(
        name="own",
        url="https://example.org",
        format="template",
        template_file="own.j2",
        template=source,
        content_type=content_type,
    )
    return build_template(alert, kind, chosen)


@pytest.mark.parametrize("case", sorted(make_cases()))
def test_the_documented_example_is_as_in_its_golden_file(case: str, *, update_golden: bool) -> None:
    alert, kind = make_cases()[case]
    body = write(read_example(), alert, kind).body.decode()
    json.loads(body)
    path = GOLDEN / f"{case}.json"
    if update_golden:
        path.parent.mkdir(exist_ok=True)
        path.write_text(body, encoding="utf-8")
    assert body == path.read_text(encoding="utf-8")


def test_every_golden_file_is_somebodys() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == {f"{case}.json" for case in make_cases()}


def shape_of(value: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, dict):
        return {name: shape_of(part) for name, part in value.items()}
    if isinstance(value, list):
        return [shape_of(part) for part in value[:1]]
    return str if isinstance(value, str) else type(value)


def keys_of(value: Any, prefix: str = "") -> set[str]:  # noqa: ANN401 - JSON
    if isinstance(value, list):
        return set().union(*(keys_of(part, f"{prefix}[]") for part in value))
    if not isinstance(value, dict):
        return set()
    return set().union(*({f"{prefix}.{name}"} | keys_of(part, f"{prefix}.{name}") for name, part in value.items()))


def test_the_samples_are_like_real_alerts() -> None:
    """What a template is tried with has the names that it will be handed: all of them, or as few."""
    known = build_alert(fields={"TargetFilename": "/etc/shadow", "DestinationIp": "192.0.2.1", "DestinationPort": 443})
    nothing = build_alert(
        process=None, lineage=(), fields={}, host="", verdict=None, lines=(), action="", events=(), reasons=()
    )
    full = keys_of(FULL) - {".alert.process.parent.parent"}
    assert keys_of(list_values(known, "alert")) == full
    assert keys_of(list_values(nothing, "alert")) == keys_of(BARE)
    for alert, kind in make_cases().values():
        assert set(list_values(alert, kind)) == set(FULL)
    plain = {name: part for name, part in FULL.items() if name != "alert"}
    made = {name: part for name, part in list_values(known, "alert").items() if name != "alert"}
    assert {name: type(part) for name, part in made.items()} == {name: type(part) for name, part in plain.items()}


def test_every_level_verdict_and_kind_is_tried() -> None:
    tried = [values for _, values in list_samples()]
    assert {values["level"] for values in tried} == {"informational", "low", "medium", "high", "critical"}
    assert {values["verdict"] for values in tried} >= {"malicious", "suspicious", "benign", "untriaged"}
    assert {values["kind"] for values in tried} == {"alert", "update", "verdict"}


@pytest.mark.parametrize("name", sorted(name for name in NASTY if not name.endswith("'")))
def test_nasty_text_leaves_the_message_whole(name: str) -> None:
    text = NASTY[name]
    made = json.loads(write(EVERYTHING, make_hostile(text)).body)
    assert set(made) == {"all", "lines", "text"}
    assert made["all"]["watchdogd"]["alert_id"] == "a1b2c3"
    assert not re.search("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\ud800-\udfff]", made["text"])
    assert len(text) <= 4096 or "cut, " in made["text"]


@settings(max_examples=60)
@given(st.text(max_size=2000) | st.sampled_from([HOSTILE, "{{ kind }}", "{% if %}", "{#", "\\", '"', '\\\\"']))
def test_hostile_text_stays_text(text: str) -> None:
    whole = make_hostile(text)
    for source in (read_example(), EVERYTHING):
        assert isinstance(json.loads(write(source, whole).body), dict)
    said = write("{{ user }}|{{ command }}", whole, content_type="text/plain").body.decode()
    assert len(said.splitlines()) <= 1
    assert "{{ kind }}" not in text or "{{ kind }}" in said


def test_what_would_be_too_long_is_cut_until_it_fits() -> None:
    alert = make_hostile("a" * 5_000)
    alert = build_alert(lines=tuple("b" * 5_000 for _ in range(150)), process=alert.process)
    body = write(EVERYTHING, alert).body
    assert len(body) <= MAX_BYTES
    assert b"cut, 150 in all" in body
    assert b"cut, 5000 characters in all" in body
    assert json.loads(body)["all"]["rule"]["name"] == "Shadow file read"


def test_what_never_fits_is_given_up() -> None:
    with pytest.raises(DeliveryError, match="longer than") as caught:
        write("{% for n in range(9000) %}{{ 'padding' * 9 }}{% endfor %}", build_alert(), content_type="text/plain")
    assert caught.value.recoverable is False


def test_a_template_that_fails_for_one_alert_names_its_line_and_no_value() -> None:
    with pytest.raises(DeliveryError) as caught:
        write("{}\n{{ alert.process.command_line }}", build_alert(process=None))
    assert str(caught.value) == "webhook own: its template, line 2: 'dict object' has no attribute 'process'"
    assert caught.value.recoverable is False


def test_the_content_type_is_sent() -> None:
    assert write("<b>{{ title }}</b>", build_alert(), content_type="text/html").content_type == "text/html"
    assert MessageTemplate("{{ user }}", "x", "text/plain").fill(BARE) == b""
