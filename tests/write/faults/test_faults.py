"""An hour of alerts, in simulated time, to real receivers that misbehave in every way; a restart in the middle."""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import subprocess
import sys
from collections import defaultdict
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import pytest

from tests.write.certificates import make_certificates
from tests.write.conftest import build_alert
from watchdogd.delivery_desk import GIVEN_UP_RULE, DeliveryDesk
from watchdogd.entities import Label, Level, Verdict
from watchdogd.errors import DeliveryError
from watchdogd.reports import OutboxRequest
from watchdogd.store.database import Batch, NewAlert, Store
from watchdogd.store.outbox import Outbox
from watchdogd.store.outbox_table import OutboxTable
from watchdogd.telemetry import Counters
from watchdogd.webhook_settings import WebhookSettings
from watchdogd.write.deliver import Deliverer
from watchdogd.write.lanes import Terms
from watchdogd.write.webhook import WebhookSink

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from watchdogd.entities import Alert, Delivery

T0_MS = 1_753_000_000_000
HOUR_MS = 3_600_000
ALERTS = 72
GROUPS = 9
TIMEOUT_S = {"stuck": 0.04, "flaky": 0.1, "flaky-tls": 0.2}
"""Of real time: a hang holds up the simulated hour for so long."""
GIVE_UP_S = 900.0
SINKS = ("good", "flaky", "picky", "dead", "redirect", "stuck", "down", "good-tls", "flaky-tls")
NEVER = {"stuck", "down", "flaky", "flaky-tls"}
"""Those that are never given up."""
SETTLED = ("good", "flaky", "picky", "down", "good-tls", "flaky-tls")


class SimulatedTime:
    """Stands while anything is in somebody's hands; else `wait` moves it to the time that it is asked for."""

    def __init__(self) -> None:
        self.ms = T0_MS
        self.in_hand = 0
        self.plan: list[tuple[int, list[NewAlert]]] = []
        self.arrived: list[list[NewAlert]] = []

    def now_ms(self) -> int:
        return self.ms

    def monotonic_s(self) -> float:
        return (self.ms - T0_MS) / 1000

    async def wait(self, event: asyncio.Event, timeout_s: float) -> None:
        while (self.in_hand or self.arrived) and not event.is_set():
            try:
                async with asyncio.timeout(0.01):
                    await event.wait()
            except TimeoutError:
                continue
        if event.is_set():
            return
        self.ms += max(1, int(timeout_s * 1000))
        if self.plan and self.plan[0][0] <= self.ms:
            self.ms, due = self.plan[0]
            del self.plan[0]
            self.arrived.append(due)
        await asyncio.sleep(0)


class CountingOutbox(Outbox):
    """Tells the time what is in hand."""

    def __init__(self, store: Store, counters: Counters, time: SimulatedTime) -> None:
        super().__init__(store, counters, time)
        self._time = time

    async def take_due(self, now_ms: int, room: Mapping[str, int]) -> list[tuple[Delivery, Alert]]:
        taken = await super().take_due(now_ms, room)
        self._time.in_hand += len(taken)
        return taken

    async def give_back(self, delivery: Delivery) -> None:
        await super().give_back(delivery)
        self._time.in_hand -= 1

    async def mark_delivered(self, delivery: Delivery, *, is_well: bool = False) -> None:
        await super().mark_delivered(delivery, is_well=is_well)
        self._time.in_hand -= 1

    async def mark_failed(
        self, delivery: Delivery, error: str, next_try_ms: int | None, paused_until_ms: int = 0
    ) -> None:
        await super().mark_failed(delivery, error, next_try_ms, paused_until_ms)
        self._time.in_hand -= 1


class WatchedSink(WebhookSink):
    """A webhook that notes when somebody comes back sooner than the receiver asked for."""

    def __init__(
        self, settings: WebhookSettings, time: SimulatedTime, not_before: dict[str, tuple[float, float]]
    ) -> None:
        super().__init__(settings, time)
        self._time = time
        self._not_before = not_before
        self.too_soon: list[str] = []

    async def send(self, alert: Alert, *, kind: str, delivery_id: str) -> None:
        asked_s, until_s = self._not_before.get(self.name, (0.0, 0.0))
        if asked_s < self._time.monotonic_s() < until_s:  # at the same moment it was under way already
            self.too_soon.append(delivery_id)
        try:
            await super().send(alert, kind=kind, delivery_id=delivery_id)
        except DeliveryError as error:
            if error.retry_after_s:
                now_s = self._time.monotonic_s()
                _, until_s = self._not_before.get(self.name, (0.0, 0.0))
                self._not_before[self.name] = (now_s, max(until_s, now_s + error.retry_after_s))
            raise


