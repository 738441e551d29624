"""What the daemon says when it is stopped: who did it, as a log line and as an alert that is stored before it ends."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from watchdogd.enrich.identity import look_up_host_user
from watchdogd.errors import StoreError
from watchdogd.last_words import ASKED_WITHIN_MS, Actor, build_last_words, describe, find_asker, is_asking, may_ask
from watchdogd.stop_signals import StopListener, StopSignal
from watchdogd.store.batch import Batch, NewAlert
from watchdogd.telemetry import count_own_alerts
from watchdogd.write.formats.text import escape_controls

if TYPE_CHECKING:
    from collections.abc import Mapping

    from watchdogd.enrich.process import ProcessTree
    from watchdogd.enrich.procfs import ProcReader
    from watchdogd.entities import Process
    from watchdogd.pipeline import Pipeline
    from watchdogd.ports import Clock
    from watchdogd.store.database import Store
    from watchdogd.telemetry import Counters

WAIT_S: Final = 1.0
"""For audit to tell of a sender that /proc does not know any more."""

ASKER_WAIT_S: Final = 3.0
"""The same for who asked systemd: where the whole host goes down, or a package is upgraded, audit has much to tell."""

LOOK_EVERY_S: Final = 0.05
_MANAGER: Final = 1
_SECOND_MS: Final = 1000
"""What /proc's start times may be off by."""

log = logging.getLogger("watchdogd.service")


