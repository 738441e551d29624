"""Which rules the configuration asks for: their folders, and what it changes about them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from watchdogd.config import rule_folders
from watchdogd.match.library import load_rules
from watchdogd.match.syntax import Overrides

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from watchdogd.config import Config
    from watchdogd.match.syntax import FileReading, RuleSet

_NO_OVERRIDES = Overrides()


class RuleSources(msgspec.Struct, frozen=True):
    """Where rules come from, lowest layer first, and what the configuration changes about them."""

    folders: tuple[Path, ...]
    overrides: Overrides = _NO_OVERRIDES
    placeholders: Path | None = None


def choose_sources(config: Config, given: Sequence[Path], cwd: Path) -> RuleSources:
    """The folders that `config.rule_folders` chooses, with the configuration's changes.

    What `--rules` says (`given`) is taken as it is: the changes are about configured rules. Placeholders count anyway.
    """
    settings = config.rules
    overrides = _NO_OVERRIDES
    if not given:
        disabled = [rule_id for rule_id in settings.disabled if rule_id]  # of a broken configuration some are None
        overrides = Overrides(
            {rule_id.lower(): settings.places[f"disabled.{rule_id}"] for rule_id in disabled},
            {
                rule_id.lower(): (level, settings.places[f"levels.{rule_id}"])
                for rule_id, level in settings.levels.items()
            },
        )
    placeholders = None if settings.placeholders is None else Path(settings.placeholders)
    return RuleSources(rule_folders(config, given, cwd), overrides, placeholders)


def load_sources(
    sources: RuleSources, read: Callable[[Sequence[Path], Path | None], list[FileReading]] | None = None
) -> RuleSet:
    """As `load_rules`; `read` stands for `read_files`."""
    return load_rules(sources.folders, overrides=sources.overrides, placeholders=sources.placeholders, read=read)
