"""The kernel's audit multicast group: the same records that auditd writes, without auditd and without delay.

Source: linux/audit.h (AUDIT_NLGRP_READLOG, since Linux 3.16), linux/netlink.h. One datagram holds one message, a header
and `audit(SEC.MILLI:SERIAL): ...`. Listening needs CAP_AUDIT_READ in the first user namespace and works in the host's
network namespace only. A reader that is too slow loses messages of its own (ENOBUFS) and holds up nobody.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from watchdogd.entities import Record
from watchdogd.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from watchdogd.ports import Clock, Emit
    from watchdogd.telemetry import Counters

SOURCE: Final = "audit_netlink"
"""`source` of every record of this module."""

NETLINK_AUDIT: Final = 9
_READLOG_GROUPS: Final = 1
"""Group AUDIT_NLGRP_READLOG (number 1) as a bit mask."""

_SO_RCVBUFFORCE: Final = 33
_HEADER: Final = struct.Struct("=IHHII")
"""struct nlmsghdr: length with the header, type, flags, sequence, sender."""

_FIRST_AUDIT_TYPE: Final = 1000
_DATAGRAM_BYTES: Final = 64 * 1024
"""The kernel's longest message is below 9,000 bytes (MAX_AUDIT_MESSAGE_LENGTH)."""

_BURST_LINES: Final = 1024
_BURST_BYTES: Final = 1 << 20
_COUNTERS: Final = ("netlink_overruns", "netlink_truncated", "netlink_foreign")

_REMEDY: Final = {
    errno.EPERM: "it needs CAP_AUDIT_READ, which the unit of `watchdogd install` grants",
    errno.EAFNOSUPPORT: "this container may not see the kernel's audit",
    errno.EPROTONOSUPPORT: "this kernel has no audit, or this container may not see it",
}

_log = logging.getLogger("watchdogd.collect")


class Burst(NamedTuple):
    """What was waiting. There is a hole before, between or behind the lines from `lost_at` on (None: no loss)."""

    lines: list[bytes]
    lost_at: int | None
    emptied: bool
    """Whether nothing is waiting any more."""


