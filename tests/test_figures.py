"""Metrics in words: for people who never saw a metric's name, and with texts that somebody chose to mislead them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdogd.collect.host_figures import METRICS
from watchdogd.figures import describe_amount, describe_figure
from watchdogd.write.formats.text import quote_text

if TYPE_CHECKING:
    from watchdogd.entities import FieldMap

FIELDS: FieldMap = {
    "metric": "cpu.percent_5m",
    "value": 97.04,
    "unit": "percent",
    "baseline": 12.04,
    "baseline_hour": "Mon 14",
    "zscore": 30.1,
    "anomaly": "spike",
    "minutes": 25,
    "Image": "/tmp/.x/miner",
    "User": "web",
    "ParentImage": "/usr/bin/dash",
}


def say(language: str = "en", **changes: float | str | None) -> str:
    return describe_figure({**FIELDS, **changes}, quote_text, language)


def test_an_anomaly_is_a_sentence() -> None:
    assert say() == (
        'CPU at 97 % for 25 min (usual on Mondays at 14 h: 12 %), by "/tmp/.x/miner" as "web", '
        'started by "/usr/bin/dash"'
    )
    assert say("es") == (
        'CPU al 97 % desde hace 25 min (lo habitual los lunes a las 14 h: 12 %), por "/tmp/.x/miner" como "web", '
        'iniciado por "/usr/bin/dash"'
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"anomaly": None, "minutes": None}, "CPU at 97 % for 5 min ("),
        ({"minutes": 119}, "for 119 min ("),
        ({"minutes": 121}, "for 2 h ("),
        ({"minutes": 4 * 1440 + 5}, "for 4 days ("),
        ({"anomaly": "leak", "minutes": 4320, "metric": "memory.used_percent"}, "memory 97 % used, growing for 3 days"),
        ({"baseline_hour": None}, "(usual is 12 %)"),
        ({"baseline_hour": "Day x"}, "(usual is 12 %)"),
        ({"metric": "network.sent_bytes_per_s", "unit": "bytes/s", "value": 48_123_456.0}, "48.1 MB/s sent"),
        ({"metric": "disk.write_bytes_per_s", "unit": "bytes/s", "baseline": 1_300.0}, ": 1.3 kB/s)"),
        ({"metric": "processes.count", "unit": "processes", "value": 12_345.0}, "12345 processes for"),
        ({"metric": "sensors.temperature_celsius", "unit": "celsius", "sensor": "k10\n"}, 'celsius on "k10\\n" for'),
        ({"metric": "load.5m", "unit": "load", "value": 0.0}, "load.5m: 0 load for"),
        ({"metric": "disk.used_percent", "mount": "/srv/ü"}, 'disk 97 % full on "/srv/ü" for'),
    ],
)
def test_each_part_is_said_as_far_as_it_is_known(changes: dict[str, Any], said: str) -> None:
    assert said in say(**changes)


def test_what_is_no_figure_is_not_said() -> None:
    assert not say(value=None)
    assert not describe_figure({"metric": "sockets.listener_opened"}, quote_text)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("language", ["en", "es"])
def test_every_metric_can_be_said(metric: str, language: str) -> None:
    said = describe_amount({"metric": metric, "value": 7.0, "unit": METRICS[metric].unit}, quote_text, language)
    assert "7" in said
    assert "{" not in said


@given(st.text(max_size=30), st.sampled_from(["Image", "CommandLine", "User", "ParentImage", "mount", "metric"]))
def test_texts_of_the_host_stay_within_their_quotes(text: str, name: str) -> None:
    said = describe_figure({**FIELDS, name: text}, lambda one: f"<{len(one)}>")
    assert "{" not in said
    hostile = f"\u202e\n{{0}} %s {text}"
    shown = describe_figure({**FIELDS, name: hostile}, quote_text)
    assert quote_text(hostile) in shown
    assert not set(shown) & {"\n", "\u202e"}
