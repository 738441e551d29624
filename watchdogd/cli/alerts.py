"""`watchdogd alerts list|show`: the history of alerts, as the running daemon keeps it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

HELP = "list the alerts of the past, or show everything about one"

_ACTIONS = {
    "list": "watchdogd.cli.alerts_list",
    "show": "watchdogd.cli.alerts_show",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions with their options."""
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
