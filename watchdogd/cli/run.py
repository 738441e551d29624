"""`watchdogd run`: the daemon in the foreground, as systemd starts it."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from watchdogd.cli.logs import set_up_logs
from watchdogd.cli.options import add_config_option, add_rules_option

if TYPE_CHECKING:
    import argparse

HELP = "watch this host until stopped (systemd starts this)"

NEXT_LIFE_S = 1.0
"""Between a life that ended with a damaged database and the next: a broken disk must not keep the host busy."""

EXIT_SIGNALLED = 143
"""128 + SIGTERM, as a shell reports it."""

log = logging.getLogger("watchdogd.run")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add_config_option(parser)
    add_rules_option(parser)
    parser.add_argument(
        "--from-start",
        action="store_true",
        help="on the first start, judge what the log already holds (default: begin at its end)",
    )
    parser.add_argument("--no-ai", action="store_true", help="ask no model; alerts go out untriaged")
    parser.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), help="of the daemon's own messages"
    )


def run(args: argparse.Namespace) -> int:
    """Run the daemon; 0 after SIGTERM or SIGINT, 1 where it failed while running.

    Where systemd runs it and somebody else ended it, 143: that is a failure, after which systemd starts it again.
    """
    from watchdogd.loading import StartOptions  # noqa: PLC0415 -- `watchdogd --help` must not load the daemon
    from watchdogd.memory import share_memory  # noqa: PLC0415
    from watchdogd.service import Service  # noqa: PLC0415

    share_memory()
    set_up_logs(args.log_level or "info")
    overrides: dict[str, object] = {}
    if args.log_level:
        overrides["log.level"] = args.log_level
    if args.no_ai:
        overrides["triage.enabled"] = False
    options = StartOptions(
        config_path=args.config,
        rules=tuple(args.rules),
        cwd=Path.cwd(),
        environ=dict(os.environ),
        overrides=overrides,
        from_start=args.from_start,
    )
    service = Service(options)
    try:
        damaged = asyncio.run(service.run())
        while damaged:
            time.sleep(NEXT_LIFE_S)
            service = Service(options, damaged=damaged)
            damaged = asyncio.run(service.run())
    except ExceptionGroup as group:
        log.critical("a part of the daemon failed", exc_info=group)
        return 1
    return EXIT_SIGNALLED if service.was_ended_past_manager else 0