class StopDesk:
    """Hears the first signal that asks for a stop, and tells of it. One per life of the daemon."""

    def __init__(self, stop: asyncio.Event, proc: ProcReader, environ: Mapping[str, str], since_ms: int) -> None:
        """`stop` is set at the signal; `environ` says whether systemd started us, `since_ms` when."""
        self._stop = stop
        self._proc = proc
        self._is_unit = "INVOCATION_ID" in environ  # systemd.exec(5)
        self._since_ms = since_ms
        self._signal: StopSignal | None = None
        self._seen: Process | None = None
        self._waiting: Process | None = None
        """Who asked systemd and is there still: `systemctl stop` waits until we have ended."""
        self._listener = StopListener(self._hear)
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def is_past_manager(self) -> bool:
        """Whether systemd runs us and somebody else told us to stop: it is to start us again."""
        found = self._signal
        if found is None or not self._is_unit or found.by_kernel:
            return False
        return found.pid not in {0, _MANAGER, os.getpid(), os.getppid()}

    def open(self) -> None:
        """Listen from now on; called in the loop, in the main thread."""
        self._loop = asyncio.get_running_loop()
        self._listener.open()

    def close(self) -> None:
        """Listen no more."""
        self._listener.close()

    def _hear(self, found: StopSignal) -> None:
        """On the listener's thread: look at the sender at once, it may be gone the next moment."""
        if self._signal is None:
            self._signal = found
            self._seen = self._proc.read(found.pid) if found.pid else None
            if self._is_by_manager(found):
                self._waiting = self._find_waiting()
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)

    def _is_by_manager(self, found: StopSignal) -> bool:
        return found.pid == _MANAGER and self._is_unit

    def _find_waiting(self) -> Process | None:
        for pid, argv in self._proc.list_argv():
            if may_ask(argv) and (process := self._proc.read(pid)) is not None and is_asking(process):
                return process
        return None

    async def tell(
        self, pipeline: Pipeline, store: Store, tree: ProcessTree, counters: Counters, clock: Clock, *, is_wanted: bool
    ) -> None:
        """Say who stopped us; where that is news and wanted, also as an alert, sent like all others. Never raises."""
        found = self._signal
        if found is None:
            return
        by_manager = self._is_by_manager(found)
        if not by_manager and (found.by_kernel or found.pid in {0, os.getpid(), os.getppid()}):
            log.info("%s: %s", found.name, _explain_usual(found))
            return
        sender, asker = await self._identify(found, tree, clock, by_manager=by_manager)
        what = describe(found.name, found.pid, found.uid, sender=sender, asker=asker, by_manager=by_manager)
        log.warning("told to stop: %s", escape_controls(what))
        if not is_wanted:
            return
        alert = build_last_words(
            found.name,
            found.pid,
            found.uid,
            sender=sender,
            asker=asker,
            by_manager=by_manager,
            host=socket.gethostname(),
            now_ms=clock.now_ms(),
        )
        sinks = pipeline.desk.routes.choose(alert.level)
        try:
            new = await store.commit(Batch(alerts=(NewAlert(alert, sinks, due_ms=clock.now_ms(), triage=False),)))
        except StoreError as error:
            log.error("%s; the last words are sent past it", error)
            pipeline.tell_unstored(alert, sinks)
            return
        count_own_alerts(counters, len(new))
        pipeline.desk.wake_deliverer.set()

    async def _identify(
        self, found: StopSignal, tree: ProcessTree, clock: Clock, *, by_manager: bool
    ) -> tuple[Actor | None, Actor | None]:
        """Sender and asker. What is in the log already is waited for a little while: it is read as ever meanwhile."""
        until_s = clock.monotonic_s() + (ASKER_WAIT_S if by_manager else WAIT_S)
        since_ms = max(clock.now_ms() - ASKED_WITHIN_MS, self._since_ms)
        waiting = self._waiting
        if waiting is not None and waiting.key.start_ms >= since_ms - _SECOND_MS:
            return self._find_sender(found.pid, tree), Actor(_name(waiting), self._trace(waiting))
        while True:
            sender = self._find_sender(found.pid, tree)
            asker = find_asker(_name_all(tree.list_since(since_ms))) if by_manager else None
            if asker is not None or (sender is not None and not by_manager):
                return sender, asker
            if clock.monotonic_s() >= until_s:
                return self._remember_sender(found), None
            await asyncio.sleep(LOOK_EVERY_S)

    def _find_sender(self, pid: int, tree: ProcessTree) -> Actor | None:
        """What audit tells of the pid, with its ancestors; else what /proc said at the moment of the signal."""
        known, seen = tree.recall(pid), self._seen
        if known is not None and (seen is None or known[0].exe == seen.exe or _is_husk(seen, known[0])):
            return next(iter(_name_all([known])))
        return None if seen is None or seen.exe is None else Actor(_name(seen), self._trace(seen))

    def _remember_sender(self, found: StopSignal) -> Actor | None:
        """What is left of a sender that was gone: its short name, and the user that the kernel names."""
        return None if self._seen is None else Actor(_name(replace(self._seen, uid=found.uid)))

    def _trace(self, process: Process) -> tuple[Process, ...]:
        """Ancestors by /proc, as they are now."""
        lineage: list[Process] = []
        while process.ppid and len(lineage) < 8:  # noqa: PLR2004 - enough to see where it came from
            parent = self._proc.read(process.ppid)
            if parent is None:
                break
            lineage.append(_name(parent))
            process = parent
        return tuple(lineage)


def _is_husk(seen: Process, known: Process) -> bool:
    """Whether /proc showed what is left of a process that has ended, and that process is the known one."""
    return seen.exe is None and seen.comm == known.comm


def _name_all(found: list[tuple[Process, tuple[Process, ...]]]) -> list[Actor]:
    return [Actor(_name(process), tuple(map(_name, lineage))) for process, lineage in found]


def _name(process: Process) -> Process:
    """With the accounts' names, where this host has them."""
    user = process.user or (None if process.uid is None else look_up_host_user(process.uid))
    login = process.login or (None if process.auid is None else look_up_host_user(process.auid))
    return replace(process, user=user, login=login)


def _explain_usual(found: StopSignal) -> str:
    if found.by_kernel:
        return "from the terminal"
    if found.pid == 0:
        return "from outside of this container"
    return "from ourselves" if found.pid == os.getpid() else f"from the program that started us (pid {found.pid})"
