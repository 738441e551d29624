"""The settings of grouping and inhibition, in Alertmanager's words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from watchdogd.grouping import InhibitRule, Plan
from watchdogd.labels import LABELS, complain_label
from watchdogd.setting_types import Settings
from watchdogd.silences import MatcherError, parse_matcher

if TYPE_CHECKING:
    from collections.abc import Sequence


def complain_matcher(text: str) -> str | None:
    """Say why this is no matcher, None where it is one."""
    try:
        parse_matcher(text)
    except MatcherError as error:
        return f"cannot be used: {error}"
    return None


def complain_group_label(name: str) -> str | None:
    """Say why alerts cannot be grouped by it, None where they can."""
    if complain_label(name) is None:
        return None
    return f"must be one of {', '.join(LABELS)}, or a field of Sigma in its own spelling"


Label = Annotated[str, Meta(min_length=1, extra={"check": complain_group_label})]
MatcherText = Annotated[str, Meta(min_length=1, extra={"check": complain_matcher})]


class GroupingSettings(Settings, frozen=True, kw_only=True):
    """Which alerts are repeats of each other, and how often one that comes again is told."""

    group_by: tuple[Label, ...] = ("rule", "host", "user", "executable")
    group_wait_s: Annotated[float, Meta(ge=0, le=3600)] = 0.0
    group_interval_s: Annotated[float, Meta(ge=1, le=86_400)] = 300.0
    repeat_interval_s: Annotated[float, Meta(ge=0, le=31 * 86_400)] = 14_400.0


class InhibitSettings(Settings, frozen=True, kw_only=True):
    """Targets are not told while a source was told that has the same values of `equal`."""

    source_matchers: tuple[MatcherText, ...]
    target_matchers: tuple[MatcherText, ...]
    equal: tuple[Label, ...] = ()
    duration_s: Annotated[float, Meta(gt=0, le=31 * 86_400)] = 3600.0


def plan_grouping(grouping: GroupingSettings, inhibit_rules: Sequence[InhibitSettings]) -> Plan:
    """Both as the pipeline goes by them."""
    return Plan(
        grouping.group_by,
        _to_ms(grouping.group_wait_s),
        _to_ms(grouping.group_interval_s),
        _to_ms(grouping.repeat_interval_s),
        tuple(
            InhibitRule(
                tuple(map(parse_matcher, one.source_matchers)),
                tuple(map(parse_matcher, one.target_matchers)),
                one.equal,
                _to_ms(one.duration_s),
            )
            for one in inhibit_rules
        ),
    )


def _to_ms(seconds: float) -> int:
    return round(seconds * 1000)
