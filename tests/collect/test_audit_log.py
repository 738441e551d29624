"""The tail against real files: rotation, copytruncate, downtime, and what should not be there."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from tests.collect.probing import assert_answers
from watchdogd.collect.audit_log import AuditLogTail
from watchdogd.entities import Checkpoint, Record
from watchdogd.errors import SourceError
from watchdogd.store.ledger import OffsetLedger
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from watchdogd.entities import Position

    MakeTail = Callable[..., AuditLogTail]

PATIENCE_S = 60


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "audit.log"
    path.touch()
    return path


@pytest.fixture
def counters() -> Counters:
    return Counters()


@pytest.fixture
def make(log: Path, counters: Counters) -> Iterator[MakeTail]:
    tails: list[AuditLogTail] = []

    def build(checkpoint: Checkpoint | None = None, **settings: object) -> AuditLogTail:
        known: dict[str, object] = {"from_start": True, "poll_s": 0, "counters": counters}
        tails.append(AuditLogTail(log, checkpoint=checkpoint, **{**known, **settings}))  # type: ignore[arg-type]
        return tails[-1]

    yield build
    for tail in tails:
        tail.close()


def append(path: Path, *lines: str | bytes, end: bytes = b"\n") -> None:
    with path.open("ab") as stream:
        for line in lines:
            stream.write((line.encode() if isinstance(line, str) else line) + end)


def rotate(log: Path) -> None:
    number = 1
    while Path(f"{log}.{number}").exists():
        number += 1
    for older in range(number, 1, -1):
        Path(f"{log}.{older - 1}").rename(f"{log}.{older}")
    log.rename(f"{log}.1")
    log.touch()


def copytruncate(log: Path) -> None:
    number = 1
    while Path(f"{log}.{number}").exists():
        number += 1
    for older in range(number, 1, -1):
        Path(f"{log}.{older - 1}").rename(f"{log}.{older}")
    shutil.copy(log, f"{log}.1")
    os.truncate(log, 0)


class Taken:
    """Takes what is emitted."""

    def __init__(self) -> None:
        self.batches: list[list[Record]] = []

    def __call__(self, records: list[Record]) -> None:
        self.batches.append(records)

    @property
    def records(self) -> list[Record]:
        return [record for batch in self.batches for record in batch]


def read_records(tail: AuditLogTail) -> list[Record]:
    taken = Taken()
    while tail.step(taken):
        pass
    return taken.records


def read(tail: AuditLogTail) -> list[str]:
    return [record.data.decode() for record in read_records(tail)]


def after(record: Record) -> Checkpoint:
    assert record.position is not None
    return Checkpoint("audit_log", "", record.position.file_id, record.position.end)


class TestStart:
    def test_without_checkpoint_at_the_end(self, log: Path, make: MakeTail) -> None:
        append(log, "old")
        tail = make(from_start=False)
        assert read(tail) == []
        append(log, "new")
        assert read(tail) == ["new"]

    def test_a_line_that_is_being_written_is_new(self, log: Path, make: MakeTail) -> None:
        append(log, "old")
        append(log, "n", end=b"")
        tail = make(from_start=False)
        assert read(tail) == []
        append(log, "ew")
        assert read(tail) == ["new"]

    def test_older_files_are_not_read_later_either(self, log: Path, make: MakeTail) -> None:
        append(log, "older")
        rotate(log)
        append(log, "old")
        tail = make(from_start=False)
        tail.step(Taken())
        append(log, "new")
        rotate(log)
        append(log, "newer")
        assert read(tail) == ["new", "newer"]

    def test_from_start_reads_rotated_files_by_number(self, log: Path, make: MakeTail) -> None:
        names = [str(number) for number in range(13)]
        for name in names:
            append(log, name)
            rotate(log)
        Path(f"{log}.14.gz").write_bytes(b"compressed")
        Path(f"{log}x").write_text("stranger")
        append(log, "13")
        assert read(make()) == [*names, "13"]

    def test_dated_files_go_by_time(self, log: Path, make: MakeTail) -> None:
        for age, suffix in ((50, "-20260102"), (40, "-20260101"), (30, ".old"), (20, "-2026-01-03")):
            path = Path(f"{log}{suffix}")
            append(path, suffix)
            os.utime(path, (time.time() - age,) * 2)
        append(log, "now")
        assert read(make()) == ["-20260102", "-20260101", ".old", "-2026-01-03", "now"]

    def test_the_resume_point_of_an_empty_log_loses_nothing(self, log: Path, make: MakeTail) -> None:
        point = make(from_start=False).resume_point()
        append(log, "one")
        rotate(log)
        append(log, "two")
        assert read(make(point, from_start=False)) == ["one", "two"]

    def test_the_resume_point_of_an_empty_log_repeats_nothing(self, log: Path, make: MakeTail) -> None:
        append(log, "old")
        rotate(log)
        point = make(from_start=False).resume_point()
        append(log, "one")
        rotate(log)
        append(log, "two")
        assert read(make(point, from_start=False)) == ["one", "two"]

    def test_the_resume_point_is_where_reading_begins(self, log: Path, make: MakeTail) -> None:
        append(log, "old")
        point = make(from_start=False).resume_point()
        assert (point.source, point.path, point.offset) == ("audit_log", str(log), 4)
        append(log, "new")
        assert read(make(point)) == ["new"]


class TestLines:
    def test_positions_cover_the_file(self, log: Path, make: MakeTail) -> None:
        append(log, "one", "", "two\r", "\r", "three")
        records = read_records(make())
        assert [record.data for record in records] == [b"one", b"two", b"three"]
        places = [record.position for record in records]
        status = log.stat()
        for place, (start, end) in zip(places, [(0, 4), (5, 10), (12, 18)], strict=True):
            assert place is not None
            assert (place.source, place.start, place.end) == ("audit_log", start, end)
            device, inode, digest = place.file_id.split(":")
            assert (int(device), int(inode), len(digest)) == (status.st_dev, status.st_ino, 16)

    def test_batches_are_bounded(self, log: Path, make: MakeTail) -> None:
        append(log, *(str(number) for number in range(1000)))
        taken = Taken()
        tail = make(batch_lines=64)
        while tail.step(taken):
            pass
        assert max(map(len, taken.batches)) == 64
        assert [int(record.data) for record in taken.records] == list(range(1000))

    def test_binary_garbage_passes_through(self, log: Path, make: MakeTail) -> None:
        garbage = bytes(value for value in range(256) if value != 10) * 10
        append(log, "before", garbage, "after")
        assert [record.data for record in read_records(make())] == [b"before", garbage, b"after"]

    def test_a_torn_line_waits_for_its_end(self, log: Path, make: MakeTail, counters: Counters) -> None:
        tail = make()
        append(log, "one")
        append(log, "tw", end=b"")
        assert read(tail) == ["one"]
        append(log, "o")
        assert read(tail) == ["two"]
        assert counters.get("collect_torn_lines_total") == 0

    def test_a_torn_line_that_is_the_first(self, log: Path, make: MakeTail) -> None:
        tail = make()
        append(log, "on", end=b"")
        assert read(tail) == []
        append(log, "e")
        (record,) = read_records(tail)
        assert record.data == b"one"
        assert read(make(after(record))) == []

    @pytest.mark.parametrize("before", [[], ["whole"]])
    def test_a_torn_line_of_a_finished_file_goes_out(
        self, log: Path, make: MakeTail, counters: Counters, before: list[str]
    ) -> None:
        tail = make()
        append(log, *before)
        append(log, "torn", end=b"")
        rotate(log)
        assert read(tail) == before
        append(log, "new")
        records = read_records(tail)
        assert [record.data for record in records] == [b"torn", b"new"]
        assert counters.get("collect_torn_lines_total") == 1
        assert read(make(after(records[0]))) == ["new"]

    def test_an_overlong_line_is_cut_in_bounded_memory(self, log: Path, make: MakeTail, counters: Counters) -> None:
        tail = make(max_line_bytes=4096)
        append(log, "before")
        with log.open("ab") as stream:
            for _ in range(64):
                stream.write(b"x" * 65536)
        assert read(tail) == ["before"]
        assert len(tail._cutter.held) == 4096
        append(log, "its end", "after", "y" * 4096, "z" * 4097)
        records = read_records(tail)
        assert [record.data for record in records] == [b"x" * 4096, b"after", b"y" * 4096, b"z" * 4096]
        assert counters.get("collect_overlong_lines_total") == 2
        for record, following in itertools.pairwise(records):
            assert record.position is not None
            assert following.position is not None
            assert record.position.end == following.position.start
        assert read(make(after(records[0]), max_line_bytes=4096)) == ["after", "y" * 4096, "z" * 4096]

    def test_a_limit_below_the_identity_is_refused(self, make: MakeTail) -> None:
        with pytest.raises(ValueError, match="at least 4096"):
            make(max_line_bytes=100)


class TestRename:
    def test_the_old_file_is_read_to_its_end(self, log: Path, make: MakeTail) -> None:
        tail = make()
        append(log, "one")
        assert read(tail) == ["one"]
        append(log, "two")
        rotate(log)
        append(log, "three")
        assert read(tail) == ["two", "three"]

    def test_late_lines_in_the_old_file(self, log: Path, make: MakeTail) -> None:
        tail = make(poll_s=1000)
        append(log, "one")
        assert read(tail) == ["one"]
        rotate(log)
        append(log, "three")
        assert read(tail) == []
        append(Path(f"{log}.1"), "two")
        assert read(tail) == ["two"]
        tail._poll_s = 0
        assert read(tail) == ["three"]

    def test_an_empty_successor_does_not_end_the_old_file(self, log: Path, make: MakeTail) -> None:
        """logrotate's `create` makes the new file before the writer is told to use it."""
        tail = make()
        append(log, "one")
        rotate(log)
        assert read(tail) == ["one"]
        append(Path(f"{log}.1"), "two")
        assert read(tail) == ["two"]
        append(log, "three")
        assert read(tail) == ["three"]

    def test_several_rotations_between_two_polls(self, log: Path, make: MakeTail) -> None:
        tail = make()
        append(log, "0")
        assert read(tail) == ["0"]
        for number in range(1, 6):
            rotate(log)
            append(log, str(number))
        assert read(tail) == ["1", "2", "3", "4", "5"]

    def test_a_compressed_old_file_is_still_read(self, log: Path, make: MakeTail) -> None:
        append(log, "older")
        rotate(log)
        tail = make()
        append(log, "one")
        assert read(tail) == ["older", "one"]
        append(log, "two")
        rotate(log)
        Path(f"{log}.1").rename(f"{log}.1.gz")
        Path(f"{log}.2").rename(f"{log}.1")
        append(log, "three")
        assert read(tail) == ["two", "three"]

    def test_deleted_and_made_anew(self, log: Path, make: MakeTail, counters: Counters) -> None:
        tail = make(poll_s=0.001)
        append(log, "one")
        deadline = time.monotonic() + PATIENCE_S
        log.unlink(missing_ok=False)
        append(log, "lost before it was opened")
        tail.step(Taken())
        log.unlink()
        while not counters.get("collect_log_missing_total") and time.monotonic() < deadline:
            read(tail)
            time.sleep(0.001)
        time.sleep(0.1)
        read(tail)
        assert counters.get("collect_log_missing_total") == 1
        append(log, "new")
        found: list[str] = []
        while not found and time.monotonic() < deadline:
            found += read(tail)
        assert found == ["new"]


