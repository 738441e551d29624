"""Metric alerts read as a sentence, in the question and where no model answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.triage.conftest import make_alert
from watchdogd.triage.anomaly import describe
from watchdogd.triage.prompt import build_question

if TYPE_CHECKING:
    from watchdogd.entities import Alert

FIELDS: dict[str, str | float | None] = {
    "metric": "cpu.percent_5m",
    "value": 97.0,
    "unit": "percent",
    "baseline": 4.25,
    "zscore": 30.1,
    "Image": "/tmp/.x/miner",
    "CommandLine": "/tmp/.x/miner --token=hunter2Zq -o pool",
    "User": "web",
    "ParentImage": "/usr/bin/dash",
}


def make_metric(**changes: str | float | None) -> Alert:
    return make_alert(category="host_metrics", process=None, lineage=(), matched={}, fields=FIELDS | changes)


def test_it_is_said_how_much_for_how_long_and_by_whom() -> None:
    assert describe(make_metric()) == (
        "CPU at 97 % for 5 min (usual is 4.25 %), by /tmp/.x/miner --token=[masked] -o pool as web,"
        " started by /usr/bin/dash"
    )
    assert describe(make_metric(), "es").startswith(
        "CPU al 97 % durante 5 min (lo habitual es 4.25 %), por /tmp/.x/miner"
    )


@pytest.mark.parametrize("name", ["baseline", "CommandLine", "User", "ParentImage"])
def test_what_is_unknown_is_left_out(name: str) -> None:
    assert "None" not in describe(make_metric(**{name: None}))


def test_an_unknown_metric_and_a_mount_are_named() -> None:
    bare = dict.fromkeys(("baseline", "CommandLine", "Image", "User", "ParentImage"))
    assert describe(make_metric(metric="gpu.heat", value=0.5, **bare)) == "gpu.heat: 0.5 %"
    assert (
        describe(make_metric(metric="disk.used_percent", mount="/srv\x1b[2K/x", **bare)) == "disk 97 % full on /srv /x"
    )


def test_other_alerts_have_no_such_sentence() -> None:
    assert not describe(make_alert(fields=FIELDS))


def test_the_question_holds_the_sentence() -> None:
    question = build_question(make_metric(), num_ctx=4096, num_predict=256)
    assert "CPU at 97 % for 5 min" in question.evidence
