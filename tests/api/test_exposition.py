"""Metrics: what a page tells, and that docs/api.md lists it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from watchdogd.telemetry import DESCRIPTIONS, LABELS, Counters

if TYPE_CHECKING:
    from tests.api.conftest import Served

ROOT = Path(__file__).resolve().parents[2]
API = (ROOT / "docs" / "api.md").read_text()


def read_page(served: Served) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Samples by name and labels."""
    with served.local() as client:
        text = client.get("/metrics").text
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def test_a_page_tells_what_status_tells(served: Served) -> None:
    with served.local() as client:
        status = client.get("/api/v1/status").json()
    page = read_page(served)
    for name in status["counters"]:
        assert f"watchdogd_{name}" in page, name
    for name in status["gauges"]:
        assert f"watchdogd_{name}" in page, name
    assert page["watchdogd_rules"][("state", "active"),] == 1
    assert sum(page["watchdogd_alerts_by_level_total"].values()) == 3
    assert page["process_resident_memory_bytes"][()] > 1e6


def test_every_family_of_its_own_is_documented(served: Served) -> None:
    with served.local() as client:
        status = client.get("/api/v1/status").json()
    known = {f"watchdogd_{name}" for name in (*status["counters"], *status["gauges"])}
    listed = set()
    for row in re.findall(r"^\| (`watchdogd_[^|]*)\|", API, re.MULTILINE):
        names = re.findall(r"`(\w+)`", row)
        first = names[0]
        for name in names:
            listed.add(name if name.startswith("watchdogd_") else first.rpartition("ai_")[0] + "ai" + name)
    for name in read_page(served):
        base = re.sub(r"_(bucket|count|sum|created)$", "", name)
        if name.startswith("watchdogd_") and name not in known:
            assert base in listed, name
    assert {f"watchdogd_{name}" for name in LABELS} <= listed


def test_labels_are_of_fixed_lists(served: Served) -> None:
    """Nothing that an event says is a label: three alerts of three command lines make no more series than one."""
    bounded = {
        "level",
        "state",
        "label",
        "by",
        "start",
        "kind",
        "source",
        "sink",
        "model",
        "version",
        "le",
        "stage",
        "amount",
    }
    for name, samples in read_page(served).items():
        for labels in samples:
            if name.startswith("watchdogd_"):
                assert {label for label, _ in labels} <= bounded, name
        assert len(samples) <= 64, name


def test_a_fault_of_ours_cannot_fill_the_memory() -> None:
    counters = Counters()
    for number in range(1000):
        counters.add_by("verdicts_total", (str(number), "x"))
        counters.observe("ai_request_seconds", (str(number),), 1.0)
    assert len(counters.labelled()["verdicts_total"][1]) == 64
    assert len(counters.histograms()["ai_request_seconds"][1]) == 64


def test_a_histogram_counts_by_size() -> None:
    counters = Counters()
    for seconds in (0.05, 0.1, 0.3, 1000.0):
        counters.observe("ai_request_seconds", ("warm",), seconds)
    histogram = counters.histograms()["ai_request_seconds"][1][("warm",)]
    cumulated = dict(histogram.cumulated())
    assert (cumulated[0.1], cumulated[0.5], cumulated[300.0]) == (2, 3, 3)
    assert (histogram.count, histogram.total) == (4, 1000.45)


def test_every_name_has_a_description() -> None:
    assert set(DESCRIPTIONS) == set(LABELS)