class Process(msgspec.Struct, frozen=True):
    """A running receiver."""

    scheme: str
    port: int
    closed_port: int
    verify: str | bool

    def url(self, target: str, *, closed: bool = False) -> str:
        return f"{self.scheme}://127.0.0.1:{self.closed_port if closed else self.port}/{target}"

    def ask(self, path: str) -> list[dict[str, Any]]:
        verify = ssl.create_default_context(cafile=self.verify) if isinstance(self.verify, str) else self.verify
        found: list[dict[str, Any]] = httpx.get(self.url(path), verify=verify, trust_env=False, timeout=20).json()
        return found


def start_receiver(certificate: Path | None, authority: Path | None) -> tuple[subprocess.Popen[bytes], Process]:
    arguments = [] if certificate is None else [str(certificate)]
    program = Path(__file__).with_name("receiver.py")
    process = subprocess.Popen([sys.executable, str(program), *arguments], stdout=subprocess.PIPE)
    assert process.stdout is not None
    ports = json.loads(process.stdout.readline())
    scheme = "http" if certificate is None else "https"
    return process, Process(scheme, ports["port"], ports["closed_port"], str(authority) if authority else True)


@pytest.fixture
def receivers(tmp_path: Path) -> Iterator[tuple[Process, Process]]:
    (tmp_path / "tls").mkdir()
    certificates = make_certificates(tmp_path / "tls")
    plain, plain_at = start_receiver(None, None)
    secure, secure_at = start_receiver(certificates.server, certificates.authority)
    yield plain_at, secure_at
    for process in (plain, secure):
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def make_plan() -> list[tuple[int, list[NewAlert]]]:
    """An hour of alerts, of a few groups; some are large, some come in bursts, some wait for a verdict."""
    die = random.Random(5)
    plan: dict[int, list[NewAlert]] = defaultdict(list)
    for number in range(ALERTS):
        time_ms = T0_MS + number // 6 * (HOUR_MS // (ALERTS // 6)) + die.choice((0, 0, 0, 20_000))
        group = number % GROUPS
        alert = build_alert(
            id=f"alert-{number:04d}",
            level=Level.CRITICAL if group == 0 else Level.HIGH if group < 5 else Level.LOW,
            group_key=f"group-{group}",
            lines=("x" * 40_000,) if number % 12 == 7 else ("short",),
            verdict=None,
        )
        plan[time_ms].append(NewAlert(alert, SINKS, time_ms, triage=False))
    return sorted(plan.items())


class Life:
    """One life of the daemon's writing half."""

    def __init__(self, store: Store, time: SimulatedTime, sinks: dict[str, WatchedSink], counters: Counters) -> None:
        self.store, self.time, self.sinks, self.counters = store, time, sinks, counters
        self.outbox = CountingOutbox(store, counters, time)
        self.wake, self.given_up = asyncio.Event(), asyncio.Event()
        terms = {name: Terms(give_up_s=1e9 if name in NEVER else GIVE_UP_S, at_once=4) for name in sinks}
        self.deliverer = Deliverer(
            self.outbox,
            sinks,
            counters,
            time,
            terms=terms,
            chance=random.Random(3).random,
            wait=time.wait,
            on_given_up=self.given_up.set,
        )
        table = OutboxTable(store, time)
        self.desk = DeliveryDesk(
            self.outbox, table, self.deliverer, lambda _: SINKS, self.given_up, counters, time, "web01"
        )

    async def commit(self, new: list[NewAlert]) -> None:
        await self.store.commit(Batch(alerts=tuple(new)))
        for one in new:
            if int(one.alert.id[-4:]) % 5 == 0:  # a verdict that comes when some have the alert and some do not
                verdict = Verdict(label=Label.MALICIOUS, by="scorer", confidence=0.9)
                judged = msgspec.structs.replace(one.alert, verdict=verdict)
                self.wake.set()
                await asyncio.sleep(0.02)
                await self.store.record_verdict(judged, release=True, journald_only=False, verdict_update=True)
        self.wake.set()

    async def live(self, until_ms: int) -> None:
        """Take what arrives, deliver it, until that time."""
        async with asyncio.timeout(60):
            while self.time.ms < until_ms or self.time.in_hand:
                if self.time.arrived:
                    await self.commit(self.time.arrived[0])
                    del self.time.arrived[0]  # only now: time stands until what has arrived is stored
                await asyncio.sleep(0.001)


@asynccontextmanager
async def living(
    path: Path, time: SimulatedTime, urls: dict[str, tuple[str, str | None]], not_before: dict[str, tuple[float, float]]
) -> AsyncIterator[Life]:
    counters = Counters()
    store = await Store.open(path, counters, time)
    sinks = {
        name: WatchedSink(
            WebhookSettings(name=name, url=url, timeout_s=TIMEOUT_S.get(name, 20.0), ca_file=authority),
            time,
            not_before,
        )
        for name, (url, authority) in urls.items()
    }
    life = Life(store, time, sinks, counters)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(life.deliverer.run(life.wake)), group.create_task(life.desk.run())]
        try:
            yield life
        finally:
            for task in tasks:
                task.cancel()
    time.in_hand = 0
    await life.deliverer.close()
    await store.close()
    assert [name for sink in sinks.values() for name in sink.too_soon] == []


