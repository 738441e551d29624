"""Options that several commands share, and what they mean."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


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
