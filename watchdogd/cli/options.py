"""Options that several commands share, and what they mean."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from watchdogd.errors import WatchdogdError

if TYPE_CHECKING:
    import argparse

    from watchdogd.entities import Rule
    from watchdogd.match.library import RuleSet
    from watchdogd.match.syntax import Correlation, RuleBody


def add_config_option(parser: argparse.ArgumentParser) -> None:
    """`--config FILE`; not given, it is the standard place where that exists, else None."""
    from watchdogd.config import find_config  # noqa: PLC0415 -- `watchdogd --help` needs no settings

    parser.add_argument(
        "--config",
        type=Path,
        default=find_config(None),
        metavar="FILE",
        help="configuration (default: /etc/watchdogd/config.yaml where it exists, else built-in defaults)",
    )


def add_rules_option(parser: argparse.ArgumentParser) -> None:
    """`--rules DIR`, which may repeat and replaces the configured folders."""
    parser.add_argument(
        "--rules",
        type=Path,
        metavar="DIR",
        action="append",
        default=[],
        help="read the rules below DIR instead of the configured folders (may repeat)",
    )


def find_rules(ruleset: RuleSet, text: str) -> list[Rule]:
    """Rules of a set by id, title (whatever its case) or file. Raises WatchdogdError where there is none."""
    import difflib  # noqa: PLC0415 -- only where a rule is asked for

    everything: list[RuleBody | Correlation] = [
        *ruleset.bodies,
        *(found for found in ruleset.correlations if not found.copy_of),
    ]
    wanted, path = text.casefold(), Path(text)
    by_word = [found.rule for found in everything if wanted in (found.rule.id, found.rule.title.casefold())]
    by_file = [found.rule for found in everything if Path(found.rule.path) in (path, path.resolve())]
    by_stem = [found.rule for found in everything if Path(found.rule.path).stem == text]
    if found := by_word or by_file or by_stem:
        return found
    titles = {found.rule.title.casefold(): found.rule.title for found in everything}
    near = difflib.get_close_matches(wanted, titles, n=1)
    hint = f"did you mean {titles[near[0]]!r}?" if near else "`watchdogd rules list` shows them all"
    raise WatchdogdError(f"no rule has the id, title or file {text!r} ({hint})")


def read_moment_option(option: str, text: str | None, *, ahead: bool) -> int | None:
    """A moment in ms since the epoch: from now on (`ahead`) or ago, or on the calendar; None where none was given.

    Raises WatchdogdError.
    """
    from watchdogd.ports import SystemClock  # noqa: PLC0415 -- only where a moment is given
    from watchdogd.quantities import read_moment_ms  # noqa: PLC0415 -- as above

    if text is None:
        return None
    try:
        return read_moment_ms(text.strip(), SystemClock().now_ms(), ahead=ahead)
    except ValueError as error:
        raise WatchdogdError(f"{option} {text}: {error}") from None
