"""The `watchdogd` command: finds the command's module, and turns every outcome into an exit code.

A command is a module with `HELP` (one line), `add_arguments(parser)` and `run(args) -> int`. Only the module of the
command that was asked for is imported.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import io
import os
import sys
from typing import TYPE_CHECKING, NoReturn, Protocol, cast

from watchdogd import __version__
from watchdogd.errors import WatchdogdError

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = {
    "run": "watchdogd.cli.run",
    "replay": "watchdogd.cli.replay",
    "decode": "watchdogd.cli.decode",
    "status": "watchdogd.cli.status",
    "reload": "watchdogd.cli.reload",
    "outbox": "watchdogd.cli.outbox",
    "verdict": "watchdogd.cli.verdict",
    "alerts": "watchdogd.cli.alerts",
    "silence": "watchdogd.cli.silence",
    "models": "watchdogd.cli.models",
    "ask": "watchdogd.cli.ask",
    "check": "watchdogd.cli.check",
    "doctor": "watchdogd.cli.doctor",
    "rules": "watchdogd.cli.rules",
    "test-alert": "watchdogd.cli.test_alert",
    "install": "watchdogd.cli.install",
    "version": "watchdogd.cli.version",
}

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
"""128 + SIGPIPE, as the shell reports a program that its reader left."""

_DESCRIPTION = """\
Watches this host: applies Sigma rules to the audit log and the host's metrics, asks a local model what it thinks,
and writes alerts to the journal and to webhooks.
"""
_EPILOG = """\
`watchdogd COMMAND --help` tells more. Results go to standard output, everything else to standard error.
Exit codes: 0 fine; 1 check, doctor or rules test found an error; 2 usage, configuration, a rule that cannot be loaded.
"""


class Command(Protocol):
    """What a command's module offers."""

    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the options."""

    def run(self, args: argparse.Namespace) -> int:
        """Do the work; the result is the exit code."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Usage errors and `--help` leave by SystemExit, as argparse does."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file name need not be UTF-8, a terminal neither
            stream.reconfigure(errors="backslashreplace")
    try:
        status = _dispatch(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        silence_stdout()
        return EXIT_BROKEN_PIPE
    except (WatchdogdError, OSError) as error:
        _report(error)
        _settle_stdout()
        return EXIT_USAGE
    return status


def _dispatch(arguments: list[str]) -> int:
    if not arguments:
        _build_overview().print_help(sys.stderr)
        return EXIT_USAGE
    name = arguments[0]
    if name not in COMMANDS:
        _explain_misuse(arguments)
    command = _load(name)
    parser = argparse.ArgumentParser(
        prog=f"watchdogd {name}", description=_make_sentence(command.HELP), allow_abbrev=False
    )
    command.add_arguments(parser)
    return command.run(parser.parse_args(arguments[1:]))


def _load(name: str) -> Command:
    try:
        return cast("Command", importlib.import_module(COMMANDS[name]))
    except ImportError as error:
        raise WatchdogdError(f"{name} cannot be loaded: {error}") from error


def _build_overview() -> argparse.ArgumentParser:
    """A parser for what stands before a command, and the list of all commands."""
    width = max(map(len, COMMANDS))
    listing = "".join(f"  {name:<{width}}  {_read_help(name)}\n" for name in COMMANDS)
    parser = argparse.ArgumentParser(
        prog="watchdogd",
        usage="watchdogd COMMAND [OPTION...]",
        description=f"{_DESCRIPTION}\ncommands:\n{listing}",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("-V", "--version", action="version", version=f"watchdogd {__version__}")
    return parser


def _read_help(name: str) -> str:
    try:
        return _load(name).HELP
    except WatchdogdError as error:
        return f"({error})"


def _explain_misuse(arguments: list[str]) -> NoReturn:
    """Answer `--help` and `--version`; else say what is wrong, with exit code 2."""
    parser = _build_overview()
    parser.parse_known_args([argument for argument in arguments[:1] if argument.startswith("-")])
    near = difflib.get_close_matches(arguments[0], COMMANDS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(COMMANDS)}"
    kind = "a command must come first, not" if arguments[0].startswith("-") else "unknown command"
    parser.error(f"{kind} {arguments[0]!a} ({hint})")


def _make_sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _report(error: Exception) -> None:
    """Write a message to stderr, each line escaped: file names and rules may hold what a terminal obeys."""
    from watchdogd.write.formats.text import escape_controls  # noqa: PLC0415 - only where something went wrong

    for line in (str(error) or type(error).__name__).split("\n"):
        sys.stderr.write(f"watchdogd: {escape_controls(line)}\n")


def _settle_stdout() -> None:
    """Write what is left; where that fails (a full disk) the interpreter must not try it again at exit, with 120."""
    try:
        sys.stdout.flush()
    except OSError:
        silence_stdout()


def silence_stdout() -> None:
    """Keep the interpreter's own flush at exit from complaining about a reader that has left."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        return


if __name__ == "__main__":
    sys.exit(main())
