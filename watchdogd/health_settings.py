"""When watchdogd alerts about its own blindness."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from watchdogd.setting_types import Settings


class HealthSettings(Settings, frozen=True, kw_only=True):
    """What counts as blindness, and how often it is told."""

    enabled: bool = True
    silent_after_s: Annotated[float, Meta(ge=0)] = 3600.0
    """0: silence is never told."""
    clock_jump_s: Annotated[float, Meta(gt=0)] = 60.0
    triage_down_after_s: Annotated[float, Meta(gt=0)] = 3600.0
    repeat_interval_s: Annotated[float, Meta(gt=0)] = 14_400.0
