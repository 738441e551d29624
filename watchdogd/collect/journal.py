"""Follows the journal through `journalctl`, from a cursor on, at least once.

A child process rather than libsystemd in this one: its memory maps of the journal's files (hundreds of megabytes of
address space, tens resident) stay out of the daemon. Cursors are journald's own; they survive its rotation, and where
the entry itself is gone journalctl goes on with the next that there is (journalctl(1), `--cursor`).
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from watchdogd.entities import Checkpoint, Position, Record
from watchdogd.errors import SourceError
from watchdogd.stop_signals import stops_let_through

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from watchdogd.ports import Emit
    from watchdogd.telemetry import Counters

SOURCE: Final = "journal"
"""`source` of every record, position and checkpoint of this module."""

_FIELDS: Final = (
    "MESSAGE,SYSLOG_IDENTIFIER,SYSLOG_FACILITY,PRIORITY,"
    "_TRANSPORT,_SYSTEMD_UNIT,_HOSTNAME,_PID,_UID,_COMM,_EXE,_CMDLINE"
)
"""What decode asks for; journalctl adds cursor, times and boot id."""
_AUTH_AND_CRON: Final = ("SYSLOG_FACILITY=4", "SYSLOG_FACILITY=10", "SYSLOG_FACILITY=9")
_NAMED: Final = ("sshd", "sshd-session", "sudo", "su", "cron", "crond", "CRON")
_GARBLED: Final = "collect_journal_garbled_total"
_OVERLONG: Final = "collect_overlong_lines_total"
_MACHINE_ID: Final = re.compile(r"[0-9a-f]{32}")
_READ_BYTES: Final = 64 * 1024
_END_S: Final = 2.0
_NEWEST_S: Final = 20.0
BEFORE: Final = 0
BEHIND: Final = 1
"""A position's offsets within its entry: read again from it on, or from what follows."""


class _Cursor(msgspec.Struct, frozen=True, gc=False):
    cursor: str = msgspec.field(name="__CURSOR")


class JournalFollow:
    """A `LineSource` over this host's journal: one JSON object a line, as journalctl exports it.

    Promises: every entry from the checkpoint on that the journal still holds and `choose_matches` takes is emitted at
    least once, in order; without a checkpoint, those from the oldest on. A position's `file_id` is the entry's cursor,
    its start BEFORE and its end BEHIND that entry. `run` raises SourceError where there is no journalctl, it may not
    read, or it ends by itself: make another from the ledger's checkpoint.
    """

    def __init__(
        self,
        *,
        checkpoint: Checkpoint | None,
        units: Sequence[str],
        counters: Counters,
        everything: bool = False,
        program: str = "journalctl",
        batch_lines: int = 64,
        max_line_bytes: int = 1 << 20,
    ) -> None:
        self._checkpoint = checkpoint
        # journalctl's own --after-cursor leaves out whatever entry comes first, even where the cursor's own is not
        # among the matches or is gone (seen in systemd 252): the first one is compared here instead.
        self._judged = checkpoint.file_id if checkpoint is not None and checkpoint.offset == BEHIND else ""
        self._matches = choose_matches(units, read_machine_id(), everything=everything)
        self._counters = counters
        self._program = program
        self._batch_lines = batch_lines
        self._max_line_bytes = max_line_bytes
        self._stopped = threading.Event()
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._rest = b""
        self._skipping = self._is_probed = False
        for name in (_GARBLED, _OVERLONG):
            counters.add(name, 0)

    def __del__(self) -> None:
        os.close(self._wake_read)
        os.close(self._wake_write)

    def command(self) -> list[str]:
        """What is run; the cursor is journald's, never a sender's."""
        program = find_program(self._program)
        fixed = [
            "--output=json",
            "--all",
            "--no-pager",
            "--quiet",
            "--follow",
            "--no-tail",
            # Else --follow leaves out, unasked, what other boots wrote (seen in systemd 252, with `--boot=all`, too):
            # what came between our stop and the reboot. Other hosts' entries, which it lets in, the matches leave out.
            "--merge",
            f"--output-fields={_FIELDS}",
        ]
        return [program, *fixed, *self._where(), *self._matches]

    def _where(self) -> Iterator[str]:
        if self._checkpoint is not None:
            yield f"--cursor={self._checkpoint.file_id}"

    def stop(self) -> None:
        """Ask `run` to return after the batch in hand."""
        self._stopped.set()
        try:
            os.write(self._wake_write, b".")
        except OSError:  # already asked
            return

    def probe(self) -> None:
        """Have `run` emit an empty batch now."""
        self._is_probed = True
        with contextlib.suppress(BlockingIOError):  # a full pipe wakes it all the same
            os.write(self._wake_write, b".")

    def run(self, emit: Emit) -> None:
        """Read until `stop`. Raises SourceError where journalctl cannot be had or ends."""
        if self._stopped.is_set():
            return
        try:
            with stops_let_through():  # what the daemon blocks for itself must end the child
                child = subprocess.Popen(  # noqa: S603 (a fixed command line; cursor and units are one argument each)
                    self.command(),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env=_make_environment(),
                    start_new_session=True,
                )
        except OSError as error:
            raise SourceError(
                f"the journal cannot be read: {self._program} does not start ({error.strerror})"
            ) from None
        try:
            said = self._pump(child, emit)
        finally:
            _end(child)
        if not self._stopped.is_set():
            raise SourceError(f"the journal cannot be read: {self._program} ended ({said or 'it said nothing'})")

    def _pump(self, child: subprocess.Popen[bytes], emit: Emit) -> str:
        """Emit what comes until `stop` or the child's end; what it complained of last."""
        assert child.stdout is not None  # noqa: S101 (both are pipes)
        assert child.stderr is not None  # noqa: S101
        poll = select.poll()
        out, err = child.stdout.fileno(), child.stderr.fileno()
        for number in (out, err, self._wake_read):
            poll.register(number, select.POLLIN)
        said = b""
        while not self._stopped.is_set():
            ready = {number for number, _ in poll.poll()}
            if err in ready:
                text = os.read(err, _READ_BYTES)
                said = text or said
                if not text:
                    poll.unregister(err)
            if out in ready:
                block = os.read(out, _READ_BYTES)
                if not block:
                    break
                self._take(block, emit)
            if self._wake_read in ready:
                os.read(self._wake_read, _READ_BYTES)
            if self._is_probed:
                self._is_probed = False
                emit([])
        return said.decode("utf-8", "backslashreplace").strip().rpartition("\n")[2][:200]

    def _take(self, block: bytes, emit: Emit) -> None:
        *lines, rest = block.split(b"\n")
        if lines:
            lines[0] = self._rest + lines[0]
            self._rest = rest
            if self._skipping:
                self._skipping = False
                del lines[0]
        else:
            self._rest += rest
        if len(self._rest) > self._max_line_bytes:
            self._counters.add(_OVERLONG, not self._skipping)
            self._rest, self._skipping = b"", True
        records = [record for line in lines if line for record in self._make_record(line)]
        for start in range(0, len(records), self._batch_lines):
            if self._stopped.is_set():
                return
            emit(records[start : start + self._batch_lines])

    def _make_record(self, line: bytes) -> list[Record]:
        try:
            cursor = msgspec.json.decode(line, type=_Cursor).cursor
        except msgspec.DecodeError:
            self._counters.add(_GARBLED)
            return []
        judged, self._judged = self._judged, ""
        return [] if cursor == judged else [Record(SOURCE, Position(SOURCE, cursor, BEFORE, BEHIND), line)]


