"""What triage costs of our own: CPU for each alert, with the real desk, database and HTTP client.

The server is another process that answers at once, so that its work and a model's are not counted. Alerts are those of
the demo recording, each with other arguments so that everyone is asked about; then the same ones again, which the kept
verdicts answer; and a storm of one group, which is folded. At last the model is believed: then it is asked for the
label, too. What committing the alerts costs without triage is subtracted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from watchdogd.assembly import build_desk
from watchdogd.background import Fusion, Standing
from watchdogd.cli.replay import build_judge, judge_files
from watchdogd.config import Config, JournaldSettings, StoreSettings, TriageSettings
from watchdogd.entities import Label
from watchdogd.match.library import load_rules
from watchdogd.ports import SystemClock
from watchdogd.store.database import Batch, NewAlert, Store
from watchdogd.store.verdicts import Verdicts
from watchdogd.telemetry import Counters
from watchdogd.triage.prompt import TEMPLATE_VERSION

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from watchdogd.entities import Alert
    from watchdogd.triage_desk import TriageDesk

ROOT = Path(__file__).parent.parent
ALERTS, ROUNDS = 400, 5
BUDGET_MS = 5.0
SAID = {"label": "suspicious", "summary": "A program was started.", "techniques": [], "next_steps": []}
MESSAGE = {"role": "assistant", "content": json.dumps(SAID)}
COUNTS = {"prompt_eval_count": 1500, "eval_count": 9}
ANSWER = json.dumps({"model": "m", "message": MESSAGE, "done": True, "done_reason": "stop", **COUNTS}).encode()
TAGS = b'{"models": [{"name": "phi3:mini", "model": "phi3:mini", "digest": "sha256:1", "size": 1}]}'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
QUIET = 20
"""So many questions wait at most: what a host that is not under attack may have."""
VARIETY = "--variant-"
PASSED = Standing(
    model="phi3:mini",
    digest="sha256:1",
    prompt_version=TEMPLATE_VERSION,
    passed=True,
    cases=56,
    auroc=0.95,
    auroc_low=0.9,
    auroc_high=1.0,
    scorer_auroc=0.8,
    injections=24,
    obeyed=0,
    latency_s=1.0,
    examined_ms=0,
    fusion=Fusion(0.0, 1.0, 1.0),
)


class Cost(NamedTuple):
    """CPU in ms for each alert: without triage, and what triage adds."""

    commit_ms: float
    asked_ms: float
    cached_ms: float
    folded_ms: float
    believed_ms: float


async def answer_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The same to every request of a connection, which stays open as Ollama's do."""
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            lengths = [line[15:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            await reader.readexactly(int(lengths[0]) if lengths else 0)
            body = TAGS if b"/api/tags" in head else ANSWER
            writer.write(HEAD % len(body) + body)
            await writer.drain()
    writer.close()


def serve(pipe: Connection) -> None:
    """A server that says the same of everything, until told to stop."""

    async def run() -> None:
        server = await asyncio.start_server(answer_all, "127.0.0.1", 0)
        pipe.send(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await asyncio.to_thread(pipe.recv)

    asyncio.run(run())


def find_alerts() -> list[Alert]:
    """Alerts of the demo recording."""
    judge = build_judge(load_rules([ROOT / "rules"]), Counters())
    return [
        replace(alert, verdict=None) for alert in judge_files(judge, [str(ROOT / "tests/data/demo.log")], Counters())
    ]


def spread(alerts: list[Alert], name: str, *, alike: bool, alone: bool) -> list[Alert]:
    """So many alerts, each with an id of its own; not `alike`: with arguments of its own; `alone`: and a session."""
    made = []
    for number in range(ALERTS):
        alert = alerts[0 if alike else number % len(alerts)]
        process = alert.process
        if process is not None and not alike:
            word = VARIETY + "".join(chr(97 + int(digit)) for digit in str(number))
            process = replace(process, argv=(*process.argv, word))
            if alone:
                process = replace(process, session=f"{9000 + number}", auid=process.auid or 0)
        key = alert.group_key if alike else f"{alert.group_key}|{number}"
        made.append(
            replace(alert, id=f"{name}{number:0>63}", process=process, group_key=key, time_ms=alert.time_ms + number)
        )
    return made


async def put(store: Store, alerts: list[Alert], desk: TriageDesk | None) -> float:
    """Commit the alerts in batches, wait for their verdicts; CPU seconds of this process."""
    verdicts = Verdicts(store, Counters(), SystemClock())
    began_s = time.process_time()
    for start in range(0, len(alerts), 50):
        batch = alerts[start : start + 50]
        names = [desk.name_question(alert) if desk is not None else "" for alert in batch]
        new = [
            NewAlert(alert, ("journald",), 0, triage=desk is not None, question=name)
            for alert, name in zip(batch, names, strict=True)
        ]
        await store.commit(Batch(alerts=tuple(new)))
        if desk is not None:
            for alert, name in zip(batch, names, strict=True):
                desk.take(alert, name)
            while desk.report().waiting > QUIET:  # noqa: ASYNC110 -- what the desk does is to be seen from outside
                await asyncio.sleep(0.01)
    while await verdicts.waiting_questions(1):  # noqa: ASYNC110 -- it happens on the database's thread
        await asyncio.sleep(0.05)
    return time.process_time() - began_s


async def measure(url: str, alerts: list[Alert]) -> Cost:
    """One round."""
    with tempfile.TemporaryDirectory() as folder:
        settings = TriageSettings(ollama_url=url, budget_per_minute=60_000, questions_per_group=1000)
        path = f"{folder}/watchdogd.db"
        config = Config(triage=settings, store=StoreSettings(path=path), journald=JournaldSettings(enabled=True))
        counters, clock = Counters(), SystemClock()
        store = await Store.open(Path(path), counters, clock)
        parts = await build_desk(config, store, counters, clock)
        costs = []
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(loop) for _, loop in parts.desk.loops()]
            for name, alike, alone, desk in (
                ("w", True, False, parts.desk),  # connections and caches are warm from here on
                ("c", False, False, None),
                ("a", False, False, parts.desk),
                ("p", False, True, parts.desk),
                ("q", False, True, parts.desk),  # asked again: now the session has an alert
                ("r", False, True, parts.desk),
                ("f", True, False, parts.desk),
                ("b", False, False, parts.desk),
            ):
                costs.append(1000 * await put(store, spread(alerts, name, alike=alike, alone=alone), desk) / ALERTS)
                if name == "r":
                    parts.desk.forget_verdicts()
                elif name == "f":
                    await parts.board.keep(PASSED)
                    parts.desk.forget_verdicts()
            for task in tasks:
                task.cancel()
        said = {(alert.verdict.label, alert.verdict.by) for alert in await store.latest_alerts(ALERTS) if alert.verdict}
        if {by for _, by in said} != {"fusion"} or (Label.UNTRIAGED, "none") in said:
            raise SystemExit(f"not all were answered: {counters.snapshot()}")
        await parts.desk.close()
        parts.gatherer.close()
        await store.close()
    _, commit_ms, asked_ms, _, _, *others = costs
    return Cost(commit_ms, asked_ms - commit_ms, *(cost_ms - commit_ms for cost_ms in others))


def main() -> int:
    """Print best and median of some rounds; 1 where triage costs more than its budget, by the median."""
    alerts = find_alerts()
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    url = ours.recv()
    rounds = [asyncio.run(measure(url, alerts)) for _ in range(ROUNDS)]
    ours.send("stop")
    server.join(10)
    columns = list(zip(*rounds, strict=True))
    best, usual = Cost(*map(min, columns)), Cost(*map(statistics.median, columns))
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"ms of CPU an alert, median of {ROUNDS} rounds (and the best)")
    for text, place in (
        ("commit without triage", 0),
        ("triage adds, with one request: an explanation", 1),
        ("              two requests: the model is believed", 4),
        ("              a kept verdict", 2),
        ("              a question that others asked, too", 3),
    ):
        print(f"{text:<52}{usual[place]:.2f} ({best[place]:.2f})")
    print(f"peak memory {peak_mb:.0f} MB (with the rules' compiler)")
    return 0 if max(usual.asked_ms, usual.believed_ms) <= BUDGET_MS else 1


if __name__ == "__main__":
    sys.exit(main())
