"""Messages to services: golden files, what each service allows, and hostile text that stays text."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.write.conftest import build_alert
from tests.write.formats.made import HOSTILE, SCHEMAS, VERDICT, make_cases, make_hostile
from tests.write.nasty import NASTY
from watchdogd.entities import Alert, Label, Level, Verdict
from watchdogd.resources import find_resource
from watchdogd.webhook_settings import WebhookSettings
from watchdogd.write.formats.card import count_utf8, count_utf16, fit
from watchdogd.write.formats.message import FORMATS, Message, load_format
from watchdogd.write.formats.ntfy import split_topic
from watchdogd.write.formats.text import escape_surrogates

GOLDEN = Path(__file__).parent / "golden"
SERVICES = sorted(SCHEMAS)
BIDI = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def write(name: str, alert: Alert, kind: str = "alert") -> Message:
    chosen = WebhookSettings(name="x", url="https://ntfy.example.org/base/alerts", format=name)  # type: ignore[arg-type]
    return load_format(name)(alert, kind, chosen)


def texts_of(value: Any) -> list[str]:  # noqa: ANN401 - JSON
    if isinstance(value, dict):
        return [text for inner in value.values() for text in texts_of(inner)]
    if isinstance(value, list):
        return [text for inner in value for text in texts_of(inner)]
    return [value] if isinstance(value, str) else []


def check_limits(name: str, message: Message) -> Any:  # noqa: ANN401 - JSON
    document = json.loads(message.body.decode("utf-8", "strict"))
    jsonschema.Draft202012Validator(SCHEMAS[name]).validate(document)
    for text in texts_of(document):
        assert not BIDI.search(text)
        assert not any(ord(char) < 32 and not (char == "\n" and name == "ntfy") for char in text)
        assert "\x7f" not in text
    if name == "discord":
        [embed] = document["embeds"]
        shown = [embed["title"], embed["description"], embed["footer"]["text"]]
        shown += [field[part] for field in embed["fields"] for part in ("name", "value")]
        assert sum(map(count_utf16, shown)) <= 6000
    if name == "teams":
        assert len(message.body) <= 28_000
    if name == "ntfy":
        assert count_utf8(document["message"]) <= 4096
    return document


def find_live(name: str, document: Any) -> list[str]:  # noqa: ANN401 - JSON
    """What the service would take for a mention, a link or markup."""
    texts = texts_of(document)
    if name == "slack":
        return [text for text in texts if re.search(r"[<>]|&(?!amp;|lt;|gt;)", text)]
    if name == "discord":
        live = re.compile(r"@(?:everyone|here|[!&]?\d)|(?<!\\)(?:\\\\)*[<*_`|~\[]|https?:")
        embed = document["embeds"][0]
        values = [field["value"] for field in embed["fields"]]
        return [text for text in (embed["title"], embed["description"], *values) if live.search(text)]
    if name == "teams":
        return [text for text in texts if text in {"TextBlock", "FactSet", "mention"}]
    return []


@pytest.mark.parametrize("name", SERVICES)
@pytest.mark.parametrize("case", sorted(make_cases()))
def test_message_is_as_in_its_golden_file(name: str, case: str, *, update_golden: bool) -> None:
    alert, kind = make_cases()[case]
    document = check_limits(name, write(name, alert, kind))
    path = GOLDEN / f"{case}.{name}.json"
    said = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    if update_golden:
        path.write_text(said, encoding="utf-8")
    assert said == path.read_text(encoding="utf-8")
    assert find_live(name, document) == []


@pytest.mark.parametrize("case", sorted(make_cases()))
def test_the_document_is_as_in_its_golden_file(case: str, *, update_golden: bool) -> None:
    alert, kind = make_cases()[case]
    document = json.loads(write("json", alert, kind).body.decode("utf-8", "strict"))
    schema = json.loads((find_resource("schemas") / "alert.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(document)
    path = GOLDEN / f"{case}.json.json"
    said = json.dumps(document, indent=2) + "\n"
    if update_golden:
        path.write_text(said, encoding="utf-8")
    assert said == path.read_text(encoding="utf-8")


def test_every_golden_file_is_somebodys() -> None:
    wanted = {f"{case}.{name}.json" for case in make_cases() for name in (*SERVICES, "json")}
    assert {path.name for path in GOLDEN.glob("*")} == wanted


def test_the_checks_would_find_what_they_look_for() -> None:
    assert find_live("slack", {"text": HOSTILE})
    assert find_live("discord", {"embeds": [{"title": "@everyone", "description": "a", "fields": []}]})
    assert find_live("discord", {"embeds": [{"title": "a", "description": "https://x", "fields": []}]})


@pytest.mark.parametrize("name", SERVICES)
@settings(max_examples=60)
@given(text=st.text(max_size=3000) | st.sampled_from(["<!channel>", "@everyone", "`", "\\", "\udcff", "\x00", '"']))
def test_hostile_text_stays_text_within_limits(name: str, text: str) -> None:
    document = check_limits(name, write(name, make_hostile(text)))
    assert find_live(name, document) == []


@pytest.mark.parametrize("name", SERVICES)
@pytest.mark.parametrize(
    "unit", ["a", "<", "\\", "@everyone ", "\u202e", "\n", '"', "\x00", "\U0001f600", "\udcff", "é"]
)
def test_a_long_text_is_cut_visibly(name: str, unit: str) -> None:
    message = write(name, make_hostile(unit * (100_000 // len(unit))))
    document = check_limits(name, message)
    assert any("cut, " in text or "[cut" in text for text in texts_of(document))
    assert find_live(name, document) == []


@pytest.mark.parametrize("name", SERVICES)
@pytest.mark.parametrize("text", sorted(NASTY))
def test_nasty_text_stays_text_within_limits(name: str, text: str) -> None:
    """Newlines, NUL, escape sequences, quotes, bytes that are no UTF-8, a megabyte; alone and with forged fields."""
    document = check_limits(name, write(name, make_hostile(NASTY[text])))
    assert find_live(name, document) == []


@pytest.mark.parametrize("text", sorted(NASTY))
def test_nasty_text_is_the_same_text_in_the_document(text: str) -> None:
    alert = make_hostile(NASTY[text])
    document = json.loads(write("json", alert).body.decode("utf-8", "strict"))
    assert document["watchdogd"]["lines"] == [escape_surrogates(NASTY[text])]
    assert document["watchdogd"]["reasons"] == [escape_surrogates(NASTY[text])]
    assert document["rule"]["name"] == "Shadow file read"


@pytest.mark.parametrize("name", sorted(FORMATS.keys() - {"template"}))
def test_each_format_says_what_matters(name: str) -> None:
    said = write(name, build_alert(verdict=VERDICT, count=7)).body.decode()
    for word in ("Shadow file read", "high", "malicious", "alice", "bash", "web01", "7", "a1b2c3"):
        assert word in said


def test_labels_of_an_alert_never_change() -> None:
    plain = build_alert(verdict=None)
    later = build_alert(level=Level.CRITICAL, count=9, verdict=VERDICT, last_seen_ms=1_753_000_999_000)
    labels = [
        json.loads(write("alertmanager", alert, kind).body)[0]["labels"]
        for alert, kind in ((plain, "alert"), (later, "verdict"), (later, "update"))
    ]
    assert labels[0] == labels[1] == labels[2]
    assert labels[0]["severity"] == "high"


def test_ntfy_is_told_the_topic_in_the_document() -> None:
    message = write("ntfy", build_alert())
    assert message.url == "https://ntfy.example.org/base/"
    assert json.loads(message.body)["topic"] == "alerts"
    assert split_topic("https://ntfy.sh/my-topic/") == ("https://ntfy.sh/", "my-topic")


@pytest.mark.parametrize(("level", "priority"), [(Level.CRITICAL, 5), (Level.MEDIUM, 3), (Level.INFORMATIONAL, 1)])
def test_ntfy_rings_by_level(level: Level, priority: int) -> None:
    verdict = Verdict(label=Label.UNTRIAGED, by="none")
    assert json.loads(write("ntfy", build_alert(level=level, verdict=verdict)).body)["priority"] == priority


@given(st.text(max_size=200), st.integers(60, 120))
def test_what_is_cut_says_so_and_nothing_else_is_lost(text: str, limit: int) -> None:
    shown = fit(text, limit)
    assert count_utf16(shown) <= limit
    assert ("[cut, " in shown) == (len(text) > limit or count_utf16(fit(text, 10_000)) > limit) or "[cut, " in text