def order_of_arrival(log: list[dict[str, Any]], sink: str) -> dict[str, list[tuple[str, str]]]:
    """Of each group, alert and kind in the order in which they were taken first."""
    groups: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for entry in log:
        seen = (entry["alert_id"], entry["kind"])
        if entry["target"] == sink and entry["taken"] and seen not in groups[entry["group"]]:
            groups[entry["group"]].append(seen)
    return groups


def in_order(taken: list[tuple[str, str]]) -> bool:
    """Alerts in the order of their numbers, no verdict before its alert."""
    alerts = [alert_id for alert_id, kind in taken if kind == "alert"]
    verdicts = [alert_id for alert_id, kind in taken if kind == "verdict"]
    behind = all(taken.index((one, "verdict")) > taken.index((one, "alert")) for one in verdicts)
    return alerts == sorted(alerts) and behind


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # httpcore leaves a socket to the collector where
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # connecting takes too long
async def test_an_hour_of_faults_loses_nothing(tmp_path: Path, receivers: tuple[Process, Process]) -> None:
    asyncio.get_running_loop().set_debug(False)
    plain, secure = receivers
    assert isinstance(secure.verify, str)
    urls: dict[str, tuple[str, str | None]] = {name: (plain.url(name), None) for name in SINKS}
    urls["down"] = (plain.url("down", closed=True), None)
    for name in ("good-tls", "flaky-tls"):
        urls[name] = (secure.url(name.removesuffix("-tls")), secure.verify)
    time = SimulatedTime()
    time.plan = make_plan()
    path = tmp_path / "watchdogd.db"
    counted, not_before = 0, dict[str, tuple[float, float]]()
    async with living(path, time, urls, not_before) as life:
        await life.live(T0_MS + HOUR_MS // 2)
        counted += life.counters.get("write_dead_letters_total")
    await asyncio.to_thread(plain.ask, "open")
    async with living(path, time, urls, not_before) as life:
        await life.live(T0_MS + 5 * HOUR_MS)  # the hour, and what is tried again after it; pauses grow to an hour
        counted += life.counters.get("write_dead_letters_total")
        report = await life.desk.list(OutboxRequest())
        told = [one for one in await life.store.latest_alerts(1000) if one.rule.id == GIVEN_UP_RULE.id]
    logs = {"": await asyncio.to_thread(plain.ask, "log"), "-tls": await asyncio.to_thread(secure.ask, "log")}
    log = logs[""] + [entry | {"target": entry["target"] + "-tls"} for entry in logs["-tls"]]
    expected = {f"alert-{number:04d}" for number in range(ALERTS)}
    dead: dict[str, set[tuple[str, str]]] = {sink: set() for sink in SINKS}
    for row in report.deliveries:
        if row.state == "dead":
            dead[row.sink].add((row.alert_id, row.kind))

    for entry in log:
        assert entry["how"] == "reset" or entry["webhook_id"] == f"{entry['kind']}_{entry['alert_id']}"
    for sink in SETTLED:
        taken = {entry["alert_id"] for entry in log if entry["target"] == sink and entry["taken"]}
        lost = {alert_id for alert_id, kind in dead[sink] if kind == "alert"}
        assert expected <= taken | lost, sink
        assert not expected & taken & lost, sink
        assert all(map(in_order, order_of_arrival(log, sink).values())), sink
    assert {sink for sink, rows in dead.items() if rows} == {"dead", "redirect", "picky"}
    assert {alert_id for alert_id, kind in dead["picky"] if kind == "alert"} == {
        f"alert-{number:04d}" for number in range(ALERTS) if number % 12 == 7
    }
    for sink in ("dead", "redirect"):
        assert expected <= {alert_id for alert_id, kind in dead[sink] if kind == "alert"}
    assert counted == sum(map(len, dead.values())) == sum(state.get("dead", 0) for state in report.counts.values())
    assert report.counts["stuck"]["pending"] >= ALERTS
    assert {entry["how"] for entry in log} >= {"500", "503", "429", "408", "reset", "vanish", "hang", "drip", "cut"}
    assert {entry["how"] for entry in log} >= {"302", "413", "ok"}

    about = sorted(str(alert.fields["Sink"]) for alert in told)
    assert about[0] == "dead"
    assert about.count("dead") == about.count("redirect") == 1
    assert 1 <= about.count("picky") <= 3  # it takes some and refuses others: once an hour
    for alert in told:
        went = {entry["target"] for entry in log if entry["alert_id"] == alert.id}
        assert {"good", "good-tls"} <= went
        assert alert.fields["Sink"] not in went
