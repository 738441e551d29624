"""Netlink messages of audit, made from lines that auditd wrote."""

from __future__ import annotations

import errno
import re
import struct

from watchdogd.decode.tables import number_type


def make_message(line: bytes) -> bytes:
    """The datagram that the kernel would have sent for this line."""
    name, text = re.fullmatch(rb"type=(\S+) msg=(.*)", line, re.DOTALL).groups()  # type: ignore[union-attr]
    number = number_type(name.decode())
    assert number is not None
    return struct.pack("=IHHII", 16 + len(text), number, 0, 0, 0) + text


def make_end(line: bytes) -> bytes:
    """The EOE line of this line's event, which auditd does not write."""
    stamp = re.search(rb"audit\([0-9.:]+\)", line)
    assert stamp is not None
    return b"type=EOE msg=" + stamp[0] + b": "


class Kernel:
    """Stands for the socket: what is queued comes out in order, `None` is an overrun, and then nothing waits."""

    def __init__(self) -> None:
        self.queue: list[bytes | int | None] = []
        self.sender = 0
        self.flags = 0
        self.closed = False

    def recvmsg_into(self, buffers: list[bytearray]) -> tuple[int, list[object], int, tuple[int, int]]:
        if not self.queue:
            raise BlockingIOError
        item = self.queue.pop(0)
        if item is None:
            raise OSError(errno.ENOBUFS, "No buffer space available")
        if isinstance(item, int):
            raise OSError(item, "trouble")
        buffers[0][: len(item)] = item
        return len(item), [], self.flags, (self.sender, 1)

    def close(self) -> None:
        self.closed = True
