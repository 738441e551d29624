"""A stuck stage ends the tokens that WatchdogSec waits for: the real daemon, with one function that never returns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.daemon import Daemon, make_exec_lines, wait_until

if TYPE_CHECKING:
    from pathlib import Path

STUCK = "here it is stuck"
BLOCKS = f"""
import asyncio, sys, time

def stick(*_, **__):
    print({STUCK!r}, file=sys.stderr, flush=True)
    time.sleep(3600)

async def stick_alone(*_, **__):
    print({STUCK!r}, file=sys.stderr, flush=True)
    await asyncio.Event().wait()
"""
STAGES = {
    "collect": ("watchdogd.collect.audit_log", "AuditLogTail", "step = stick"),
    "decode": ("watchdogd.decode.decoder", "Decoder", "feed = stick"),
    "enrich": ("watchdogd.enrich.enricher", "Enricher", "enrich = stick"),
    "match": ("watchdogd.match.engine", "Engine", "judge = stick"),
    "store": ("watchdogd.store", "database", "write_batch = stick"),
    "triage": ("watchdogd.triage_desk", "TriageDesk", "sort = stick_alone"),
    "routes": ("watchdogd.triage_desk", "TriageDesk", "wants = stick"),
    "write": ("watchdogd.store.outbox", "Outbox", "take_due = stick_alone"),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stuck_stage_starves_the_watchdog(tmp_path: Path, stage: str) -> None:
    module, name, block = STAGES[stage]
    patches = tmp_path / "patches"
    patches.mkdir()
    (patches / "sitecustomize.py").write_text(f"{BLOCKS}\nfrom {module} import {name}\n{name}.{block}\n")
    with Daemon(tmp_path, webhook_url="http://127.0.0.1:9/") as daemon:
        daemon.log.touch()
        daemon.environ |= {"WATCHDOG_USEC": "300000", "PYTHONPATH": str(patches)}
        daemon.start(ready=stage not in {"store", "write"})
        daemon.append(make_exec_lines(1))
        wait_until(lambda: STUCK in daemon.said, daemon)
        daemon.read_notes()  # what was on its way
        with pytest.raises(AssertionError, match="never said"):
            daemon.wait_note("WATCHDOG=1", 0.7)
