"""The cost of a byte must not grow with the line: a search that is not anchored goes quadratic on such lines."""

from __future__ import annotations

import time

from watchdogd.decode.decoder import Decoder
from watchdogd.decode.document import event_document
from watchdogd.entities import Record
from watchdogd.telemetry import Counters

SMALL_BYTES = 10_000
LARGE_BYTES = 1_000_000
LIMIT = 2.0
ROUNDS = 5
TRIES = 5
"""What is over the limit is timed so often, and the best counts: others at work on the machine cost cache, too."""
TYPES = ("SYSCALL", "EXECVE", "PATH", "USER_CMD", "AVC", "PROCTITLE", "SOCKADDR", "LOGIN")
SHAPES = {
    "a1[0]=<hex>": b"a1[0]=" + b"AB" * 100 + b" ",
    "one a1[0]=<hex>": b"AB",
    "key=": b"key=",
    "key= and spaces": b"key= ",
    "hex keys": b"key=6101" + b"62" * 8 + b" ",
    "quotes": b'"',
    "open quotes": b'a="',
    "msg=' nested": b"msg='",
    "spaces": b" ",
    "equal signs": b"=",
    "words": b"x ",
    "braces": b"{ } ",
    "0x1d": b'\x1dUID="',
    "not UTF-8": b"\xff\xc3",
}


def make_line(kind: str, shape: str, size: int) -> bytes:
    """A line of about this size."""
    piece = SHAPES[shape]
    start = f"type={kind} msg=audit(1.000:1): ".encode() + (b"a1[0]=" if shape.startswith("one ") else b"")
    return start + piece * (size // len(piece))


def time_bytes(line: bytes, repeat: int) -> float:
    """CPU nanoseconds for a byte, through the decoder with views and document; the best of several rounds."""
    best_s = float("inf")
    for _ in range(ROUNDS):
        started_s = time.process_time()
        for _ in range(repeat):
            decoder = Decoder(Counters(), live=False)
            decoder.feed([Record("fuzz", None, line)], 0)
            for event in decoder.drain().events:
                event_document(event)
        best_s = min(best_s, time.process_time() - started_s)
    return best_s / repeat / len(line) * 1e9


def find_excesses() -> list[str]:
    """Types and shapes whose megabyte costs more than it may; one line of text each."""
    found = []
    for kind in TYPES:
        for shape in SHAPES:
            small, large = make_line(kind, shape, SMALL_BYTES), make_line(kind, shape, LARGE_BYTES)
            small_ns = large_ns = float("inf")
            for _ in range(TRIES):
                small_ns, large_ns = min(small_ns, time_bytes(small, 20)), min(large_ns, time_bytes(large, 1))
                if large_ns <= LIMIT * small_ns:
                    break
            else:
                found.append(f"{kind}, {shape}: {small_ns:.1f} ns a byte at 10 kB, {large_ns:.1f} at 1 MB")
    return found
