"""The queue between readers and judge: a token passes each reader that runs."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING

import pytest

from watchdogd.intake import Intake, Pulse
from watchdogd.ports import SystemClock
from watchdogd.store.ledger import OffsetLedger
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from watchdogd.entities import Record
    from watchdogd.ports import Emit


class Reader:
    """A line source without lines; `answers` says whether it is not stuck."""

    def __init__(self, *, answers: bool) -> None:
        self.answers = answers
        self.probed = threading.Event()
        self._stopped = threading.Event()

    def run(self, emit: Emit) -> None:
        while not self._stopped.is_set():
            if self.probed.wait(0.005) and self.answers:
                self.probed.clear()
                emit([])

    def stop(self) -> None:
        self._stopped.set()

    def probe(self) -> None:
        self.probed.set()


async def pass_token(*readers: Reader, leaving: Reader | None = None) -> bool:
    """Whether a token comes through with these running; `leaving` ends once it was asked."""
    intake = Intake(OffsetLedger("audit_log", "audit.log", None), Counters(), SystemClock())

    def reopen(_: object) -> Reader:
        raise AssertionError("no reader failed")

    async with asyncio.TaskGroup() as group:
        follows = [group.create_task(intake.follow(reader, reopen)) for reader in readers]
        await asyncio.sleep(0)
        assert all(intake.is_reading(reader) for reader in readers)
        passing = group.create_task(intake.pulse())
        can_pass = all(reader.answers for reader in readers)
        item = await intake.next_item(30 if can_pass else 0.2)
        if leaving is not None:
            assert leaving.probed.is_set()
            intake.begin_stop()
            item = await intake.next_item(30)
        if isinstance(item, Pulse):
            item.done.set()
            await passing
        passing.cancel()
        intake.begin_stop()
        await asyncio.gather(*follows)
    return item is not None


async def test_a_token_passes_every_reader() -> None:
    assert await pass_token(Reader(answers=True), Reader(answers=True))


@pytest.mark.parametrize("first", [True, False])
async def test_one_stuck_reader_ends_it(*, first: bool) -> None:
    assert not await pass_token(Reader(answers=first), Reader(answers=not first))


async def test_a_reader_that_has_ended_is_not_waited_for() -> None:
    reader = Reader(answers=False)
    assert await pass_token(reader, leaving=reader)


class Leaver(Reader):
    """Ends another reader, and answers only once that has ended."""

    def __init__(self, other: Reader) -> None:
        super().__init__(answers=True)
        self.other = other
        self.intake: Intake | None = None

    def probe(self) -> None:
        self.other.stop()
        super().probe()

    def run(self, emit: Emit) -> None:
        def emit_late(records: list[Record]) -> None:
            while self.intake is None or self.intake.is_reading(self.other):
                time.sleep(0.001)
            emit(records)

        super().run(emit_late)


async def test_a_reader_that_ends_while_another_is_asked_is_not_waited_for() -> None:
    """So the kernel's audit socket ends at the start, in a container; systemd then killed us every 30 s."""
    other = Reader(answers=True)
    first = Leaver(other)
    intake = first.intake = Intake(OffsetLedger("audit_log", "audit.log", None), Counters(), SystemClock())
    async with asyncio.TaskGroup() as group:
        follows = [
            group.create_task(intake.follow(reader, lambda _: Reader(answers=True))) for reader in (first, other)
        ]
        await asyncio.sleep(0)
        passing = group.create_task(intake.pulse())
        item = await intake.next_item(10)
        passing.cancel()
        intake.begin_stop()
        await asyncio.gather(*follows)
    assert isinstance(item, Pulse)
