"""`watchdogd test-alert`: send a made-up alert to every sink, to see that it arrives."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import sys
from typing import TYPE_CHECKING

from watchdogd.cli.options import add_config_option
from watchdogd.config import load_config
from watchdogd.entities import Alert, EventId, Label, Level, Process, ProcessKey, Rule, Verdict
from watchdogd.errors import DeliveryError
from watchdogd.ports import SystemClock

if TYPE_CHECKING:
    import argparse

    from watchdogd.ports import Clock, Sink

HELP = "send a test alert to the journal and to each webhook"

RULE_ID = "c9b4ad0e-5a0f-4b57-9c0e-3d0b7a4f2d11"
_LEVELS = tuple(level.value for level in Level)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add_config_option(parser)
    parser.add_argument("--level", choices=_LEVELS, default="low", help="level of the test alert (default: low)")
    parser.add_argument("--sink", metavar="NAME", help="only this sink (`journald` or a webhook's name)")


def run(args: argparse.Namespace) -> int:
    """Send and say for each sink what became of it. 0 where all took it, 1 where one did not, 2 for no such sink."""
    from watchdogd.assembly import build_sinks, choose_routes  # noqa: PLC0415 -- start-up of other commands

    config = load_config(args.config, environ=os.environ, overrides={})
    clock = SystemClock()
    sinks = build_sinks(config, clock)
    names = (args.sink,) if args.sink else choose_routes(config).choose(Level(args.level))
    unknown = [name for name in names if name not in sinks]
    if unknown or not sinks:
        say(f"no sink is named {unknown[0]}" if unknown else "no sink is configured: neither journald nor a webhook")
        return 2
    for name in () if args.sink else [name for name in sinks if name not in names]:
        say(f"{name}: left out, it takes no {args.level} alerts (min_level)")
    if not names:
        say("no sink takes an alert of that level: see --level and --sink")
        return 2
    alert = make_test_alert(Level(args.level), clock)
    failed = asyncio.run(send_to_all({name: sinks[name] for name in names}, alert))
    print(alert.id)  # noqa: T201 -- the result
    return 1 if failed else 0


async def send_to_all(sinks: dict[str, Sink], alert: Alert) -> int:
    """Send to one sink after the other; the number of those that did not take it."""
    failed = 0
    for name, sink in sinks.items():
        try:
            await sink.send(alert, kind="alert", delivery_id=f"alert_{alert.id}")
        except DeliveryError as error:
            failed += 1
            say(f"{name}: FAILED: {error}")
        else:
            say(f"{name}: taken")
        finally:
            await sink.close()
    return failed


def make_test_alert(level: Level, clock: Clock) -> Alert:
    """An alert that says of itself that it is a test."""
    now_ms = clock.now_ms()
    event = EventId("test", None, now_ms, 0, "test-alert")
    process = Process(
        key=ProcessKey("", os.getpid(), now_ms),
        pid=os.getpid(),
        ppid=os.getppid(),
        exe=sys.executable,
        comm="watchdogd",
        argv=("watchdogd", "test-alert"),
        cwd=None,
        uid=os.getuid(),
        user=None,
        auid=None,
        login=None,
        session=None,
        tty=None,
    )
    return Alert(
        id=hashlib.sha256(f"{RULE_ID}\n{event.text()}".encode()).hexdigest(),
        time_ms=now_ms,
        rule=Rule(id=RULE_ID, title="Test alert from watchdogd: nothing happened", level=level),
        level=level,
        source="test",
        category="test",
        action="test",
        outcome="success",
        events=(event,),
        fields={},
        matched={},
        process=process,
        lineage=(),
        group_key=RULE_ID,
        first_seen_ms=now_ms,
        last_seen_ms=now_ms,
        evidence_score=0.0,
        reasons=("somebody ran `watchdogd test-alert`",),
        lines=(),
        host=socket.gethostname(),
        verdict=Verdict(label=Label.UNTRIAGED, by="none", error="a test is not triaged"),
    )


def say(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201 -- a command speaks to its user
