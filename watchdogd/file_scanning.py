"""The process that scans, as the daemon sees it: started, listened to, ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from watchdogd.file_scan import LENGTH, Message, ScanDone, ScanRequest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

_START: Final = (  # signals that the daemon blocks for itself are not to be blocked in the child
    "import signal, sys; signal.pthread_sigmask(signal.SIG_SETMASK, ()); sys.path.insert(0, sys.argv[1]); "
    "from watchdogd.file_scan import main; main()"
)
_PACKAGE_PARENT: Final = Path(__file__).resolve().parent.parent
_MESSAGE_BYTES: Final = 1 << 20
_SAID_CHARS: Final = 300


class ScanError(Exception):
    """The process that scans ended before it was done, or said what is no message."""


async def run_scan(request: ScanRequest) -> AsyncGenerator[Message, None]:
    """Scan in a process of its own; what it tells, at last ScanDone. It ends with the generator.

    Raises OSError where it cannot be started, ScanError where it ends early.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-c", _START, str(_PACKAGE_PARENT)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C.UTF-8"},
    )
    try:
        assert process.stdin is not None  # noqa: S101 - as it was started
        assert process.stdout is not None  # noqa: S101 - as above
        process.stdin.write(msgspec.msgpack.encode(request))
        process.stdin.close()
        decoder = msgspec.msgpack.Decoder(Message)
        while True:
            message = await _read_message(process, process.stdout, decoder)
            yield message
            if isinstance(message, ScanDone):
                return
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await process.wait()


async def _read_message(
    process: asyncio.subprocess.Process, stream: asyncio.StreamReader, decoder: msgspec.msgpack.Decoder[Message]
) -> Message:
    try:
        (length,) = LENGTH.unpack(await stream.readexactly(LENGTH.size))
        if length > _MESSAGE_BYTES:
            raise ScanError(f"a message of {length} bytes")
        return decoder.decode(await stream.readexactly(length))
    except asyncio.IncompleteReadError:
        raise ScanError(await _read_complaint(process)) from None
    except msgspec.MsgspecError as error:
        raise ScanError(f"what it said cannot be read: {error}") from None


async def _read_complaint(process: asyncio.subprocess.Process) -> str:
    """Why it ended: its last line, escaped."""
    assert process.stderr is not None  # noqa: S101 - as it was started
    said = (await process.stderr.read(1 << 16)).decode("utf-8", "backslashreplace").strip().splitlines()
    status = await process.wait()
    return f"it ended with status {status}: {ascii(said[-1])[1:-1][:_SAID_CHARS] if said else 'without a word'}"