class TestCopytruncate:
    def test_the_rest_is_read_from_the_copy(self, log: Path, make: MakeTail, counters: Counters) -> None:
        tail = make()
        append(log, "one")
        assert read(tail) == ["one"]
        append(log, "two")
        copytruncate(log)
        append(log, "three")
        assert read(tail) == ["two", "three"]
        assert counters.get("collect_truncated_total") == 1

    def test_with_nothing_left_to_read_nobody_is_alarmed(
        self, log: Path, make: MakeTail, caplog: pytest.LogCaptureFixture
    ) -> None:
        tail = make()
        append(log, "one")
        assert read(tail) == ["one"]
        copytruncate(log)
        append(log, "two")
        assert read(tail) == ["two"]
        assert caplog.records == []

    def test_a_restart_between_copy_and_truncation(self, log: Path, make: MakeTail) -> None:
        append(log, "one", "two")
        first, _ = read_records(make())
        shutil.copy(log, f"{log}.1")
        tail = make(after(first))
        append(Path(f"{log}.1"), "three")
        assert read(tail) == ["two"]
        os.truncate(log, 0)
        append(log, "four")
        assert read(tail) == ["three", "four"]

    def test_grown_beyond_the_old_size_before_the_next_poll(self, log: Path, make: MakeTail) -> None:
        tail = make()
        append(log, "one")
        assert read(tail) == ["one"]
        append(log, "two")
        copytruncate(log)
        append(log, "a line that is longer than all that was there")
        assert read(tail) == ["two", "a line that is longer than all that was there"]

    def test_twice_between_two_polls(self, log: Path, make: MakeTail) -> None:
        tail = make()
        append(log, "1")
        assert read(tail) == ["1"]
        for number in range(2, 5):
            append(log, str(number))
            copytruncate(log)
        append(log, "5")
        assert read(tail) == ["2", "3", "4", "5"]

    def test_of_a_log_that_was_empty_when_last_seen(self, log: Path, make: MakeTail) -> None:
        tail = make()
        assert read(tail) == []
        append(log, "one")
        copytruncate(log)
        assert read(tail) == ["one"]
        append(log, "two")
        assert read(tail) == ["two"]

    def test_without_a_copy(self, log: Path, make: MakeTail, counters: Counters) -> None:
        tail = make()
        append(log, "one", "two")
        assert read(tail) == ["one", "two"]
        os.truncate(log, 0)
        append(log, "three")
        assert read(tail) == ["three"]
        assert counters.get("collect_truncated_total") == 1

    def test_in_downtime(self, log: Path, make: MakeTail) -> None:
        append(log, "one", "two")
        first, _ = read_records(make())
        append(log, "three")
        copytruncate(log)
        append(log, "four is longer than all the others together")
        copy, *rest = read_records(make(after(first)))
        assert [record.data.decode()[:5] for record in (copy, *rest)] == ["two", "three", "four "]
        assert copy.position is not None
        assert int(copy.position.file_id.split(":")[1]) == Path(f"{log}.1").stat().st_ino


