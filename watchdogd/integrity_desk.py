"""File integrity in the daemon: the kernel's word and full scans find what changed, and events of it are judged.

inotify says where to look, at once; a scan in a process of its own finds the rest, at each start and then every
`scan_interval_s`. Both compare with the baseline in the database.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Final

from watchdogd.collect.file_integrity import SOURCE
from watchdogd.collect.file_look import Looker, Throttle, find_folder_time_ns, list_children
from watchdogd.collect.file_paths import Selection, list_closed_mounts, select
from watchdogd.collect.file_walk import Walk
from watchdogd.errors import StoreError
from watchdogd.file_scan import Built, ScanDone, Scanned, ScanRequest, keep_hash
from watchdogd.file_scanning import ScanError, run_scan
from watchdogd.file_states import FOLDER, FileRow
from watchdogd.memory import trim_memory
from watchdogd.reports import SourceReport
from watchdogd.store import file_baseline

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
    from pathlib import Path

    from watchdogd.collect.file_look import Look
    from watchdogd.collect.file_watch import FolderWatch
    from watchdogd.entities import Event
    from watchdogd.file_changes import FileChanges
    from watchdogd.file_settings import FileIntegritySettings
    from watchdogd.ports import Clock
    from watchdogd.store.database import Store
    from watchdogd.telemetry import Counters

log = logging.getLogger("watchdogd.service")

SETTLE_S: Final = 0.3
"""What comes at once is looked at once."""
RELEASE_EVERY_S: Final = 0.25
IDLE_RELEASE_EVERY_S: Final = 2.0
"""Where nothing waits and the kernel says nothing."""
DIRTY_LIMIT: Final = 8_192
"""More paths that something happened to at once are found by a scan."""
LOOK_AT_ONCE: Final = 256
HELD_LIMIT: Final = 2_000
"""While so many changes wait, the scan does, too."""
ROWS_AT_ONCE: Final = 500
LEAST_BETWEEN_SCANS_S: Final = 30.0
DEEP: Final = "//read"
"""Kept among the patterns: when every file was read last."""

_SCANS: Final = "collect_integrity_scans_total"
_SCAN_ERRORS: Final = "collect_integrity_scan_errors_total"
_SEEN: Final = "collect_integrity_files_total"
_UNREADABLE: Final = "collect_integrity_unreadable_total"
_TOO_LARGE: Final = "collect_integrity_too_large_total"
_RESTLESS: Final = "collect_integrity_restless_total"
_LEFT_OUT: Final = "collect_integrity_left_out_total"
_MOUNTS: Final = "collect_integrity_skipped_mounts_total"
_COUNTED: Final = (_SCANS, _SCAN_ERRORS, _SEEN, _UNREADABLE, _TOO_LARGE, _RESTLESS, _LEFT_OUT, _MOUNTS)
_LISTED_AT_ONCE: Final = 10_000


class IntegrityDesk:
    """One per daemon; its loops are tasks."""

    def __init__(
        self,
        settings: FileIntegritySettings,
        own: Sequence[str],
        database: Path,
        store: Store,
        changes: FileChanges,
        tell: Callable[[list[Event]], Awaitable[None]],
        counters: Counters,
        clock: Clock,
    ) -> None:
        """`own` are further paths that are watched: the watchdog's; `tell` has events judged."""
        self._settings = settings
        self._paths = tuple(dict.fromkeys((*settings.paths, *own)))
        self._database = database
        self._store = store
        self._changes = changes
        self._tell = tell
        self._counters = counters
        self._clock = clock
        self._watch: FolderWatch | None = None
        self._selection = Selection((), (), ())
        self._built = self._selection
        self.tell_selected: Callable[[], None] = lambda: None
        """Hears when other paths are watched; the service sets it."""
        self._dirty: dict[bytes, None] = {}
        self._woken = asyncio.Event()
        self._scan_wanted = asyncio.Event()
        self._one_look = asyncio.Lock()
        self._last: ScanDone | None = None
        self._is_scanning = False
        self._deep_ms = 0
        for name in _COUNTED:
            counters.add(name, 0)

    def covers(self, path: str) -> bool:
        """Whether a path, as audit's events have it, is watched."""
        return self._selection.covers(path.encode("utf-8", "surrogateescape"))

    def loops(self) -> list[tuple[str, Coroutine[None, None, None]]]:
        """What the service runs as tasks, each with a name."""
        return [
            ("watch files", self._run_watch()),
            ("look at files", self._run_looks()),
            ("scan files", self._run_scans()),
            ("tell of files", self._run_releases()),
        ]

    def report(self) -> SourceReport:
        """What is watched, for `watchdogd status`."""
        watched = "no inotify" if self._watch is None else f"{len(self._watch)} folders watched"
        last = self._last
        if self._is_scanning:
            said = "scanning now" if last is None else f"{last.files} files, scanning now"
        else:
            said = "not scanned yet" if last is None else f"{last.files} files, scanned in {last.elapsed_s:.1f} s"
        return SourceReport(SOURCE, f"{said}; {watched}", running=True)

    def count_in_flight(self) -> dict[str, int]:
        """Changes that wait, by the name of the ledger's amount."""
        return {"file_changes_held": len(self._changes)}

    # --- inotify ----------------------------------------------------------------------------------------------------

    async def _run_watch(self) -> None:
        """Listen to the kernel until cancelled; without inotify the scans alone find changes."""
        from watchdogd.collect.file_watch import FolderWatch  # noqa: PLC0415 - ctypes, only where it is used

        try:
            self._watch = FolderWatch(self._counters)
        except OSError as error:
            log.warning("file integrity: no inotify (%s): changes are found by full scans only", error.strerror)
            return
        loop = asyncio.get_running_loop()
        loop.add_reader(self._watch.fd, self._read_watch)
        try:
            await asyncio.Event().wait()
        finally:
            loop.remove_reader(self._watch.fd)
            self._watch.close()

    def _read_watch(self) -> None:
        assert self._watch is not None  # noqa: S101 - it is who calls
        paths, lost = self._watch.read()
        self._note(paths)
        if lost:
            log.warning("file integrity: the kernel lost word of changed files; a full scan finds them")
            self._scan_wanted.set()

    def _note(self, paths: set[bytes]) -> None:
        """Have these looked at soon."""
        for path in paths:
            if path in self._dirty or not (self._selection.covers(path) or self._selection.leads(path)):
                continue
            if len(self._dirty) >= DIRTY_LIMIT:
                self._scan_wanted.set()
                break
            self._dirty[path] = None
        if self._dirty:
            self._woken.set()

    async def _aim(self) -> None:
        """Watch all folders in which something watched is or may come to be."""
        settings = self._settings
        self._selection = await asyncio.to_thread(select, self._paths, settings.exclude)
        self.tell_selected()
        closed = await asyncio.to_thread(list_closed_mounts, network=settings.network_mounts)
        walk = Walk(self._selection, closed, looker=Looker(max_bytes=0))
        folders = await asyncio.to_thread(lambda: list(walk.list_folders()))
        if self._watch is None:
            return
        self._watch.keep(set(folders))
        for number, path in enumerate(folders):
            self._watch.add(path)
            if number % 500 == 0:
                await asyncio.sleep(0)

    # --- single looks -----------------------------------------------------------------------------------------------

    async def _run_looks(self) -> None:
        while True:
            await self._woken.wait()
            await asyncio.sleep(SETTLE_S)
            paths = list(self._dirty)[:LOOK_AT_ONCE]
            for path in paths:
                del self._dirty[path]
            if not self._dirty:
                self._woken.clear()
            try:
                await self._look_at(paths)
            except StoreError as error:
                log.error("%s; changed files are found by the next scan", error)
                self._scan_wanted.set()
            await self._wait_for_room()

    async def _look_at(self, paths: Sequence[bytes], packages: Mapping[bytes, str | None] | None = None) -> None:
        """Compare paths with the baseline; `packages` are those that a scan found to differ. Raises StoreError.

        One after the other, so that no look is compared with what is known of a later moment.
        """
        async with self._one_look:
            await self._compare(paths, packages)

    async def _compare(self, paths: Sequence[bytes], packages: Mapping[bytes, str | None] | None) -> None:
        looks = await asyncio.to_thread(self._look_all, paths)
        rows = await self._find_rows(list(looks))
        for path, (look, time_ns) in looks.items():
            row = rows.get(path)
            if look is not None and look.state.kind == FOLDER:
                await self._enter(path)
            if look is None and row is not None and row.state is not None and row.state.kind == FOLDER:
                below = await self._store.read(file_baseline.list_below, path, _LISTED_AT_ONCE)
                self._note(set(below))
                if len(below) >= _LISTED_AT_ONCE:
                    self._scan_wanted.set()
            is_known = row is not None or self._built.covers(path)
            if packages is not None or (is_known and self._selection.covers(path)):
                before = None if row is None else row.state
                now = look if look is None or before is None else keep_hash(before, look)
                self._changes.take(path, row, now, time_ns, None if packages is None else packages.get(path))

    async def _find_rows(self, paths: Sequence[bytes]) -> dict[bytes, FileRow]:
        """What is known of these paths: from the baseline, or from what is on its way there."""
        rows = await self._store.read(file_baseline.load_files, paths)
        for path in paths:
            latest = self._changes.find_latest(path)
            if latest is not None:
                rows[path] = latest
        return rows

    def _look_all(self, paths: Sequence[bytes]) -> dict[bytes, tuple[Look | None, int]]:
        """Looks (None: gone), and the time to go by where a file is gone (ns). What says nothing is left out."""
        throttle = Throttle(self._settings.cpu_share)
        looker = Looker(max_bytes=self._settings.max_file_bytes, throttle=throttle, md5=True)
        looks: dict[bytes, tuple[Look | None, int]] = {}
        for path in paths:
            throttle.rest()
            try:
                look = looker.look_path(path)
            except OSError as error:
                self._counters.add(_UNREADABLE)
                log.debug("file integrity: %s: %s", ascii(path), error)
                continue
            now_ns = time.time_ns()
            looks[path] = (look, now_ns if look is not None else min(find_folder_time_ns(path), now_ns))
        return looks

    async def _enter(self, path: bytes) -> None:
        """Watch a folder that is new, and have all looked at that is in it by now."""
        if self._watch is not None and self._watch.add(path):
            self._note(await asyncio.to_thread(list_children, path))

    # --- scans ------------------------------------------------------------------------------------------------------

    async def _run_scans(self) -> None:
        while True:
            self._scan_wanted.clear()
            self._is_scanning = True
            try:
                await self._scan()
            except (OSError, StoreError, ScanError) as error:
                self._counters.add(_SCAN_ERRORS)
                log.error("file integrity: the scan failed, the next one is in time: %s", error)
            finally:
                self._is_scanning = False
            await asyncio.sleep(LEAST_BETWEEN_SCANS_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(1.0, self._settings.scan_interval_s - LEAST_BETWEEN_SCANS_S)):
                    await self._scan_wanted.wait()

    async def _scan(self) -> None:
        """One full scan. Raises OSError, StoreError, ScanError."""
        await self._aim()
        built = await self._store.read(file_baseline.load_built)
        self._built = self._selection.restrict(built)
        now_ms = self._clock.now_ms()
        is_deep = now_ms - built.get(DEEP, 0) >= self._settings.read_interval_s * 1000
        done = await self._follow_scan(self._make_request(deep=is_deep), built)
        is_first = not set(done.patterns) <= set(built)
        await self._mark_built((*done.patterns, DEEP), anew=DEEP if is_deep else "")
        self._count(done)
        self._last = done
        await self._store.read(file_baseline.free_pages)
        trim_memory()
        log.log(
            logging.INFO if is_first else logging.DEBUG,
            "file integrity: %s: %d files in %.1f s, %.1f s of CPU time, %d MB of memory",
            "the baseline is made, from now on what differs is an event" if is_first else "scanned",
            done.files,
            done.elapsed_s,
            done.cpu_s,
            done.memory_bytes >> 20,
        )

    async def _mark_built(self, patterns: Sequence[str], anew: str = "") -> None:
        """From now on what is new below these is news."""
        await self._store.write(file_baseline.mark_built, tuple(dict.fromkeys(patterns)), self._clock.now_ms(), anew)
        self._built = self._selection.restrict(patterns)

    def _make_request(self, *, deep: bool) -> ScanRequest:
        settings = self._settings
        return ScanRequest(
            database=str(self._database),
            paths=self._paths,
            exclude=settings.exclude,
            special_folders=settings.special_folders,
            max_bytes=settings.max_file_bytes,
            max_files=settings.max_files,
            share=settings.cpu_share,
            network=settings.network_mounts,
            deep=deep,
        )

    async def _follow_scan(self, request: ScanRequest, built: Mapping[str, int]) -> ScanDone:
        quiet: list[FileRow] = []
        news: dict[bytes, str | None] = {}
        async with contextlib.aclosing(run_scan(request)) as messages:
            async for message in messages:
                if isinstance(message, Scanned) and message.news:
                    news[message.path] = message.package
                elif isinstance(message, Scanned):
                    state = None if message.look is None else message.look.state
                    quiet.append(FileRow(message.path, state, message.package))
                is_done = not isinstance(message, Scanned)
                if len(quiet) >= ROWS_AT_ONCE or is_done:
                    await self._store.write(file_baseline.refresh_files, tuple(quiet))
                    quiet.clear()
                if len(news) >= LOOK_AT_ONCE or (news and is_done):
                    await self._look_at(tuple(news), news)
                    news = {}
                    await self._wait_for_room()
                if isinstance(message, Built) and not set(message.patterns) <= set(built):
                    await self._mark_built((*built, *message.patterns))
                if isinstance(message, ScanDone):
                    return message
        raise ScanError("it ended before it was done")

    async def _wait_for_room(self) -> None:
        while self._changes.count_waiting() >= HELD_LIMIT:  # noqa: ASYNC110 - time alone makes room
            await asyncio.sleep(RELEASE_EVERY_S)

    def _count(self, done: ScanDone) -> None:
        self._counters.add(_SCANS)
        for name, number in (
            (_SEEN, done.files),
            (_UNREADABLE, done.unreadable),
            (_TOO_LARGE, done.too_large),
            (_RESTLESS, done.restless),
            (_LEFT_OUT, done.left_out),
            (_MOUNTS, len(done.skipped_mounts)),
        ):
            self._counters.add(name, number)
        if done.left_out:
            log.warning(
                "file integrity: %d files are not watched: there are more than max_files (%d)",
                done.left_out,
                self._settings.max_files,
            )

    # --- out --------------------------------------------------------------------------------------------------------

    async def _run_releases(self) -> None:
        while True:
            is_looking = bool(self._dirty) or self._one_look.locked()
            events = await self._changes.release(more_to_come=is_looking)
            if events:
                await self._tell(events)
            if self._changes or self._woken.is_set():
                await asyncio.sleep(RELEASE_EVERY_S)
                continue
            with contextlib.suppress(TimeoutError):  # a scan may have found what no word of the kernel woke us for
                async with asyncio.timeout(IDLE_RELEASE_EVERY_S):
                    await self._woken.wait()
