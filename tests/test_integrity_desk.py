"""The desk of file integrity where something is amiss: lost words, a scan that fails, a flood."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

import msgspec
import pytest

from watchdogd.collect.package_changes import PackageChanges
from watchdogd.enrich.deeds import RecentDeeds, name_inode
from watchdogd.errors import StoreError
from watchdogd.file_changes import FileChanges, Terms
from watchdogd.file_scanning import ScanError
from watchdogd.file_settings import FileIntegritySettings
from watchdogd.integrity_desk import DIRTY_LIMIT, IntegrityDesk
from watchdogd.ports import SystemClock
from watchdogd.store import file_baseline
from watchdogd.store.database import Store
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from watchdogd.entities import Event


class Bench:
    """A desk on a real database, and what it tells."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.root = folder.resolve() / "etc"
        self.root.mkdir()
        (self.root / "passwd").write_text("root")
        self.counters = Counters()
        self.told: list[Event] = []
        self.store = store
        clock = SystemClock()
        self.changes = FileChanges(
            Terms(who_wait_s=0),
            PackageChanges(folder),
            RecentDeeds(lambda _: False),
            lambda _: None,
            name_inode,
            self.counters,
            clock,
        )
        settings = msgspec.structs.replace(
            FileIntegritySettings(), paths=(str(self.root),), special_folders=(), cpu_share=1.0
        )
        self.database = folder / "watchdogd.db"
        self.desk = IntegrityDesk(settings, (), self.database, store, self.changes, self.tell, self.counters, clock)

    async def tell(self, events: list[Event]) -> None:
        self.told += events

    async def list_rows(self) -> list[bytes]:
        return [row.path for row in await self.store.read(lambda one: list(file_baseline.iterate_files(one)))]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    store = await Store.open(tmp_path / "watchdogd.db", Counters(), SystemClock())
    yield Bench(tmp_path, store)
    await store.close()


class Overflown:
    fd = -1

    def read(self) -> tuple[set[bytes], bool]:
        return set(), True


async def test_words_that_the_kernel_lost_have_all_files_scanned(bench: Bench) -> None:
    bench.desk._watch = Overflown()  # type: ignore[assignment] # the real one's overflow is tried in its own tests
    bench.desk._read_watch()
    assert bench.desk._scan_wanted.is_set()


async def test_a_flood_of_changed_files_is_left_to_a_scan(bench: Bench) -> None:
    await bench.desk._aim()
    root = os.fsencode(bench.root)
    bench.desk._note({root + b"/%d" % number for number in range(DIRTY_LIMIT + 10)})
    assert len(bench.desk._dirty) == DIRTY_LIMIT
    assert bench.desk._scan_wanted.is_set()
    bench.desk._note({b"/elsewhere", b"/"})
    assert b"/elsewhere" not in bench.desk._dirty


async def test_a_scan_that_fails_says_why_and_marks_nothing(bench: Bench) -> None:
    bench.desk._database = bench.root / "no" / "such.db"
    with pytest.raises(ScanError, match="unable to open database file"):
        await bench.desk._scan()
    assert await bench.list_rows() == []
    assert await bench.store.read(file_baseline.load_built) == {}


async def test_a_failing_scan_is_counted_and_tried_again(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.desk._database = bench.root / "no" / "such.db"
    task = asyncio.ensure_future(bench.desk._run_scans())
    while not bench.counters.get("collect_integrity_scan_errors_total"):  # noqa: ASYNC110 - a counter wakes nobody
        await asyncio.sleep(0.02)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert "the scan failed" in caplog.text


async def test_a_database_that_refuses_leaves_the_rest_to_a_scan(bench: Bench) -> None:
    await bench.desk._scan()
    await bench.store.close()
    with pytest.raises(StoreError):
        await bench.desk._look_at([os.fsencode(bench.root / "passwd")])


async def test_a_scan_ends_with_who_waits_for_it(bench: Bench) -> None:
    for number in range(2_000):
        (bench.root / f"{number}").write_text("x")
    scan = asyncio.ensure_future(bench.desk._scan())
    await asyncio.sleep(0.4)
    scan.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await scan
    tasks = os.listdir("/proc/self/task")  # noqa: PTH208
    children = {pid for task in tasks for pid in read_children(task)}
    assert not [pid for pid in children if b"file_scan" in read_command(pid)]


def read_children(task: str) -> list[str]:
    with contextlib.suppress(OSError), open(f"/proc/self/task/{task}/children") as file:  # noqa: PTH123
        return file.read().split()
    return []


def read_command(pid: str) -> bytes:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:  # noqa: PTH123
        return file.read()
    return b""


async def test_looks_and_scans_agree(bench: Bench) -> None:
    await bench.desk._scan()
    assert await bench.changes.release() == []
    path = bench.root / "passwd"
    path.write_text("evil")
    await bench.desk._look_at([os.fsencode(path)])
    await bench.desk._scan()
    (event,) = await bench.changes.release()
    assert event.id.name == str(path)
    bench.changes.settle(event)
    await bench.store.write(file_baseline.write_files, bench.changes.list_ready())
    bench.changes.forget(bench.changes.list_ready())
    await bench.desk._scan()
    assert await bench.changes.release() == []