class TestDowntime:
    def test_rotated_several_times(self, log: Path, make: MakeTail, counters: Counters) -> None:
        append(log, "-2")
        rotate(log)
        append(log, "-1", "0", "1")
        records = read_records(make())
        for number in range(2, 7):
            rotate(log)
            append(log, str(number))
        assert read(make(after(records[2]))) == ["1", "2", "3", "4", "5", "6"]
        assert counters.get("collect_lost_files_total") == 0

    def test_the_file_of_the_checkpoint_is_gone(self, log: Path, make: MakeTail, counters: Counters) -> None:
        append(log, "0")
        (record,) = read_records(make())
        for number in range(1, 4):
            rotate(log)
            append(log, str(number))
        Path(f"{log}.3").unlink()
        point = msgspec.structs.replace(after(record), path=str(log))
        assert read(make(point)) == ["1", "2", "3"]
        assert counters.get("collect_lost_files_total") == 1

    def test_an_inode_that_was_used_again(self, log: Path, make: MakeTail, counters: Counters) -> None:
        append(log, "one")
        (record,) = read_records(make())
        log.write_bytes(b"six\nseven\n")  # same inode, same size at the offset, another first line
        point = msgspec.structs.replace(after(record), path=str(log))
        assert read(make(point)) == ["six", "seven"]
        assert counters.get("collect_lost_files_total") == 1

    def test_another_device_number_after_a_boot(self, log: Path, make: MakeTail) -> None:
        append(log, "one", "two")
        first, _ = read_records(make())
        assert first.position is not None
        _, inode, digest = first.position.file_id.split(":")
        assert read(make(Checkpoint("audit_log", str(log), f"999:{inode}:{digest}", 4))) == ["two"]

    def test_the_log_lost_its_end_in_a_power_cut(self, log: Path, make: MakeTail, counters: Counters) -> None:
        append(log, "one", "two", "three")
        records = read_records(make())
        os.truncate(log, 8)
        assert read(make(after(records[-1]))) == ["one", "two"]
        append(log, "grown beyond it again")
        assert read(make(after(records[-1]))) == ["one", "two", "grown beyond it again"]
        assert counters.get("collect_truncated_total") == 2

    def test_another_log_is_a_first_start(self, log: Path, make: MakeTail, counters: Counters) -> None:
        append(log, "one")
        point = Checkpoint("audit_log", "/elsewhere/audit.log", "1:2:0123456789abcdef", 77)
        assert read(make(point, from_start=False)) == []
        assert counters.get("collect_lost_files_total") == 0

    def test_a_garbled_checkpoint_reads_everything(self, log: Path, make: MakeTail) -> None:
        append(log, "one")
        assert read(make(Checkpoint("audit_log", str(log), "nonsense", 77))) == ["one"]


