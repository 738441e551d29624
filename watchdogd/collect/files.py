"""Recorded logs read from end to end: plain, gzip, xz, zstd, or standard input; for `decode` and `replay`."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import shutil
import subprocess
import sys
import tempfile
import zlib
from contextlib import closing
from typing import IO, TYPE_CHECKING, Final

from watchdogd.collect.log_lines import LineCutter
from watchdogd.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from watchdogd.entities import Record
    from watchdogd.telemetry import Counters

CHUNK_BYTES: Final = 128 << 10
MAX_LINE_BYTES: Final = 1 << 20
STDIN: Final = "-"

_GZIP: Final = b"\x1f\x8b"
_XZ: Final = b"\xfd7zXZ\x00"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_PEEK_BYTES: Final = 4096
_MIN_SAMPLE: Final = 32
_BINARY_SHARE: Final = 0.3
_CONTROLS: Final = bytes({*range(32), 127} - {9, 10, 13, 0x1D})
"""Control characters that no log line begins with; 0x1d parts auditd's enriched fields from the rest."""


def read_files(paths: Sequence[str], counters: Counters) -> Iterator[list[Record]]:
    """Lines of several logs as one stream in the given order, in batches, without positions. `-` is standard input.

    What a file is packed with is seen from its first bytes, not from its name. Lines above MAX_LINE_BYTES are cut
    (`collect_overlong_lines_total`); memory does not grow with the file. Raises SourceError, which names the file,
    where one cannot be read to its end or is no text; what was read before has been handed out.
    """
    for path in paths:
        yield from _read_file(path, counters)


def _read_file(path: str, counters: Counters) -> Iterator[list[Record]]:
    name = "standard input" if path == STDIN else path
    cutter = LineCutter(0, MAX_LINE_BYTES, counters)
    first = True
    try:
        with closing(_open(path)) as packed:
            for chunk in _unpack(name, packed):
                if first and _is_binary(chunk[:_PEEK_BYTES]):
                    raise SourceError(f"{name}: is no log but binary data")
                first = False
                lines = cutter.feed(chunk)
                if lines:
                    yield [line.record(path, None) for line in lines]
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise SourceError(f"{name}: is damaged or was cut off ({error}): copy it again") from error
    except OSError as error:
        raise SourceError(f"{name}: cannot be read ({error.strerror or error}): {_advise(error)}") from error
    rest = cutter.finish()
    if rest:
        yield [line.record(path, None) for line in rest]


def _open(path: str) -> io.BufferedReader:
    if path == STDIN:
        return io.BufferedReader(io.FileIO(sys.stdin.fileno(), closefd=False), CHUNK_BYTES)
    return io.BufferedReader(io.FileIO(path), CHUNK_BYTES)


def _unpack(name: str, packed: io.BufferedReader) -> Iterator[bytes]:
    head = packed.peek(len(_XZ))
    stream: io.BufferedIOBase = packed
    if head.startswith(_GZIP):
        stream = gzip.GzipFile(fileobj=packed)
    elif head.startswith(_XZ):
        stream = lzma.LZMAFile(packed)  # noqa: SIM115 - closed below
    elif head.startswith(_ZSTD):
        yield from _unpack_zstd(name, packed)
        return
    with closing(stream):
        while chunk := stream.read1(CHUNK_BYTES):
            yield chunk


def _unpack_zstd(name: str, packed: io.BufferedReader) -> Iterator[bytes]:
    """Through the zstd program, which gets the packed bytes as a file (a pipe is copied): nothing has to feed it."""
    program = shutil.which("zstd")
    if program is None:
        raise SourceError(f"{name}: is packed with zstd, and there is no zstd program: install zstd, or unpack it")
    with tempfile.TemporaryFile() as copy, tempfile.TemporaryFile() as complaints:
        source: io.FileIO | IO[bytes] = packed.raw  # type: ignore[assignment] # a FileIO, see _open
        if packed.seekable():
            packed.seek(0)
        else:
            shutil.copyfileobj(packed, copy, CHUNK_BYTES)
            copy.flush()
            source = copy
        os.lseek(source.fileno(), 0, os.SEEK_SET)
        process = subprocess.Popen(  # noqa: S603 - a fixed program without arguments from outside
            [program, "-dcq"], stdin=source, stdout=subprocess.PIPE, stderr=complaints
        )
        try:
            with closing(process.stdout or io.BytesIO()) as unpacked:
                while chunk := unpacked.read(CHUNK_BYTES):
                    yield chunk
        finally:
            status = process.wait()
        if status != 0:
            complaints.seek(0)
            reason = complaints.read(_PEEK_BYTES).decode("utf-8", "backslashreplace").strip()
            raise SourceError(f"{name}: is damaged or was cut off ({reason}): copy it again")


def _is_binary(sample: bytes) -> bool:
    """Whether a file begins with too many control characters to be a log. Bytes above 0x7f may be anybody's text."""
    if len(sample) < _MIN_SAMPLE:
        return False
    controls = len(sample) - len(sample.translate(None, _CONTROLS))
    try:
        sample.decode()
        foreign = 0
    except UnicodeDecodeError:
        foreign = sum(byte > 127 for byte in sample)  # noqa: PLR2004 - the end of ASCII
    return controls + foreign > len(sample) * _BINARY_SHARE


def _advise(error: OSError) -> str:
    if isinstance(error, IsADirectoryError):
        return "name the files in it"
    if isinstance(error, FileNotFoundError):
        return "check the path"
    if isinstance(error, PermissionError):
        return "run as root, or copy it"
    return "check the device"
