"""The control socket: one JSON line asks, one JSON line answers, and the connection ends.

Only root and the daemon's own account are answered (SO_PEERCRED, unix(7)).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import msgspec

from watchdogd.errors import WatchdogdError
from watchdogd.reports import Refusal, Request
from watchdogd.unix_sockets import UnixListener

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping
    from pathlib import Path

    from watchdogd.telemetry import Counters

log = logging.getLogger("watchdogd.control")

REQUEST_BYTES = 1 << 16
REQUEST_S = 5.0
ANSWER_S = 10.0
"""For a client to take its answer."""
CONNECTIONS = 8
BACKLOG = 100
_PEER = struct.Struct("3i")


class Peer(NamedTuple):
    """Who asks, by the kernel's word."""

    pid: int
    uid: int


class Takes(NamedTuple):
    """A handler that needs arguments, and their type."""

    kind: type[msgspec.Struct]
    handle: Callable[..., Awaitable[msgspec.Struct]]
    """Takes them, and the Peer behind them where that is wanted."""
    wants_peer: bool = False


Handler: TypeAlias = "Callable[[], Awaitable[msgspec.Struct]] | Takes"


class ControlServer:
    """Answers on a unix socket. A handler's result is encoded as it is; what it raises never reaches the daemon.

    A WatchdogdError is told to whoever asked, word by word; of anything else only the kind.
    """

    def __init__(
        self,
        path: Path,
        handlers: Mapping[str, Handler],
        counters: Counters,
        start: Callable[[Coroutine[None, None, None]], asyncio.Task[None]],
    ) -> None:
        """`start` runs a coroutine as a task of the daemon's group."""
        self._path = path
        self._handlers = handlers
        self._counters = counters
        self._start = start
        self._answering: set[asyncio.Task[None]] = set()
        self._listener = UnixListener(path)
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
        """Answer no more, and leave what is being answered: a client that does not read must not hold up the stop."""
        if self._server is not None:
            self._server.close()
            self._listener.remove()
        for task in self._answering:
            task.cancel()

    async def _listen(self) -> asyncio.AbstractServer:
        listener = self._listener.bind(BACKLOG)
        return await asyncio.start_unix_server(self._accept, sock=listener, limit=REQUEST_BYTES)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._start(self._answer(reader, writer))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answer = await self._respond(reader, writer)
            writer.write(msgspec.json.encode(answer) + b"\n")
            async with asyncio.timeout(ANSWER_S):
                await writer.drain()
        except (OSError, TimeoutError):
            return  # the client has left, or does not read
        except Exception:  # of a fault of ours the daemon must not end
            log.exception("a request could not be answered: please report this")
        finally:
            writer.close()

    async def _respond(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> msgspec.Struct:
        try:
            async with asyncio.timeout(REQUEST_S):
                line = await reader.readline()  # whoever it is: a client that is not read to its end hears nothing
            peer = _find_peer(writer)
            complaint = self._complain(peer)
            if complaint:
                self._counters.add("control_refused_total")
                return Refusal(complaint)
            request = msgspec.json.decode(line, type=Request)
            handler = self._handlers[request.do]
        except (ValueError, KeyError, TimeoutError):  # readline: ValueError where the line is too long
            self._counters.add("control_refused_total")
            return Refusal(
                f'not a request: {{"do": ...}} is expected, on one line, with one of {sorted(self._handlers)}'
            )
        return await self._handle(request, handler, peer)

    async def _handle(self, request: Request, handler: Handler, peer: Peer) -> msgspec.Struct:
        try:
            if isinstance(handler, Takes):
                arguments = msgspec.json.decode(request.arguments, type=handler.kind)
                return await (handler.handle(arguments, peer) if handler.wants_peer else handler.handle(arguments))
            return await handler()
        except msgspec.MsgspecError as error:
            self._counters.add("control_refused_total")
            return Refusal(f"not a request: the arguments of {request.do}: {error}")
        except WatchdogdError as error:
            return Refusal(str(error))
        except Exception as error:  # whatever fails in an answer must not end the daemon
            log.exception("the request %r failed: please report this", request.do)
            return Refusal(f"the daemon failed to answer: {type(error).__name__}")

    def _complain(self, peer: Peer) -> str:
        if peer.uid not in (0, os.geteuid()):
            return "only root and the daemon's own account may ask"
        return f"more than {CONNECTIONS} requests at once" if len(self._answering) > CONNECTIONS else ""


def _find_peer(writer: asyncio.StreamWriter) -> Peer:
    client: socket.socket = writer.get_extra_info("socket")
    pid, uid, _ = _PEER.unpack(client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return Peer(pid, uid)
