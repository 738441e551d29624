"""`watchdogd alerts list`: alerts of the past, the newest first."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

import msgspec

from watchdogd.cli.daemon import add_socket_option, ask, choose_socket
from watchdogd.cli.options import add_config_option, read_moment_option
from watchdogd.entities import Alert, AlertState, Label, Level
from watchdogd.listings import PAGE, AlertsReport, AlertsRequest, ListedAlert

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

HELP = "alerts of the past, the newest first, by state, rule, level, verdict, user or time"
DESCRIPTION = (
    "Lists alerts that the running daemon has in its database, the newest first. Folded, inhibited and silenced "
    "alerts were told to nobody, and are kept like all others: see --state."
)

LIMIT = 50
TIMEOUT_S = 20.0
_HEAD = ("TIME", "LEVEL", "VERDICT", "STATE", "SEEN", "ID", "RULE", "WHAT HAPPENED")
_TITLE_CHARS = 60
_DEED_CHARS = 160


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--state",
        choices=(*map(str, AlertState), "all"),
        default="active",
        help="only alerts in this state (default: active)",
    )
    parser.add_argument("--rule", metavar="ID|TITLE", help="only alerts of this rule")
    parser.add_argument("--level", choices=[str(level) for level in Level], help="only alerts of this level")
    parser.add_argument("--verdict", choices=[str(label) for label in Label], help="only alerts with this verdict")
    parser.add_argument(
        "--user", metavar="NAME", help="only what this user ran, or who logged in as that, or by number"
    )
    parser.add_argument("--since", metavar="WHEN", help="only newer ones: `2h`, `7d`, `2026-12-01T10:00`")
    parser.add_argument("--until", metavar="WHEN", help="only older ones, as for --since")
    parser.add_argument("--before", metavar="ALERT_ID", help="only those stored before this one: the next page")
    parser.add_argument("--limit", type=read_limit, default=LIMIT, metavar="N", help=f"at most (default: {LIMIT})")
    add_config_option(parser)
    add_socket_option(parser)
    parser.add_argument("--format", choices=("text", "json"), default="text", help="json: one document a line")
    parser.add_argument("--unmask", action="store_true", help="json: passwords, tokens and keys as they were written")


def read_limit(text: str) -> int:
    """A number of alerts, 1 at least."""
    if not text.isdecimal() or not text.isascii() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!a} is no number of alerts, 1 at least")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Print the list.

    0 fine, even where it is empty; 2 where the daemon does not answer, or knows no such rule or id.
    """
    wanted = AlertsRequest(
        state=None if args.state == "all" else AlertState(args.state),
        rule=args.rule,
        level=None if args.level is None else Level(args.level),
        verdict=None if args.verdict is None else Label(args.verdict),
        user=args.user,
        since_ms=read_moment_option("--since", args.since, ahead=False),
        until_ms=read_moment_option("--until", args.until, ahead=False),
        before_id=args.before,
    )
    pages = fetch_pages(choose_socket(args), wanted, args.limit)
    if args.format == "json":
        print_json(pages, unmask=args.unmask)
        return 0
    listed: list[ListedAlert] = []
    more = False
    for page in pages:
        listed += page.alerts
        more = page.next is not None
    alerts = [restore(one) for one in listed]
    if alerts:
        print_table(alerts)
    last = f"; older ones: --before {alerts[-1].id[:16]}" if alerts and more else ""
    sys.stderr.write(f"{len(alerts)} alerts{last}\n" if len(alerts) != 1 else f"1 alert{last}\n")
    return 0


def fetch_pages(socket: Path, wanted: AlertsRequest, limit: int) -> Iterator[AlertsReport]:
    """Ask page by page until there are `limit` alerts, or no more. Raises WatchdogdError."""
    left = limit
    while left > 0:
        wanted = msgspec.structs.replace(wanted, limit=min(left, PAGE))
        page = ask(socket, "alerts", AlertsReport, TIMEOUT_S, wanted)
        yield page
        left -= len(page.alerts)
        if page.next is None:
            return
        wanted = msgspec.structs.replace(wanted, before=page.next, before_id=None)


def restore(listed: ListedAlert) -> Alert:
    """The alert, in the state that it has in the database."""
    alert = msgspec.json.decode(listed.document, type=Alert)
    return msgspec.structs.replace(alert, state=listed.state)


def mask_listed(listed: ListedAlert) -> ListedAlert:
    """The same without the secrets that are recognised in it."""
    from watchdogd.write.masked import mask_alert  # noqa: PLC0415 - start-up of other commands

    alert = mask_alert(msgspec.json.decode(listed.document, type=Alert))
    return msgspec.structs.replace(listed, document=msgspec.Raw(msgspec.json.encode(alert)))


def print_json(pages: Iterator[AlertsReport], *, unmask: bool = False) -> None:
    """One alert document (docs/schemas/alert.schema.json) a line, secrets masked unless `unmask`."""
    from watchdogd.write.formats.ecs import alert_document  # noqa: PLC0415 - start-up of other commands

    for page in pages:
        for listed in page.alerts:
            alert = restore(listed if unmask else mask_listed(listed))
            sys.stdout.write(msgspec.json.encode(alert_document(alert)).decode() + "\n")


def print_table(alerts: Sequence[Alert]) -> None:
    """One line an alert, in columns; where all are of one state, or seen once, there is no such column."""
    from rich.text import Text  # noqa: PLC0415 - start-up of other commands

    from watchdogd.cli.display import LABEL_STYLES, LEVEL_STYLES, TextConsole  # noqa: PLC0415

    cells = [_HEAD, *map(_list_cells, alerts)]
    hidden = {index for index in (3, 4) if len({line[index] for line in cells[1:]}) == 1 and cells[1][index] in _USUAL}
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEAD) - 1)]
    console = TextConsole()
    for line, alert in zip(cells, [None, *alerts], strict=True):
        text = Text()
        for column, (cell, width) in enumerate(zip(line, [*widths, 0], strict=True)):
            if column in hidden:
                continue
            style = "bold" if alert is None else ""
            if alert is not None and column == 1:
                style = LEVEL_STYLES[alert.level]
            elif alert is not None and column == 2:  # noqa: PLR2004 - of _HEAD
                style = LABEL_STYLES.get(alert.verdict.label, "") if alert.verdict is not None else ""
            text.append(f"{cell:<{width}}", style).append("  " if width else "")
        text.rstrip()
        console.print(text)


_USUAL = ("active", "1")


def _list_cells(alert: Alert) -> tuple[str, ...]:
    from watchdogd.masking import mask_secrets  # noqa: PLC0415 - as above
    from watchdogd.write.formats.ecs import format_time  # noqa: PLC0415
    from watchdogd.write.formats.text import describe_deed, escape_controls  # noqa: PLC0415

    label = alert.verdict.label if alert.verdict is not None else Label.UNTRIAGED
    return (
        f"{format_time(alert.time_ms)[:19].replace('T', ' ')}Z",
        str(alert.level),
        str(label),
        escape_controls(alert.state),
        str(alert.count),
        escape_controls(alert.id[:16]),
        _cut(escape_controls(alert.rule.title), _TITLE_CHARS),
        _cut(mask_secrets(describe_deed(alert)), _DEED_CHARS),
    )


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
