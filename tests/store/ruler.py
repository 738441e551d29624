"""Stores alerts and gives them verdicts until it is killed. Arguments: the database, an alert as JSON."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import msgspec

from watchdogd.entities import Alert, Label, Verdict
from watchdogd.ports import SystemClock
from watchdogd.store.batch import RuledAlert
from watchdogd.store.database import Batch, NewAlert, Store
from watchdogd.store.verdicts import Verdicts
from watchdogd.telemetry import Counters

MALICIOUS = Verdict(label=Label.MALICIOUS, by="fusion")


async def rule_on(path: Path, sample: Alert) -> None:
    store = await Store.open(path, Counters(), SystemClock())
    verdicts = Verdicts(store, Counters(), SystemClock())
    number = await store.count_alerts()
    print("ready", flush=True)  # noqa: T201 - what the test waits for
    while True:
        alert = msgspec.structs.replace(sample, id=str(number))
        await store.commit(Batch(alerts=(NewAlert(alert, ("journald", "hook"), 1 << 60, triage=True, question="q"),)))
        number += 1
        waiting = await verdicts.waiting_alerts("q", 9)
        ruled = [msgspec.structs.replace(one, verdict=MALICIOUS) for one in waiting]
        await verdicts.record([RuledAlert(one, sinks=("journald", "mail"), refused=("hook",)) for one in ruled])


asyncio.run(rule_on(Path(sys.argv[1]), msgspec.json.decode(sys.argv[2], type=Alert)))
