"""The control socket: one JSON line asks, one JSON line answers, and the connection ends.

Only root and the daemon's own account are answered (SO_PEERCRED, unix(7)).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
from typing import TYPE_CHECKING

import msgspec

from watchdogd.reports import Refusal, Request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from watchdogd.telemetry import Counters

log = logging.getLogger("watchdogd.control")

REQUEST_BYTES = 4096
REQUEST_S = 5.0
ANSWER_S = 10.0
"""For a client to take its answer."""
CONNECTIONS = 8
_PEER = struct.Struct("3i")


class ControlServer:
    """Answers on a unix socket. A handler's result is encoded as it is; what it raises never reaches the daemon."""

    def __init__(
        self, path: Path, handlers: Mapping[str, Callable[[], Awaitable[msgspec.Struct]]], counters: Counters
    ) -> None:
        self._path = path
        self._handlers = handlers
        self._counters = counters
        self._open = 0
        self._identity: tuple[int, int] | None = None
        self._server: asyncio.AbstractServer | None = None

    async def open(self) -> None:
        """Answer from now on. Where the socket cannot be had, say so: the daemon works without."""
        try:
            self._server = await self._listen()
        except OSError as error:
            log.warning(
                "no control socket at %s (%s): `watchdogd reload` and `status` cannot reach this daemon, SIGHUP can",
                self._path,
                error.strerror or error,
            )

    def close(self) -> None:
        """Answer no more. Not waited for: a client that does not read must not hold up the stop."""
        if self._server is not None:
            self._server.close()
            self._remove()

    async def _listen(self) -> asyncio.AbstractServer:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            if self._path.is_socket() and not _is_answered(self._path):
                self._path.unlink()  # left behind by a daemon that was killed
            listener.bind(str(self._path))
            self._path.chmod(0o600)
            status = self._path.lstat()
            self._identity = (status.st_dev, status.st_ino)
            return await asyncio.start_unix_server(self._answer, sock=listener, limit=REQUEST_BYTES)
        except OSError:
            listener.close()
            raise

    def _remove(self) -> None:
        """Take the name away, unless another daemon has put its own there."""
        with contextlib.suppress(OSError):
            status = self._path.lstat()
            if (status.st_dev, status.st_ino) == self._identity:
                self._path.unlink()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            answer = await self._respond(reader, writer)
            writer.write(msgspec.json.encode(answer) + b"\n")
            async with asyncio.timeout(ANSWER_S):
                await writer.drain()
        except (OSError, TimeoutError):
            return  # the client has left, or does not read
        finally:
            self._open -= 1
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _respond(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> msgspec.Struct:
        complaint = self._complain(writer)
        if complaint:
            self._counters.add("control_refused_total")
            return Refusal(complaint)
        try:
            async with asyncio.timeout(REQUEST_S):
                line = await reader.readline()
            request = msgspec.json.decode(line, type=Request)
            handle = self._handlers[request.do]
        except (ValueError, KeyError, TimeoutError):  # readline: ValueError where the line is too long
            self._counters.add("control_refused_total")
            return Refusal(
                f'not a request: {{"do": ...}} is expected, on one line, with one of {sorted(self._handlers)}'
            )
        try:
            return await handle()
        except Exception as error:  # whatever fails in an answer must not end the daemon
            log.exception("the request %r failed: please report this", request.do)
            return Refusal(f"the daemon failed to answer: {type(error).__name__}")

    def _complain(self, writer: asyncio.StreamWriter) -> str:
        peer: socket.socket = writer.get_extra_info("socket")
        _, uid, _ = _PEER.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        if uid not in (0, os.geteuid()):
            return "only root and the daemon's own account may ask"
        return f"more than {CONNECTIONS} requests at once" if self._open > CONNECTIONS else ""


def _is_answered(path: Path) -> bool:
    """Whether somebody listens there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(1.0)
        try:
            client.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
    return True
