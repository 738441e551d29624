"""Whatever the writer, the rotation and the crashes do: every line that is still on disk is read, in order."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from watchdogd.collect.audit_log import AuditLogTail
from watchdogd.store.ledger import OffsetLedger
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from watchdogd.entities import Checkpoint, Position, Record

NUM_LOGS = 12


class Host(RuleBasedStateMachine):
    """auditd, logrotate and a daemon that dies; rotated files are kept, so that nothing may be lost."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="watchdogd-tail-"))
        self.log = self.folder / "audit.log"
        self.log.touch()
        self.written: list[bytes] = []
        self.read: list[bytes] = []
        self.open: list[Position] = []
        self.committed: Checkpoint | None = None
        self.torn = False
        self.rotations = 0
        self.start()
        self.committed = self.tail.resume_point()

    def start(self) -> None:
        self.tail = AuditLogTail(
            self.log,
            checkpoint=self.committed,
            from_start=True,
            counters=Counters(),
            poll_s=0,
            batch_lines=3,
        )
        self.ledger = OffsetLedger("audit_log", str(self.log), self.committed)
        self.open = []

    def teardown(self) -> None:
        try:
            self.read_all()
            self.check_order()
            assert set(self.read) == set(self.written)
        finally:
            self.tail.close()
            shutil.rmtree(self.folder)

    def take(self, records: list[Record]) -> None:
        assert len(records) <= 3
        for record in records:
            assert record.position is not None
            self.ledger.open(record.position)
            self.open.append(record.position)
            self.read.append(record.data)

    def read_all(self) -> None:
        self.append(1, 0)  # a rotated file's torn line is only certain once its successor has content
        while self.tail.step(self.take):
            pass

    def end_line(self) -> None:
        if self.torn:
            with self.log.open("ab") as stream:
                stream.write(b"\n")
            self.torn = False

    def check_order(self) -> None:
        """Each first reading of a line comes in the order of writing."""
        firsts = list(dict.fromkeys(self.read))
        known = [line for line in self.written if line in set(firsts)]
        assert firsts == known

    @rule(count=st.integers(1, 9), size=st.integers(0, 40))
    def append(self, count: int, size: int) -> None:
        self.end_line()
        with self.log.open("ab") as stream:
            for _ in range(count):
                line = b"line %d %s" % (len(self.written), b"x" * size)
                self.written.append(line)
                stream.write(line + b"\n")

    @rule()
    def append_empty_lines(self) -> None:
        self.end_line()
        with self.log.open("ab") as stream:
            stream.write(b"\n\r\n")

    @precondition(lambda self: not self.torn)
    @rule()
    def append_torn(self) -> None:
        line = b"line %d torn" % len(self.written)
        self.written.append(line)
        with self.log.open("ab") as stream:
            stream.write(line)
        self.torn = True

    @precondition(lambda self: self.rotations < NUM_LOGS)
    @rule(finishes=st.booleans())
    def rotate(self, *, finishes: bool) -> None:
        if finishes:
            self.end_line()
        self.rotations += 1
        self.shift()
        self.log.rename(f"{self.log}.1")
        self.log.touch()
        self.torn = False

    @precondition(lambda self: self.rotations < NUM_LOGS and self.log.stat().st_size > 0)
    @rule()
    def copytruncate(self) -> None:
        self.end_line()
        self.rotations += 1
        self.shift()
        shutil.copy(self.log, f"{self.log}.1")
        with self.log.open("r+b") as stream:
            stream.truncate(0)

    def shift(self) -> None:
        for number in range(NUM_LOGS, 0, -1):
            older = Path(f"{self.log}.{number}")
            if older.exists():
                older.rename(f"{self.log}.{number + 1}")

    @rule(steps=st.integers(1, 6))
    def read_some(self, steps: int) -> None:
        for _ in range(steps):
            self.tail.step(self.take)

    @rule(data=st.data())
    def judge(self, data: st.DataObject) -> None:
        if self.open:
            for position in data.draw(st.lists(st.sampled_from(self.open), unique=True, max_size=8)):
                self.ledger.close(position)
                self.open.remove(position)

    @rule()
    def judge_all(self) -> None:
        for position in self.open:
            self.ledger.close(position)
        self.open = []

    @rule()
    def commit(self) -> None:
        self.committed = self.ledger.checkpoint()

    @rule()
    def crash(self) -> None:
        self.tail.close()
        self.start()

    @invariant()
    def in_order(self) -> None:
        self.check_order()


TestHost = Host.TestCase
TestHost.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