def find_newest(program: str = "journalctl") -> Checkpoint | None:
    """Behind the newest entry that the journal holds; None where it holds none. Raises SourceError."""
    command = [find_program(program), "--output=json", "--output-fields=PRIORITY", "--quiet", "--no-pager", "--lines=1"]
    try:
        done = subprocess.run(  # noqa: S603 (a fixed command line)
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_NEWEST_S,
            env=_make_environment(),
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise SourceError(f"the journal cannot be read: {program} does not run ({error})") from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "backslashreplace").strip().rpartition("\n")[2][:200]
        raise SourceError(f"the journal cannot be read: {program} ended ({said or 'it said nothing'})")
    if not done.stdout.strip():
        return None
    try:
        return Checkpoint(SOURCE, SOURCE, msgspec.json.decode(done.stdout, type=_Cursor).cursor, BEHIND)
    except msgspec.DecodeError as error:
        raise SourceError(f"the journal cannot be read: {program} shows no entry ({error})") from None


def find_program(name: str) -> str:
    """Where it is. Raises SourceError where it is not."""
    program = shutil.which(name)
    if program is None:
        raise SourceError(f"the journal cannot be read: there is no {name} (it is part of systemd)")
    return program


def _make_environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"}


def choose_matches(units: Sequence[str], machine_id: str = "", *, everything: bool = False) -> tuple[str, ...]:
    """What journalctl is to match: who logs in and becomes whom, cron, the kernel, and the units that are asked for.

    Of one machine alone, where `machine_id` is given.
    """
    ours = (f"_MACHINE_ID={machine_id}",) if machine_id else ()
    if everything:
        return ours
    asked = (
        *_AUTH_AND_CRON,
        *(f"SYSLOG_IDENTIFIER={name}" for name in _NAMED),
        "_TRANSPORT=kernel",
        *(f"_SYSTEMD_UNIT={unit}" for unit in units),
    )
    return tuple(part for match in asked for part in ("+", match, *ours))[1:]


def read_machine_id(path: Path = Path("/etc/machine-id")) -> str:
    """This machine's, as journald writes it (machine-id(5)); empty where there is none."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return text if _MACHINE_ID.fullmatch(text) else ""


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(_END_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    for stream in (child.stdout, child.stderr):
        if stream is not None:
            stream.close()