class AuditNetlink:
    """A `LineSource` over the kernel's audit multicast group.

    Promises: every record that the kernel hands out is emitted once, in order, as the line that auditd would write
    (byte for byte as with `log_format = RAW`; EOE, which auditd leaves out, comes too). What is lost because we read
    too slowly is counted, and a record without data says so at the place (`Record.lost_ms`). Records have no position.

    `name_type` names a record type by its number, as text. `open` binds the socket; from then on the kernel keeps what
    comes. `open` and `run` belong to one thread at a time; `stop` is safe from any. One object is one run.
    """

    def __init__(
        self,
        name_type: Callable[[str], str],
        counters: Counters,
        clock: Clock,
        *,
        receive_bytes: int = 8 << 20,
        batch_lines: int = 64,
    ) -> None:
        self._name_type = name_type
        self._counters = counters
        self._clock = clock
        self._receive_bytes = receive_bytes
        self._batch_lines = batch_lines
        self._prefixes: dict[int, bytes] = {}
        self._node = b""
        self._socket: socket.socket | None = None
        self._buffer = bytearray(_DATAGRAM_BYTES)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stopped = self._is_probed = False
        self._overrun = False
        self._opened_ms = 0
        for name in _COUNTERS:
            counters.add(f"collect_{name}_total", 0)

    def __del__(self) -> None:
        os.close(self._wake)

    def use_node(self, node: str | None) -> None:
        """Begin each line with `node=`, where auditd's log does so for this host (`name_format`); before `run`."""
        self._node = b"" if node is None else b"node=" + node.encode("utf-8", "surrogateescape") + b" "
        self._prefixes.clear()

    def open(self) -> None:
        """Join the group. Raises SourceError where this process may not, with what to do about it."""
        if self._socket is not None:
            return
        try:
            opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_AUDIT)
        except OSError as error:
            raise _explain(error) from error
        try:
            opened.settimeout(0)
            self._enlarge(opened)
            opened.bind((0, _READLOG_GROUPS))
        except OSError as error:
            opened.close()
            raise _explain(error) from error
        # An event that is under way now may come without its beginning.
        self._opened_ms = self._clock.now_ms()
        self._socket = opened

    def probe(self) -> None:
        """Have `run` emit an empty batch now."""
        self._is_probed = True
        os.eventfd_write(self._wake, 1)

    def run(self, emit: Emit) -> None:
        """Read until `stop`. Raises SourceError where the group cannot be joined or read."""
        try:
            self.open()
            assert self._socket is not None  # noqa: S101 (open has set it)
            waiting = select.poll()
            waiting.register(self._socket, select.POLLIN)
            waiting.register(self._wake, select.POLLIN)
            while not self._stopped:
                if self._wake in {number for number, _ in waiting.poll()}:
                    os.eventfd_read(self._wake)
                self.step(emit)
                if self._is_probed:
                    self._is_probed = False
                    emit([])
        finally:
            self.close()

    def stop(self) -> None:
        """Ask `run` to return after the batch in hand."""
        self._stopped = True
        os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """Leave the group; `run` does it itself."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def step(self, emit: Emit) -> None:
        """Emit what is waiting, up to 1,024 lines; returns at once where nothing is. For `run` and tests."""
        burst = self._read_burst()
        if self._opened_ms:
            emit([Record(SOURCE, None, b"", self._opened_ms)])
            self._opened_ms = 0
        if burst.lost_at is None:
            self._emit(burst.lines, emit)
            return
        hole = [Record(SOURCE, None, b"", self._clock.now_ms())]
        self._emit(burst.lines[: burst.lost_at], emit)
        emit(hole)
        self._emit(burst.lines[burst.lost_at :], emit)
        emit(hole)
        self._overrun = not burst.emptied

    def _emit(self, lines: list[bytes], emit: Emit) -> None:
        for start in range(0, len(lines), self._batch_lines):
            if self._stopped:
                return
            records = [Record(SOURCE, None, line) for line in lines[start : start + self._batch_lines]]
            emit(records)

    def _read_burst(self) -> Burst:
        lines: list[bytes] = []
        lost_at = 0 if self._overrun else None
        left = _BURST_BYTES
        while len(lines) < _BURST_LINES and left > 0:
            try:
                datagram = self._receive()
            except BlockingIOError:
                return Burst(lines, lost_at, emptied=True)
            if datagram is None:
                lost_at = len(lines) if lost_at is None else lost_at
                continue
            left -= len(datagram)
            lines.extend(self._make_line(kind, text) for kind, text in cut_messages(datagram))
        return Burst(lines, lost_at, emptied=False)

    def _receive(self) -> bytes | None:
        """One datagram; None where some were lost. Raises BlockingIOError where nothing waits."""
        assert self._socket is not None  # noqa: S101 (open has set it)
        try:
            length, _, flags, sender = self._socket.recvmsg_into([self._buffer])
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise _explain(error) from error
            self._counters.add("collect_netlink_overruns_total")
            return None
        if sender[0] != 0:  # port 0 is the kernel; a program must not be able to make events up
            self._counters.add("collect_netlink_foreign_total")
            return b""
        if flags & socket.MSG_TRUNC:
            self._counters.add("collect_netlink_truncated_total")
        return bytes(memoryview(self._buffer)[:length])

    def _make_line(self, kind: int, text: bytes) -> bytes:
        prefix = self._prefixes.get(kind)
        if prefix is None:
            prefix = self._node + b"type=" + self._name_type(str(kind)).encode("ascii") + b" msg="
            self._prefixes[kind] = prefix
        return prefix + clean_text(text)

    def _enlarge(self, opened: socket.socket) -> None:
        """A burst of events must find room; without CAP_NET_ADMIN the kernel's limit (net.core.rmem_max) holds."""
        try:
            opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, self._receive_bytes)
        except PermissionError:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_bytes)
        _log.debug("audit netlink: receive buffer %d bytes", opened.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF))


def cut_messages(datagram: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and text of each audit message in a datagram; netlink's own messages are passed over.

    What does not fit (a length beyond the datagram, or short of the header as older kernels have it) is taken to be one
    message to the end. Never raises.
    """
    offset = 0
    while len(datagram) - offset >= _HEADER.size:
        length, kind, *_ = _HEADER.unpack_from(datagram, offset)
        end = offset + length
        whole = length < _HEADER.size or end > len(datagram) or length + _HEADER.size == len(datagram)
        if whole:
            end = len(datagram)
        if kind >= _FIRST_AUDIT_TYPE:
            yield kind, datagram[offset + _HEADER.size : end]
        offset = (end + 3) & ~3


def clean_text(text: bytes) -> bytes:
    """The text as auditd writes it into one line of its log: to the first NUL, newlines as spaces."""
    return text.partition(b"\0")[0].replace(b"\n", b" ")


def _explain(error: OSError) -> SourceError:
    remedy = _REMEDY.get(error.errno or 0, "the log is read all the same")
    return SourceError(f"the kernel's audit socket cannot be used ({error.strerror}): {remedy}")
