"""Commits batches until it is killed. Arguments: the database, an alert as JSON to be made many of."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import msgspec

from watchdogd.entities import Alert, Checkpoint
from watchdogd.ports import SystemClock
from watchdogd.store.database import Batch, NewAlert, Store
from watchdogd.telemetry import Counters

BATCH = 3


async def commit_on(path: Path, sample: Alert) -> None:
    store = await Store.open(path, Counters(), SystemClock())
    last = await store.load_checkpoint("audit_log")
    number = last.offset if last else 0
    print("ready", flush=True)  # noqa: T201 - what the test waits for
    while True:
        alerts = tuple(
            NewAlert(msgspec.structs.replace(sample, id=str(number + step)), ("journald", "hook"), 0, triage=False)
            for step in range(BATCH)
        )
        number += BATCH
        await store.commit(Batch(alerts=alerts, checkpoint=Checkpoint("audit_log", "/log", "1:1:aa", number)))


asyncio.run(commit_on(Path(sys.argv[1]), msgspec.json.decode(sys.argv[2], type=Alert)))