class TestHistory:
    def test_is_what_precedes_the_resume_point(self, log: Path, make: MakeTail) -> None:
        append(log, "older")
        rotate(log)
        append(log, "one", "two", "three")
        records = read_records(make())
        tail = make(after(records[2]), batch_lines=2)
        batches = list(tail.history())
        assert [[record.data for record in batch] for batch in batches] == [[b"older"], [b"one", b"two"]]
        assert {record.position for batch in batches for record in batch} == {None}
        assert read(tail) == ["three"]

    def test_is_bounded(self, log: Path, make: MakeTail) -> None:
        append(log, *(f"{number:09}" for number in range(1000)))
        rotate(log)
        append(log, *(f"{number:09}" for number in range(1000, 1010)))
        tail = make(from_start=False, history_bytes=205)
        numbers = [int(record.data) for batch in tail.history() for record in batch]
        assert numbers == list(range(numbers[0], 1010))
        assert 20 <= len(numbers) <= 22

    def test_of_an_empty_log_is_empty(self, make: MakeTail) -> None:
        assert list(make().history()) == []


class TestErrors:
    def test_missing(self, log: Path, make: MakeTail) -> None:
        log.unlink()
        with pytest.raises(SourceError, match=r"audit\.log: no such file: start auditd"):
            make().run(Taken())

    def test_folder_missing(self, log: Path, counters: Counters) -> None:
        tail = AuditLogTail(log.parent / "no" / "audit.log", checkpoint=None, from_start=True, counters=counters)
        with pytest.raises(SourceError, match="cannot be listed"):
            tail.run(Taken())

    def test_a_directory(self, log: Path, make: MakeTail) -> None:
        log.unlink()
        log.mkdir()
        with pytest.raises(SourceError, match="is a directory: name auditd's log_file"):
            make().run(Taken())

    def test_a_pipe_does_not_hang(self, log: Path, make: MakeTail) -> None:
        log.unlink()
        os.mkfifo(log)
        with pytest.raises(SourceError, match="no regular file"):
            make().run(Taken())

    def test_a_directory_in_its_place_later(self, log: Path, make: MakeTail) -> None:
        tail = make()
        append(log, "one")
        assert read(tail) == ["one"]
        log.unlink()
        log.mkdir()
        with pytest.raises(SourceError, match="is a directory"):
            read(tail)

    def test_unreadable(self, counters: Counters) -> None:
        with tempfile.TemporaryDirectory() as name:
            Path(name).chmod(0o755)
            log = Path(name) / "audit.log"
            log.touch(0o000)
            tail = AuditLogTail(log, checkpoint=None, from_start=True, counters=counters)
            user = os.geteuid()
            if user == 0:
                os.seteuid(65534)
            try:
                with pytest.raises(SourceError, match=r"cannot be opened .* CAP_DAC_READ_SEARCH"):
                    tail.run(Taken())
            finally:
                os.seteuid(user)

    def test_strangers_beside_the_log_are_passed_over(self, log: Path, make: MakeTail, counters: Counters) -> None:
        Path(f"{log}.1").mkdir()
        Path(f"{log}.2").symlink_to("/etc/passwd")
        os.mkfifo(f"{log}.3")
        append(log, "one")
        assert read(make()) == ["one"]
        assert counters.get("collect_unreadable_files_total") == 1


