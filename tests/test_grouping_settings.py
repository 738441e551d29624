"""From the configuration to the plan that the pipeline goes by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from watchdogd.config import load_config
from watchdogd.grouping import InhibitRule, Plan
from watchdogd.grouping_settings import plan_grouping
from watchdogd.silences import parse_matcher

if TYPE_CHECKING:
    from pathlib import Path


def test_the_defaults_are_the_plan_s() -> None:
    config = load_config(None, environ={})
    assert plan_grouping(config.grouping, config.inhibit_rules) == Plan()


def test_all_that_can_be_set_arrives(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("""
grouping:
  group_by: [rule, TargetFilename]
  group_wait_s: 1.5
  group_interval_s: 60
  repeat_interval_s: 120
inhibit_rules:
  - source_matchers: [rule="Tool stopped"]
    target_matchers: [level=~"low|medium"]
    equal: [session]
    duration_s: 30
""")
    config = load_config(path, environ={})
    inhibit = InhibitRule(
        (parse_matcher('rule="Tool stopped"'),), (parse_matcher('level=~"low|medium"'),), ("session",), 30_000
    )
    assert plan_grouping(config.grouping, config.inhibit_rules) == Plan(
        ("rule", "TargetFilename"), 1_500, 60_000, 120_000, (inhibit,)
    )
