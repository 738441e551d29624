"""`watchdogd rules list|test|explain`: what is loaded, whether it does what its samples say, and why it matches."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

HELP = "list rules, run their samples, or explain why one matches"

_ACTIONS = {
    "list": "watchdogd.cli.rules_list",
    "test": "watchdogd.cli.rules_test",
    "explain": "watchdogd.cli.rules_explain",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the three actions with their options."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    for name, path in _ACTIONS.items():
        module = importlib.import_module(path)
        action = actions.add_parser(name, help=module.HELP, description=f"{module.DESCRIPTION}", allow_abbrev=False)
        module.add_arguments(action)
        action.set_defaults(act=module.run)


def run(args: argparse.Namespace) -> int:
    """Do what was asked for; the exit code is the action's."""
    status: int = args.act(args)
    return status