class TestThread:
    def test_a_probe_is_answered_while_nothing_comes(self, log: Path, make: MakeTail) -> None:
        append(log, "one")
        assert_answers(make(poll_s=0.001))

    def test_stop_ends_it(self, log: Path, make: MakeTail) -> None:
        seen = threading.Event()
        tail = make(poll_s=0.001)
        thread = threading.Thread(target=tail.run, args=(lambda _: seen.set(),))
        thread.start()
        append(log, "one")
        assert seen.wait(PATIENCE_S)
        tail.stop()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
        with pytest.raises(SourceError, match="has ended"):
            tail.resume_point()

    def test_no_descriptor_stays_open(self, log: Path, make: MakeTail) -> None:
        before = len(list(Path("/proc/self/fd").iterdir()))
        for number in range(6):
            append(log, str(number))
            (rotate if number % 2 else copytruncate)(log)
        append(log, "end")
        tail = make()
        list(tail.history())
        assert len(read(tail)) == 7
        for number in range(6):
            append(log, str(number))
            (rotate if number % 2 else copytruncate)(log)
            read(tail)
        assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1
        tail.close()
        assert len(list(Path("/proc/self/fd").iterdir())) == before

    def test_a_real_writer_and_restarts(self, log: Path, make: MakeTail, counters: Counters) -> None:
        """Another process writes torn lines and rotates; the tail is ended and begun again at the checkpoint."""
        judge = SlowJudge(log)
        command = [sys.executable, str(Path(__file__).with_name("auditd_like.py")), str(log), str(LINES), "900"]
        deadline = time.monotonic() + PATIENCE_S
        with subprocess.Popen(command) as writer:
            while not judge.ended and time.monotonic() < deadline:
                judge.tail = make(judge.crash(), poll_s=0.002)
                judge.tail.run(judge)
        assert writer.returncode == 0
        assert list(dict.fromkeys(judge.numbers)) == list(range(LINES))
        assert LINES < len(judge.numbers) < 2 * LINES
        assert len(list(log.parent.glob("audit.log.*"))) == 13
        assert counters.get("collect_lost_files_total") == 0
        assert counters.get("collect_torn_lines_total") == 0


LINES = 12_000


class SlowJudge:
    """Takes lines, judges the second half of a batch before the first, and stops the tail every 1500 lines."""

    tail: AuditLogTail

    def __init__(self, log: Path) -> None:
        self.log = log
        self.numbers: list[int] = []
        self.open: list[Position] = []
        self.ledger = OffsetLedger("audit_log", str(log))
        self.stop_at = 0

    @property
    def ended(self) -> bool:
        return bool(self.numbers) and self.numbers[-1] == LINES - 1

    def crash(self) -> Checkpoint | None:
        self.open = []
        self.stop_at = len(self.numbers) + 1500
        self.ledger = OffsetLedger("audit_log", str(self.log), self.ledger.checkpoint())
        return self.ledger.checkpoint()

    def __call__(self, records: list[Record]) -> None:
        for record in records:
            assert record.position is not None
            self.ledger.open(record.position)
            self.open.append(record.position)
            self.numbers.append(int(record.data.split(b":")[1].split(b")")[0]))
        half = len(self.open) // 2
        for position in [*self.open[half + 5 :], *self.open[:half]]:
            self.ledger.close(position)
        self.open = self.open[half : half + 5]
        if self.ended or len(self.numbers) >= self.stop_at:
            self.tail.stop()
