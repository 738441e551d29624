"""`watchdogd silence add|list|end`: hear nothing of certain alerts for a while; they are kept all the same."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import msgspec

from watchdogd.cli.daemon import add_socket_option, ask, choose_socket
from watchdogd.cli.options import add_config_option, read_moment_option
from watchdogd.entities import Level
from watchdogd.listings import (
    EndSilenceRequest,
    SilenceMade,
    SilenceReport,
    SilenceRequest,
    SilencesReport,
    SilencesRequest,
)

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

HELP = "keep certain alerts out of journal and webhooks for a while"

TIMEOUT_S = 20.0
_ADD = (
    "Alerts that everything given here holds for are not sent to the journal nor to webhooks until the silence ends, "
    "from now on. They are stored like all others: `watchdogd alerts list --state silenced`. For good, write a filter "
    "beside the rules instead (docs/rules.md)."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions with their options."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    add = actions.add_parser("add", help="silence alerts from now on", description=_ADD, allow_abbrev=False)
    add.add_argument("--rule", metavar="ID|TITLE", action="append", default=[], help="alerts of this rule (may repeat)")
    add.add_argument("--level", choices=[str(level) for level in Level], help="alerts of this level")
    add.add_argument("--user", metavar="NAME", help="what this user ran, or who logged in as that")
    add.add_argument(
        "--executable", metavar="PATH", help="what this program did; `/opt/backup/*` for all below a folder"
    )
    add.add_argument(
        "--match", metavar="MATCHER", action="append", default=[], help='as Alertmanager writes it: parent=~"/usr/.*"'
    )
    add.add_argument("--until", metavar="WHEN", required=True, help="when it ends: `2h`, `7d`, `2026-12-01T10:00`")
    add.add_argument("--reason", metavar="TEXT", required=True, help="why: kept with it")
    add.add_argument("--all-rules", action="store_true", help="yes, even where that covers every alert")
    add.set_defaults(act=run_add)
    listing = actions.add_parser("list", help="silences in force", description="Lists silences.", allow_abbrev=False)
    listing.add_argument("--all", action="store_true", help="those that have ended, too")
    listing.set_defaults(act=run_list)
    ending = actions.add_parser(
        "end", aliases=["expire"], help="end a silence now", description="Ends a silence now.", allow_abbrev=False
    )
    ending.add_argument("silence_id", metavar="ID", help="the silence's id, or its first characters")
    ending.set_defaults(act=run_end)
    for action in (add, listing, ending):
        add_config_option(action)
        add_socket_option(action)
        action.add_argument("--format", choices=("text", "json"), default="text", help="json: one object")


def run(args: argparse.Namespace) -> int:
    """Do what was asked for; the exit code is the action's."""
    status: int = args.act(args)
    return status


def run_add(args: argparse.Namespace) -> int:
    """Silence, and say what that would have muted. 0 done, 2 refused, or no daemon."""
    request = SilenceRequest(
        until_ms=read_moment_option("--until", args.until, ahead=True) or 0,
        reason=args.reason,
        rules=tuple(args.rule),
        matchers=tuple(list_matchers(args)),
        all_rules=args.all_rules,
    )
    made = ask(choose_socket(args), "silence", SilenceMade, TIMEOUT_S, request)
    if args.format == "json":
        _print_json(made)
        return 0
    for note in made.notes:
        sys.stderr.write(f"watchdogd: {_escape(note)}\n")
    sys.stdout.writelines(f"{line}\n" for line in render_made(made))
    return 0


def run_list(args: argparse.Namespace) -> int:
    """Print silences. 0 fine, even where there are none; 2 without a daemon."""
    report = ask(choose_socket(args), "silences", SilencesReport, TIMEOUT_S, SilencesRequest(args.all))
    if args.format == "json":
        _print_json(report)
    else:
        print_table(report.silences)
    return 0


def run_end(args: argparse.Namespace) -> int:
    """End one. 0 done, 2 where it is not known, has ended, or without a daemon."""
    report = ask(choose_socket(args), "end_silence", SilenceReport, TIMEOUT_S, EndSilenceRequest(args.silence_id))
    if args.format == "json":
        _print_json(report)
    else:
        sys.stdout.write(f"silence {_escape(report.id)} has ended: it muted {_count(report.muted)}\n")
    return 0


def list_matchers(args: argparse.Namespace) -> Iterator[str]:
    """What the options mean, as matchers."""
    for name in ("level", "user"):
        if getattr(args, name) is not None:
            yield f"{name}={_quote(getattr(args, name))}"
    if args.executable is not None:
        if "*" in args.executable:
            import re  # noqa: PLC0415 - only where it is needed

            pattern = ".*".join(map(re.escape, args.executable.split("*")))
            yield f"executable=~{_quote(pattern)}"
        else:
            yield f"executable={_quote(args.executable)}"
    yield from args.match


def render_made(made: SilenceMade) -> Iterator[str]:
    """The answer to `add`, for a person."""
    silence = made.silence
    yield f"silence {_escape(silence.id)} until {_show_time(silence.until_ms)}: {_escape(' '.join(silence.matchers))}"
    of = f"the last day's {_count(made.looked_at)}" if made.complete else f"the newest {_count(made.looked_at)}"
    if made.covered:
        yield f"of {of} it would have muted {made.covered}:"
        yield from (f"  {count}  {_escape(title)}" for title, count in made.titles.items())
    else:
        yield f"of {of} it would have muted none"
    yield "from now on such alerts are stored and not sent: watchdogd alerts list --state silenced"


def print_table(silences: Sequence[SilenceReport]) -> None:
    """One line a silence, in columns."""
    from rich.text import Text  # noqa: PLC0415 - start-up of other commands

    from watchdogd.cli.display import TextConsole  # noqa: PLC0415

    head = ("ID", "UNTIL", "MUTED", "BY", "WHAT", "REASON")
    cells = [head, *(_list_cells(silence) for silence in silences)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(head) - 1)]
    console = TextConsole()
    for number, line in enumerate(cells if silences else []):
        style = "bold" if number == 0 else "dim" if silences[number - 1].ended else ""
        text = "  ".join(f"{cell:<{width}}" for cell, width in zip(line, [*widths, 0], strict=True))
        console.print(Text(text.rstrip(), style))
    active = sum(not silence.ended for silence in silences)
    sys.stderr.write(f"{active} in force\n")


def _list_cells(silence: SilenceReport) -> tuple[str, ...]:
    until = f"{_show_time(silence.until_ms)}{' (ended)' if silence.ended else ''}"
    what = " ".join(silence.matchers)
    return tuple(map(_escape, (silence.id, until, str(silence.muted), silence.author, what, silence.reason)))


def _quote(text: str) -> str:
    quoted = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{quoted}"'


def _count(alerts: int) -> str:
    return "1 alert" if alerts == 1 else f"{alerts} alerts"


def _show_time(time_ms: int) -> str:
    from watchdogd.write.formats.ecs import format_time  # noqa: PLC0415 - start-up of other commands

    return f"{format_time(time_ms)[:16].replace('T', ' ')}Z"


def _escape(text: str) -> str:
    from watchdogd.write.formats.text import escape_controls  # noqa: PLC0415 - as above

    return escape_controls(text)


def _print_json(report: msgspec.Struct) -> None:
    sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
