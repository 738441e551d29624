"""What sources read, on its way to the judge: one bounded queue of lines, finished events and tokens.

A full queue stops the readers, so the log file waits and nothing is dropped. A token goes the way that lines go: a
reader that is stuck ends it as a stuck judge does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from typing import TYPE_CHECKING, Final

from watchdogd.entities import Event, Record
from watchdogd.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable

    from watchdogd.entities import Checkpoint
    from watchdogd.ports import Clock, EventSource, LineSource
    from watchdogd.store.ledger import OffsetLedger
    from watchdogd.telemetry import Counters

log = logging.getLogger("watchdogd.pipeline")

QUEUE_BATCHES: Final = 64
RETRY_FIRST_S: Final = 0.5
RETRY_LAST_S: Final = 30.0
WORKED_S: Final = 60.0
"""A source that ran for so long before it failed did work."""


class Pulse:
    """A token that passes every stage; `done` is set when judge and store have answered."""

    def __init__(self) -> None:
        self.done = asyncio.Event()


class End:
    """The last item of the queue."""


Item = list[Record] | list[Event] | Pulse | End


class Intake:
    """One per daemon; on the loop's thread but for what the readers call."""

    def __init__(self, ledger: OffsetLedger, counters: Counters, clock: Clock) -> None:
        """`ledger` is that of the audit log."""
        self._ledger = ledger
        self._beside: dict[str, OffsetLedger] = {}
        self._counters = counters
        self._clock = clock
        self._queue: asyncio.Queue[Item] = asyncio.Queue(QUEUE_BATCHES)
        self._queued_lines = self._queued_events = 0
        self._readers: dict[LineSource, asyncio.Event] = {}
        """Those that run, each with the answer to the last question whether it does."""
        self._stopping = asyncio.Event()
        self._landing: set[asyncio.Task[None]] = set()
        self._waiting: asyncio.Future[None] | None = None
        """Of who asks for the next item, while there is none."""

    # --- in ---------------------------------------------------------------------------------------------------------

    async def follow(
        self,
        source: LineSource | None,
        reopen: Callable[[Checkpoint | None], LineSource],
        *,
        ledger: OffsetLedger | None = None,
        retry_last_s: float = RETRY_LAST_S,
    ) -> None:
        """Read a line source on a thread of its own until `begin_stop`.

        Where it fails, or could not be opened to begin with (None), it is opened again at the lowest open line, with
        backoff up to `retry_last_s`. `ledger` is that of a source beside the audit log.
        The same complaint is made once, until the source has worked for a while.
        """
        said = ""
        if ledger is None:
            ledger = self._ledger
        else:
            self._beside[ledger.source] = ledger
        delay_s = RETRY_FIRST_S
        while not self._stopping.is_set():
            if source is None:
                if await self.wait_unless_stopping(delay_s):
                    return
                delay_s = min(delay_s * 2, retry_last_s)
                source = reopen(ledger.checkpoint())
            began_s = self._clock.monotonic_s()
            try:
                await self._read(source)
            except SourceError as error:
                self._counters.add("collect_source_errors_total")
                if self._clock.monotonic_s() - began_s >= WORKED_S:
                    said, delay_s = "", RETRY_FIRST_S
                if str(error) != said:
                    log.error("%s; trying again, every %.0f s in the end", error, retry_last_s)
                said = str(error)
            source = None

    async def _read(self, source: LineSource) -> None:
        loop = asyncio.get_running_loop()
        answered = self._readers[source] = asyncio.Event()
        landed = threading.Semaphore()

        def emit(records: list[Record]) -> None:
            if records:
                landed.acquire()
                loop.call_soon_threadsafe(self._land, records, landed)
            else:
                loop.call_soon_threadsafe(answered.set)

        def run() -> None:
            try:
                source.run(emit)
            finally:
                landed.acquire()

        try:
            await asyncio.to_thread(run)
        finally:
            source.stop()  # where this task is cancelled, the thread must end, too
            del self._readers[source]
            answered.set()

    def is_reading(self, source: LineSource) -> bool:
        """Whether that source is being read now."""
        return source in self._readers

    async def sample(self, source: EventSource, interval_s: float) -> None:
        """Observe an event source once an interval, for ever."""
        while True:
            await self.take_events(await asyncio.to_thread(lambda: list(source.sample())))
            await asyncio.sleep(interval_s)

    async def take_events(self, events: list[Event]) -> None:
        """Put finished events into the queue, once there is room."""
        if events:
            self._counters.add("collect_sampled_events_total", len(events))
            self._queued_events += len(events)
            await self._put(events)

    def _land(self, records: list[Record], landed: threading.Semaphore) -> None:
        """Take a reader's lines; it waits with its next ones until these have found room.

        Mostly there is room. A task for each batch, and an answer to the reader, took a seventh of the CPU time at a
        hundred lines a second.
        """
        from_log = sum(record.position is not None for record in records)
        from_socket = sum(record.position is None and not record.lost_ms for record in records)
        self._counters.add("collect_lines_total", from_log)
        self._counters.add("collect_netlink_lines_total", from_socket)
        self._queued_lines += from_log + from_socket
        if not self._queue.full():
            self._queue.put_nowait(records)
            self._tell_of_item()
            landed.release()
            return
        task = asyncio.get_running_loop().create_task(self._put(records))
        self._landing.add(task)
        task.add_done_callback(self._landing.discard)
        task.add_done_callback(lambda _: landed.release())

    async def _put(self, item: Item) -> None:
        await self._queue.put(item)
        self._tell_of_item()

    def _tell_of_item(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def pulse(self) -> None:
        """Return when a token has passed every reader, judge and store: what is stuck never returns."""
        for source, answered in tuple(self._readers.items()):
            if source not in self._readers:  # it has ended while another one was asked
                continue
            answered.clear()
            source.probe()
            await answered.wait()
        pulse = Pulse()
        await self._put(pulse)
        await pulse.done.wait()

    # --- the end ----------------------------------------------------------------------------------------------------

    def begin_stop(self) -> None:
        """Stop reading."""
        self._stopping.set()
        for source in self._readers:
            source.stop()

    @property
    def is_stopping(self) -> bool:
        """Whether `begin_stop` has been."""
        return self._stopping.is_set()

    async def wait_unless_stopping(self, delay_s: float) -> bool:
        """Wait so long, or until `begin_stop`; True where that has been."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self._stopping.wait()
        return self._stopping.is_set()

    async def end_reading(self) -> None:
        """Say that no more will come; the sources have ended by now."""
        await self._put(End())

    # --- out --------------------------------------------------------------------------------------------------------

    async def let_others_run(self) -> None:
        """Where `next_item` would not wait: a full queue would otherwise never let the other tasks run."""
        if not self._queue.empty():
            await asyncio.sleep(0)

    async def next_item(self, wait_s: float) -> Item | None:
        """What came first; None where nothing comes within that time."""
        if self._queue.empty():
            await self._wait_for_item(wait_s)
        if self._queue.empty():
            return None
        item = self._queue.get_nowait()
        lines, events = count_of(item)
        self._queued_lines -= lines
        self._queued_events -= events
        return item

    async def _wait_for_item(self, wait_s: float) -> None:
        """So long at most. `asyncio.timeout` would end a wait by an exception, with two rounds of the loop more."""
        loop = asyncio.get_running_loop()
        waiting = self._waiting = loop.create_future()
        timer = loop.call_later(wait_s, self._tell_of_item)
        try:
            await waiting
        finally:
            timer.cancel()
            self._waiting = None

    def find_ledger(self, source: str) -> OffsetLedger:
        """Which positions of that source are open."""
        return self._beside.get(source, self._ledger)

    def list_beside(self) -> tuple[Checkpoint, ...]:
        """The checkpoints of the sources beside the audit log."""
        return tuple(point for ledger in self._beside.values() if (point := ledger.checkpoint()))

    def count_in_flight(self) -> dict[str, int]:
        """What is queued now, by the names of the ledger's amounts."""
        return {"lines_queued": self._queued_lines, "events_queued": self._queued_events}


def count_of(item: Item) -> tuple[int, int]:
    """How many lines and how many finished events an item is."""
    if not isinstance(item, list):
        return 0, 0
    lines = sum(isinstance(one, Record) and not one.lost_ms for one in item)
    return lines, sum(isinstance(one, Event) for one in item)
