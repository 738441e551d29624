"""The command line as data: every command with its options, read from the parsers that parse it.

Manual page and shell completions are made from this, so they cannot say anything else than the program does.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from watchdogd.cli.main import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Iterator

_FILES: Final = {"FILE", "DIR", "PATH", "LOG", "RULE"}
"""What stands for an argument that is a file."""


class Option(msgspec.Struct, frozen=True):
    """An option, or (without `flags`) an argument by position. `value` is empty where it takes none."""

    flags: tuple[str, ...]
    value: str
    help: str
    choices: tuple[str, ...] = ()
    is_file: bool = False
    many: bool = False


class Words(msgspec.Struct, frozen=True):
    """A command: its words after `watchdogd`, what it does, what it takes, the commands below it."""

    path: tuple[str, ...]
    help: str
    options: tuple[Option, ...]
    commands: tuple[Words, ...] = ()

    def walk(self) -> Iterator[Words]:
        """This one and all below it."""
        yield self
        for command in self.commands:
            yield from command.walk()


def read_grammar() -> Words:
    """The whole command line. Imports every command's module."""
    commands = []
    for name, module in COMMANDS.items():
        command = importlib.import_module(module)
        parser = argparse.ArgumentParser(prog=f"watchdogd {name}", allow_abbrev=False)
        command.add_arguments(parser)
        commands.append(_read(parser, (name,), command.HELP))
    version = Option(("-V", "--version"), "", "show the version")
    return Words((), "", (Option(("-h", "--help"), "", "show the commands"), version), tuple(commands))


def _read(parser: argparse.ArgumentParser, path: tuple[str, ...], text: str) -> Words:
    options: list[Option] = []
    commands: list[Words] = []
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to ask
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - as above
            helps = {choice.dest: choice.help or "" for choice in action._get_subactions()}  # noqa: SLF001 - as above
            commands.extend(_read(below, (*path, name), helps.get(name, "")) for name, below in action.choices.items())
        elif action.help != argparse.SUPPRESS:
            options.append(_read_option(action, parser.prog))
    return Words(path, text, tuple(options), tuple(commands))


def _read_option(action: argparse.Action, prog: str) -> Option:
    text = (action.help or "") % {**vars(action), "prog": prog}
    choices = tuple(map(str, action.choices or ()))
    value = ""
    if action.nargs != 0:
        metavar = action.metavar[0] if isinstance(action.metavar, tuple) else action.metavar
        value = metavar or (action.dest.upper() if not choices else "{" + ",".join(choices) + "}")
    is_file = action.type is Path or value in _FILES
    many = action.nargs in {"*", "+"}
    return Option(tuple(action.option_strings), value, text, choices, is_file=is_file and not choices, many=many)
