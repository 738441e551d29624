from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from watchdogd.background import Standing
from watchdogd.triage.standings import KnownStandings

if TYPE_CHECKING:
    from watchdogd.ports import Standings

OLD = Standing("m", "d1", "triage-1", True, 48, 0.9, 0.8, 0.95, 0.8, 12, 0, 0.5, 1_000)  # noqa: FBT003
NEW = msgspec.structs.replace(OLD, passed=False, examined_ms=2_000)


def test_newest_exam_of_the_bytes_counts_whatever_their_name() -> None:
    known: Standings = KnownStandings([NEW, OLD])
    assert known.find("m", "d1", "triage-1") is NEW
    assert known.find("other name", "d1", "triage-1") is NEW


def test_other_bytes_or_prompt_were_never_examined() -> None:
    known = KnownStandings([OLD])
    assert known.find("m", "d2", "triage-1") is None
    assert known.find("m", "d1", "triage-2") is None
    assert KnownStandings([msgspec.structs.replace(OLD, digest="")]).find("m", "", "triage-1") is None


def test_newest_exam_of_a_name() -> None:
    known = KnownStandings([OLD, msgspec.structs.replace(NEW, digest="d2"), msgspec.structs.replace(NEW, model="n")])
    found = known.find_by_name("m", "triage-1")
    assert found is not None
    assert found.digest == "d2"
    assert known.find_by_name("m", "triage-2") is None


def test_exam_that_was_just_sat_counts() -> None:
    known = KnownStandings([OLD])
    known.add(NEW)
    assert known.find("m", "d1", "triage-1") is NEW
