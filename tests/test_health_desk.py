"""Signs of blindness gathered from a real pipeline, and alerts about it that are stored like all others."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.test_judge import TIME_MS
from tests.test_pipeline import Bench, Refusing, SkippingClock
from watchdogd.collect.audit_status import KernelLosses
from watchdogd.config import AuditLogSettings, Config, SourcesSettings
from watchdogd.health_desk import HealthDesk
from watchdogd.match.library import RuleSet
from watchdogd.reports import SourceReport
from watchdogd.store.batch import Batch
from watchdogd.telemetry import Counters
from watchdogd.write.emergency import Emergency

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


STATUS = "enabled {}\nfailure 1\npid 1\nrate_limit 0\nbacklog_limit 8192\nlost 0\nbacklog 0\n"


class Host:
    """A daemon's health desk, and the files that it looks at."""

    def __init__(self, folder: Path, store: Refusing, clock: SkippingClock) -> None:
        self.log = folder / "audit.log"
        self.log.touch()
        self.status = folder / "status"
        self.clock = clock
        self.bench = Bench(store, RuleSet(bodies=()), None, clock)
        self.losses = KernelLosses(self.status, self.bench.counters, clock)
        self.running = True
        config = Config(sources=SourcesSettings(audit_log=AuditLogSettings(path=str(self.log))))
        self.desk = HealthDesk(
            config,
            self.bench.pipeline,
            store,
            self.losses,
            lambda: [SourceReport("audit_log", "", self.running)],
            self.bench.counters,
            clock,
        )
        self.emergency = Emergency(lambda _: None, self.bench.counters)
        self.bench.pipeline.emergency = self.emergency

    def write_status(self, enabled: int, rules: int | None = None) -> None:
        self.status.write_text(STATUS.format(enabled) + (f"rules {rules}\n" if rules is not None else ""))
        changed_ns = self.clock.now_ms() * 1_000_000
        os.utime(self.status, ns=(changed_ns, changed_ns))
        self.losses.sample()

    async def look(self, skip_s: float = 0.0) -> list[str]:
        self.clock.skip(skip_s)
        before = {alert.id for alert in await self.bench.store.latest_alerts(100)}
        await self.desk.look()
        latest = await self.bench.store.latest_alerts(100)
        return [alert.action for alert in reversed(latest) if alert.id not in before]


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    clock = SkippingClock()
    store = await Refusing.open(tmp_path / "watchdogd.db", Counters(), clock)
    assert isinstance(store, Refusing)
    yield Host(tmp_path, store, clock)
    await store.close()


async def test_audit_that_is_switched_off_and_rules_that_go_are_told(host: Host) -> None:
    host.write_status(1, 40)
    assert await host.look() == []
    host.write_status(0, 0)
    assert await host.look() == ["audit_disabled", "audit_rules_gone"]
    assert await host.look() == []
    assert host.bench.counters.gauges()["health_conditions"] == 2
    assert {name: host.bench.counters.get(name) for name in ("service_alerts_total", "store_alerts_total")} == {
        "service_alerts_total": 2,
        "store_alerts_total": 2,
    }
    assert {delivery.sink for delivery, _ in await host.bench.take()} == {"journald", "pager"}
    host.write_status(1, 40)
    assert await host.look() == ["audit_disabled_over", "audit_rules_gone_over"]


async def test_a_status_of_an_older_unit_says_nothing_of_rules(host: Host) -> None:
    host.write_status(1)
    assert host.losses.known is not None
    assert host.losses.known.rules is None
    assert await host.look() == []


async def test_a_log_that_vanishes_is_told_and_one_that_is_not_read(host: Host) -> None:
    assert await host.look() == []
    host.log.unlink()
    assert await host.look() == []
    assert await host.look(61) == ["log_unreadable"]
    host.log.touch()
    assert await host.look() == ["log_unreadable_over"]
    host.running = False
    assert await host.look() == []
    assert await host.look(61) == ["log_unreadable"]


async def test_alerts_about_itself_wait_for_the_database_and_go_past_it(host: Host) -> None:
    host.bench.counters.set_gauge("rules_last_load_failed", 1)
    host.bench.store.refusals = 2
    assert await host.look() == []
    waiting = {name: [item.alert.action for item in lane] for name, lane in host.emergency._lanes.items()}
    assert waiting == {"journald": ["rules_broken"]}  # medium: the pager hears from high up
    assert await host.look() == []
    assert await host.look() == ["rules_broken"]
    assert host.bench.counters.get("service_alerts_total") == 1
    assert host.clock.now_ms() >= TIME_MS


async def test_a_restart_repeats_nothing_and_tells_the_end(tmp_path: Path) -> None:
    clock, counters = SkippingClock(), Counters()
    store = await Refusing.open(tmp_path / "watchdogd.db", counters, clock)
    assert isinstance(store, Refusing)
    host = Host(tmp_path, store, clock)
    host.write_status(1, 40)
    assert await host.look() == []
    host.write_status(0, 40)
    host.log.unlink()
    assert await host.look() == ["audit_disabled"]
    assert await host.look(61) == ["log_unreadable"]
    store.refusals = 1
    host.write_status(0, 30)
    assert await host.look() == []  # refused, and with it what is known of it
    await store.close()  # as a kill leaves it: nothing is written at an end
    store = await Refusing.open(tmp_path / "watchdogd.db", counters, clock)
    assert isinstance(store, Refusing)
    host = Host(tmp_path, store, clock)
    host.log.unlink()
    assert await host.look(61) == []
    assert host.bench.counters.gauges()["health_conditions"] == 2
    host.write_status(0, 30)
    assert await host.look() == ["audit_rules_fewer"]
    host.write_status(1, 30)
    host.log.touch()
    assert sorted(await host.look()) == ["audit_disabled_over", "log_unreadable_over"]
    await store.close()


async def test_a_state_that_cannot_be_read_is_said_and_replaced(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    await host.bench.store.commit(Batch(health=b"{"))
    host.write_status(0)
    assert await host.look() == ["audit_disabled"]
    assert "cannot be read from the database" in caplog.text
    assert b"audit_disabled" in (await host.bench.store.load_health() or b"")
