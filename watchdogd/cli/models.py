"""`watchdogd models [list|pull|exam]`: which models there are, what they need, and whether one may be believed."""

from __future__ import annotations

import argparse
import importlib

HELP = "list, download or examine the models of the local Ollama"

_ACTIONS = {
    "list": "watchdogd.cli.models_list",
    "pull": "watchdogd.cli.models_pull",
    "exam": "watchdogd.cli.models_exam",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions with their options; without one it is `list`."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", description="`list` where none is named")
    for name, path in _ACTIONS.items():
        module = importlib.import_module(path)
        action = actions.add_parser(name, help=module.HELP, description=f"{module.DESCRIPTION}", allow_abbrev=False)
        module.add_arguments(action)
        action.set_defaults(act=module.run)


def run(args: argparse.Namespace) -> int:
    """Do what was asked for; the exit code is the action's."""
    if not hasattr(args, "act"):
        module = importlib.import_module(_ACTIONS["list"])
        parser = argparse.ArgumentParser()
        module.add_arguments(parser)
        args = parser.parse_args([])
        args.act = module.run
    status: int = args.act(args)
    return status
