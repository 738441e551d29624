from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec
import pytest

from watchdogd.collect.host_figures import METRICS
from watchdogd.enrich.norm import Standing
from watchdogd.enrich.norms import _RESOLUTION, MAX_SERIES, SAVE_MINUTES, Norms
from watchdogd.entities import Event, EventId, FieldMap, View
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from collections.abc import Mapping

START_MS = 1_700_000_000_000
SERIES = "memory.used_percent"


def make_event(value: float, minute: float = 0, name: str = SERIES) -> Event:
    fields: FieldMap = {"metric": name, "value": value, "unit": "percent"}
    view = View("host_metrics", "sample", "success", fields)
    time_ms = START_MS + round(minute * 60_000)
    return Event(id=EventId("host_metrics", None, time_ms, 0, name), source="host_metrics", views=(view,))


def make_norms(stored: Mapping[str, bytes] | None = None, counters: Counters | None = None) -> Norms:
    return Norms(stored, counters=counters, localtime=time.gmtime)


def describe(norms: Norms, value: float, minute: float, name: str = SERIES) -> FieldMap:
    return dict(norms.describe(make_event(value, minute, name)).views[0].fields)


def test_an_event_gains_what_is_usual_once_that_is_known() -> None:
    norms = make_norms()
    first = describe(norms, 40.0, 0)
    assert (first["baseline"], first["zscore"], first["zscore_5m"]) == (None, None, None)
    for step in range(1, 60):
        describe(norms, 40.0, step / 6)
    fields = describe(norms, 90.0, 10)
    assert fields["baseline"] == 40.0
    assert fields["zscore"] == 62.5  # 50 points, where no spread is less than a fiftieth of the figure
    assert fields["zscore_5m"] == 0.0
    assert fields["metric"] == SERIES
    assert "anomaly" not in fields


def test_an_anomaly_says_since_when_and_against_which_hour() -> None:
    norms = make_norms()
    for minute in range(15 * 1440):
        describe(norms, 40.0 + minute % 3, minute)
    began = 15 * 1440
    assert "anomaly" not in describe(norms, 41.0, began)
    for minute in range(began, began + 20):
        fields = describe(norms, 90.0, minute)
    assert fields["anomaly"] == "spike"
    assert fields["since"] == time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime((START_MS // 60_000 + began) * 60))
    assert fields["minutes"] == 19
    assert fields["baseline_hour"] == time.strftime("%a %H", time.gmtime(START_MS / 1000 + began * 60))
    assert 40 <= float(str(fields["baseline"])) <= 42


def test_what_a_sample_says_of_itself_stays() -> None:
    event = make_event(40.0)
    event.views[0].fields["zscore"] = 7.0
    assert make_norms().describe(event) is event


def test_each_series_is_stored_once_in_a_while_and_goes_on_from_there() -> None:
    norms = make_norms()
    stored: dict[str, bytes] = {}
    for minute in range(SAVE_MINUTES + 1):
        for name in ("load.1m", "load.5m", SERIES):
            describe(norms, 3.0, minute, name)
        taken = norms.take_changes()
        assert len(taken) <= 3
        stored |= taken
    assert sorted(stored) == ["load.1m", "load.5m", SERIES]
    assert norms.take_changes() == {}
    assert sorted(norms.take_changes(everything=True)) == sorted(stored)
    counters = Counters()
    again = make_norms(stored, counters)
    assert describe(again, 3.0, SAVE_MINUTES + 2)["baseline"] == 3.0
    assert counters.get("enrich_norms_unread_total") == 0


@pytest.mark.parametrize("damage", [b"", b"\xc1", b"\x80", b"short"])
def test_what_cannot_be_read_is_counted_and_learnt_anew(damage: bytes) -> None:
    counters = Counters()
    norms = make_norms({SERIES: damage}, counters)
    assert describe(norms, 3.0, 0)["baseline"] is None
    assert counters.get("enrich_norms_unread_total") == 1


def test_tables_of_the_wrong_size_are_counted_too() -> None:
    norms, counters = make_norms(), Counters()
    describe(norms, 3.0, 0)
    standing = msgspec.msgpack.decode(norms.take_changes(everything=True)[SERIES], type=Standing)
    broken = msgspec.structs.replace(standing, medians=b"123")
    again = make_norms({SERIES: msgspec.msgpack.encode(broken)}, counters)
    assert describe(again, 3.0, 0)["baseline"] is None
    assert counters.get("enrich_norms_unread_total") == 1


def test_series_are_bounded_and_the_one_unseen_for_longest_makes_room() -> None:
    counters = Counters()
    norms = make_norms(counters=counters)
    for number in range(MAX_SERIES):
        describe(norms, 1.0, 0, f"disk.used_percent:/{number}")
    describe(norms, 1.0, 1, "disk.used_percent:/0")
    assert "zscore" not in describe(norms, 1.0, 1, "one more")
    assert counters.get("enrich_norms_full_total") == 1
    assert "zscore" in describe(norms, 1.0, 60, "one more")
    known = norms.take_changes(everything=True)
    assert len(known) == MAX_SERIES
    assert "disk.used_percent:/0" in known
    assert "disk.used_percent:/1" not in known


@pytest.mark.parametrize("time_ms", [-(1 << 62), 1 << 62])
def test_a_clock_beyond_all_calendars_is_no_error(time_ms: int) -> None:
    event = Event(
        id=EventId("host_metrics", None, time_ms, 0, SERIES),
        source="host_metrics",
        views=(View("host_metrics", "sample", "success", {"metric": SERIES, "value": 1.0, "unit": "percent"}),),
    )
    assert Norms().describe(event).views[0].fields["zscore"] is None


def test_every_unit_has_a_least_spread() -> None:
    assert {metric.unit for metric in METRICS.values()} <= _RESOLUTION.keys()
