"""Where the engine differs from SQL on purpose. docs/rules.md lists the same; everything else is a mistake."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.match.differential.making import build_rule
from tests.match.differential.test_generated import build_engine, judge_here, judge_in_sql

if TYPE_CHECKING:
    from pathlib import Path

    from tests.match.differential.oracle import Scalar

DIFFERENT: list[tuple[Any, dict[str, Scalar], bool]] = [
    ({"Text": "ÄRGER"}, {"Text": "ärger"}, True),
    ({"Address|cidr": "0.0.0.0/0"}, {"Address": "fe80::1"}, False),
    ({"Address|cidr": "10.0.0.0/8"}, {"Address": "10.example.org"}, False),
    ({"Address|cidr": "10.0.0.0/8"}, {"Address": "::ffff:10.0.0.1"}, True),
    ({"Flag": True}, {"Flag": "TRUE"}, True),
    ({"Flag": True}, {"Flag": "yes"}, True),
    ([22], {"Text": "port 2200"}, False),
    ({"Text|gt": 5}, {"Text": "10"}, True),
    ({"Text|lt": 5}, {"Text": "1x"}, False),
    ({"Number|hour": 22}, {"Number": 1_700_000_000}, True),
    ({"Time|week": 52}, {"Time": "2023-01-01T00:00:00"}, True),
    ({"Text|re": "a$"}, {"Text": "a\n"}, False),
    ({"Text|expand|cased": "%people%"}, {"Text": "AB"}, False),
    ({"Text|expand|all": ["%people%", "%people%"]}, {"Text": "b-a"}, True),
]
"""A selection, an event, and whether it matches here: in SQL it is the other way round."""


@pytest.mark.parametrize(("selection", "fields", "matches"), DIFFERENT)
def test_differences_that_are_meant(
    rule_file: Path, selection: dict[str, Any], fields: dict[str, Scalar], *, matches: bool
) -> None:
    rule = build_rule(1, {"selection": selection, "condition": "selection"})
    engine = build_engine(rule_file, [rule])
    assert engine is not None
    assert bool(judge_here(engine, [fields])) is matches
    assert bool(judge_in_sql([rule], [fields])) is not matches
