"""The kernel's own count of losses, read from a file that a root timer writes."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from watchdogd.collect.audit_status import FILE_BYTES, SAY_EVERY_S, STALE_MS, KernelLosses, read_status
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from pathlib import Path

NOW_MS = 1_795_000_000_000
STATUS = """\
enabled {enabled}
failure 1
pid 812
rate_limit 0
backlog_limit 8192
lost {lost}
backlog 3
backlog_wait_time 60000
backlog_wait_time_actual 0
loginuid_immutable 0 unlocked
"""


class HandClock:
    def __init__(self) -> None:
        self.ms = NOW_MS

    def now_ms(self) -> int:
        return self.ms

    def monotonic_s(self) -> float:
        return self.ms / 1000


class Bench:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = HandClock()
        self.counters = Counters()
        self.losses = KernelLosses(path, self.counters, self.clock)

    def write(self, lost: int, *, enabled: int = 1, age_ms: int = 0) -> None:
        self.write_text(STATUS.format(lost=lost, enabled=enabled), age_ms=age_ms)

    def write_text(self, text: str, *, age_ms: int = 0) -> None:
        self.path.write_text(text)
        changed_ns = (self.clock.ms - age_ms) * 1_000_000
        os.utime(self.path, ns=(changed_ns, changed_ns))

    @property
    def lost(self) -> int:
        return self.counters.get("collect_kernel_lost_total")

    @property
    def stale(self) -> int:
        return self.counters.get("collect_audit_status_stale_total")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "status")


def test_what_was_lost_before_the_start_does_not_count(bench: Bench) -> None:
    for lost in (500, 500, 512):
        bench.write(lost)
        assert bench.losses.sample() == ()
    assert bench.lost == 12
    assert bench.losses.latest is not None
    assert (bench.losses.latest.backlog_limit, bench.losses.latest.pid) == (8192, 812)


def test_a_reset_is_no_negative_loss(bench: Bench) -> None:
    for lost in (500, 510, 4, 9):
        bench.write(lost)
        bench.losses.sample()
    assert bench.lost == 10 + 4 + 5


def test_losses_are_said_once_a_minute(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "watchdogd")
    for lost in (0, 5, 6, 7):
        bench.write(lost)
        bench.losses.sample()
    assert caplog.messages == [
        "the kernel lost 5 audit records: raise its backlog (-b in the audit rules), or audit less"
    ]
    bench.clock.ms += int(SAY_EVERY_S * 1000)
    bench.write(7)
    bench.losses.sample()
    assert "lost 2 audit records" in caplog.messages[-1]


def test_a_kernel_that_records_nothing_is_said_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    for enabled in (1, 0, 0, 1, 2, 0):
        bench.write(0, enabled=enabled)
        bench.losses.sample()
    assert len([message for message in caplog.messages if "switched off" in message]) == 2


def test_a_missing_file_is_said_once_and_only_when_it_stays_away(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "watchdogd")
    bench.losses.sample()
    assert bench.stale == 0
    for _ in range(5):
        bench.losses.sample()
    assert bench.stale == 1
    (message,) = caplog.messages
    assert "watchdogd-audit-status.timer" in message
    bench.write(3)
    bench.losses.sample()
    assert "of use again" in caplog.messages[-1]
    assert bench.lost == 0


def test_a_stale_file_is_no_baseline(bench: Bench) -> None:
    for _ in range(2):
        bench.write(10, age_ms=STALE_MS + 1000)
        bench.losses.sample()
    assert bench.losses.latest is None
    assert bench.stale == 1
    bench.write(90)
    bench.losses.sample()
    assert bench.lost == 0


def test_links_folders_and_pipes_are_not_followed(bench: Bench, tmp_path: Path) -> None:
    bench.write(1)
    link = tmp_path / "link"
    link.symlink_to(bench.path)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (link, tmp_path, pipe):
        with pytest.raises((OSError, ValueError)):
            read_status(path, NOW_MS)


def test_only_the_beginning_of_a_long_file_is_read(bench: Bench) -> None:
    bench.write_text("x" * FILE_BYTES + STATUS.format(lost=1, enabled=1))
    with pytest.raises(ValueError, match="lacks enabled"):
        read_status(bench.path, NOW_MS)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=300), st.text(alphabet="lost enabld\n0123456789", max_size=200).map(str.encode)))
def test_nothing_in_the_file_makes_it_raise(bench: Bench, content: bytes) -> None:
    bench.path.write_bytes(content)
    os.utime(bench.path, ns=(NOW_MS * 1_000_000, NOW_MS * 1_000_000))
    bench.losses.sample()
    assert bench.lost == 0
