from __future__ import annotations

import re
from pathlib import Path

from watchdogd.collect.host_figures import LISTENER, METRICS, Figure
from watchdogd.collect.host_weights import KINDS
from watchdogd.match.fields import load_fields

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"


def test_the_document_has_every_metric_with_its_unit_and_when() -> None:
    rows = re.findall(r"^\| `([a-z0-9_.]+)` \| (\S+) \| (\S+) \| (\S+) \| (.*?) \|", DOCUMENT.read_text(), re.MULTILINE)
    assert [(name, unit, of, when, who != "-") for name, unit, of, when, who in rows if "." in name] == [
        (
            name,
            metric.unit,
            f"`{metric.of}`" if metric.of else "-",
            "minute" if metric.slow else "sample",
            bool(metric.behind) or metric.of == "rank",
        )
        for name, metric in METRICS.items()
    ]


def test_rules_know_every_metric_and_what_tells_its_series_apart() -> None:
    """tools/generate_fields.py reads them from the source."""
    assert set(load_fields().metrics) == {*METRICS, LISTENER}
    assert {metric.of for metric in METRICS.values() if metric.of} <= set(load_fields().views["host_metrics"])


def test_who_stands_behind_a_metric_is_one_of_those_that_are_sought() -> None:
    assert {metric.behind for metric in METRICS.values()} == {*KINDS, "files", ""}


def test_a_series_is_named_by_its_part() -> None:
    assert Figure("disk.used_percent", 1.0, "/home").series == "disk.used_percent:/home"
    assert Figure("cpu.core_percent", 1.0, 0).series == "cpu.core_percent:0"
    assert Figure("load.1m", 1.0).series == "load.1m"
