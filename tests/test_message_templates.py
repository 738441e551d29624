"""The administrator's templates: values stay values, mistakes have a line, and no template runs on for ever."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import parse_qs
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdogd.config import load_config
from watchdogd.errors import ConfigError
from watchdogd.message_templates import MAX_BYTES, MessageTemplate, TemplateFault, TooLongFault, choose_escape

if TYPE_CHECKING:
    from pathlib import Path

JSON, HTML, FORM, TEXT = "application/json", "text/html", "application/x-www-form-urlencoded", "text/plain"


def fill(source: str, content_type: str = JSON, **values: object) -> str:
    return MessageTemplate(source, "own.j2", content_type).fill(values).decode()


def find_fault(source: str, content_type: str = TEXT, **values: object) -> TemplateFault:
    with pytest.raises(TemplateFault) as caught:
        fill(source, content_type, **values)
    return caught.value


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_value_in_json_is_that_value(text: str) -> None:
    made = json.loads(fill('{"in": "<{{ text }}>", "whole": {{ text | tojson }}, "{{ text }}": 1}', text=text))
    assert made["in"] == f"<{text}>"
    assert made["whole"] == text
    assert text in made


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_a_value_in_a_form_is_that_value(text: str) -> None:
    assert parse_qs(fill("a={{ text }}&b=1", FORM, text=text), strict_parsing=True) == {"a": [text], "b": ["1"]}


@given(st.text(st.characters(min_codepoint=32, max_codepoint=0xD7FF)))
def test_a_value_in_html_is_text(text: str) -> None:
    tree = ET.fromstring(fill('<p title="{{ text }}">{{ text }}</p>', HTML, text=text.replace("\x85", "")))
    assert len(tree) == 0


def test_the_text_of_an_alert_is_no_template() -> None:
    assert fill("{{ text }}", TEXT, text="{{ 7*7 }}{% raw %}") == "{{ 7*7 }}{% raw %}"


@pytest.mark.parametrize(
    ("value", "made"), [(None, "null"), (True, "true"), (7, "7"), (0.5, "0.5"), ("7", '"7"'), (["a", 1], '["a", 1]')]
)
def test_values_are_json_by_the_filter(value: object, made: str) -> None:
    assert fill("{{ value | tojson }}", value=value) == made


def test_numbers_need_no_filter() -> None:
    assert json.loads(fill("[{{ a }}, {{ b }}, {{ c }}]", a=None, b=False, c=1.5)) == [None, False, 1.5]


def test_no_filter_gets_text_past_the_escape() -> None:
    """What jinja2 takes for safe is safe in HTML, not in JSON."""
    text = 'a"b\\'
    for expression in ("text | safe", "text | e", "text ~ text", "[text] | join", "text | html", "text | markdown"):
        assert isinstance(json.loads(fill(f'"{{{{ {expression} }}}}"', text=text)), str)


def test_markup_is_escaped_by_its_filters() -> None:
    assert fill("{{ text | markdown }}", TEXT, text="**@all** [a](b)") == "\\*\\*@\u200ball\\*\\* \\[a\\]\\(b\\)"
    assert fill("{{ text | html }}", TEXT, text="<b>") == "&lt;b&gt;"


@pytest.mark.parametrize(
    ("source", "line", "said"),
    [
        ("\n{{ text", 2, "unexpected end of template"),
        ("\n\n{{ nothing }}", 3, "'nothing' is undefined"),
        ("\n{% include 'x' %}", 2, "cannot use other files"),
        ("{% extends 'x' %}", 1, "cannot use other files"),
        ("{{ text.__class__.__mro__ }}", 1, "unsafe"),
        ("\n{{ names.append(1) }}", 2, "unsafe"),
        ("{{ '{0.__class__}'.format(text) }}", 1, "unsafe"),
        ("{{ 1 / 0 }}", 1, "ZeroDivisionError"),
        ("{{ text | nofilter }}", 1, "No filter named 'nofilter'"),
    ],
)
def test_a_mistake_has_its_line(source: str, line: int, said: str) -> None:
    fault = find_fault(source, text="x", names=[])
    assert (fault.line, said in str(fault)) == (line, True), fault


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(1000) %}{% for b in range(1000) %}{% endfor %}{% endfor %}",
        "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
        "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "{{ 'a' * 100000000000 }}",
        "{{ 1000000 * 'a' }}",
        "{{ [0] * 100000000000 }}",
        "{{ 10 ** 1000000000 }}",
        "{{ range(100000000) | list }}",
    ],
)
def test_what_would_not_end_ends(source: str) -> None:
    assert find_fault(source)


def test_a_long_message_is_told_apart() -> None:
    with pytest.raises(TooLongFault):
        fill("{{ text }}", TEXT, text="a" * (MAX_BYTES + 1))
    assert len(fill("{{ text }}", TEXT, text="a" * MAX_BYTES)) == MAX_BYTES


@pytest.mark.parametrize("source", ['{"a": {{ text }}}', "{", "{{ names }}", "{% macro m() %}{% endmacro %}"])
def test_what_is_no_json_is_refused(source: str) -> None:
    assert find_fault(source, JSON, text="x", names=[1])


@pytest.mark.parametrize(
    ("content_type", "kind"),
    [
        ("application/json", "json"),
        ("application/vnd.x+json; charset=utf-8", "json"),
        ("Text/HTML", "html"),
        ("application/xml", "html"),
        (FORM, "form"),
        ("text/plain; charset=utf-8", "text"),
    ],
)
def test_the_content_type_says_how_to_escape(content_type: str, kind: str) -> None:
    assert choose_escape(content_type) == kind


def test_a_template_is_read_with_the_settings_from_beside_them(tmp_path: Path) -> None:
    (tmp_path / "own.j2").write_text('{"text": "{{ text }}"}')
    config = tmp_path / "config.yaml"
    text = "webhooks: [{name: own, url: 'https://example.org', format: template, template_file: own.j2"
    config.write_text(f"{text}}}]\n")
    [webhook] = load_config(config, environ={}).webhooks
    assert webhook.template == '{"text": "{{ text }}"}'
    assert webhook.content_type == "application/json"
    config.write_text(f"{text}, content_type: 'text/plain\\n'}}]\n")
    with pytest.raises(ConfigError, match="must be a media type"):
        load_config(config, environ={})
