"""Listens for the API: a Unix socket, and TCP where the configuration says so.

uvicorn's protocol serves the connections in the daemon's own loop; its `Server` is left aside, for it takes over the
process's signals and wakes ten times a second. Framework and application are imported when somebody connects for the
first time: a daemon that nobody asks does without their memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import socket
import ssl
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from watchdogd.api_settings import split_listen
from watchdogd.unix_sockets import UnixListener

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from watchdogd.api.application import Api
    from watchdogd.api.backend import Backend
    from watchdogd.api_settings import ApiSettings

log = logging.getLogger("watchdogd.api")

KEEP_ALIVE_S = 15
CONNECTIONS = 64
"""At once, on each listener; further ones are answered 503."""
HEAD_BYTES = 16_384
BACKLOG = 64
CLOSE_S = 2.0


class Start(Protocol):
    """Runs a coroutine as a task of the daemon's group."""

    def __call__(self, work: Coroutine[None, None, None], /, *, name: str) -> asyncio.Task[None]:
        """The task."""


class ApiServer:
    """One per daemon. What cannot be listened on is said, and the daemon works without."""

    def __init__(self, settings: ApiSettings, build_backend: Callable[[], Backend], start: Start) -> None:
        """`build_backend` is called when somebody connects for the first time."""
        self._settings = settings
        self._build_backend = build_backend
        self._start = start
        self._loading: asyncio.Lock | None = None
        self._api: Api | None = None
        self._backend: Backend | None = None
        self._sockets: list[socket.socket] = []
        self._servers: list[asyncio.Server] = []
        self._stop_serving: list[Callable[[], None]] = []
        self._unix = UnixListener(Path(settings.path))

    def open(self) -> None:
        """Listen from now on. Never raises."""
        if not self._settings.enabled:
            return
        self._loading = asyncio.Lock()
        for where, bind, is_local in (
            (self._settings.path, partial(self._unix.bind, BACKLOG), True),
            (self._settings.listen, self._bind_tcp, False),
        ):
            if not where:
                continue
            try:
                listener = bind()
            except (OSError, ValueError) as error:
                log.warning("no API at %s (%s)", where, getattr(error, "strerror", None) or error)
                continue
            listener.settimeout(0)
            self._sockets.append(listener)
            self._await_first(listener, is_local=is_local)

    def close(self) -> None:
        """Accept no more, and end what is open."""
        for listener in self._sockets:
            with contextlib.suppress(RuntimeError, ValueError):
                asyncio.get_running_loop().remove_reader(listener)
        for server in self._servers:
            server.close()
        for stop in self._stop_serving:
            stop()
        for listener in self._sockets:
            listener.close()
        self._unix.remove()

    def _await_first(self, listener: socket.socket, *, is_local: bool) -> None:
        """Wait for somebody to connect; the connection waits in the kernel's queue meanwhile."""
        loop = asyncio.get_running_loop()

        def begin() -> None:
            loop.remove_reader(listener)
            self._start(self._serve(listener, is_local=is_local), name="serve API")

        loop.add_reader(listener, begin)

    async def _serve(self, listener: socket.socket, *, is_local: bool) -> None:
        assert self._loading is not None  # noqa: S101 (`open` made it)
        try:
            async with self._loading:
                if self._api is None:
                    await asyncio.to_thread(_import)
                    from watchdogd.api.application import Api  # noqa: PLC0415 (imported above, off the loop)

                    self._backend = self._build_backend()
                    self._api = Api(self._settings, self._backend)
            server, stop = await self._accept(listener, is_local=is_local)
        except Exception:  # of a fault of ours the daemon must not end
            log.exception("the API cannot be served: please report this")
            return
        self._servers.append(server)
        self._stop_serving.append(stop)

    async def _accept(self, listener: socket.socket, *, is_local: bool) -> tuple[asyncio.Server, Callable[[], None]]:
        from uvicorn.config import Config  # noqa: PLC0415 (see above)
        from uvicorn.protocols.http.h11_impl import H11Protocol  # noqa: PLC0415
        from uvicorn.server import ServerState  # noqa: PLC0415

        from watchdogd.api.access import Gate  # noqa: PLC0415

        assert self._api is not None  # noqa: S101
        assert self._backend is not None  # noqa: S101
        gate = Gate(self._settings, self._backend.clock, is_local=is_local)
        config = Config(
            self._api.serve(gate),
            http=H11Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            limit_concurrency=CONNECTIONS,
            h11_max_incomplete_event_size=HEAD_BYTES,
        )
        config.load()
        state = ServerState()
        loop = asyncio.get_running_loop()

        def make_protocol() -> H11Protocol:
            return H11Protocol(config=config, server_state=state, app_state={}, _loop=loop)

        def stop() -> None:
            for connection in [*state.connections]:
                transport = getattr(connection, "transport", None)
                if transport is not None:
                    transport.abort()

        context = None if is_local else self._make_context()
        server = await loop.create_server(make_protocol, sock=listener, ssl=context, backlog=BACKLOG)
        return server, stop

    def _make_context(self) -> ssl.SSLContext | None:
        if not self._settings.tls_certificate:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self._settings.tls_certificate, self._settings.tls_key, password=lambda: "")
        return context

    def _bind_tcp(self) -> socket.socket:
        host, port = split_listen(self._settings.listen)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._make_context()
        listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
        return listener


def _import() -> None:
    """What serving needs; it takes some tenths of a second."""
    for name in ("uvicorn.protocols.http.h11_impl", "watchdogd.api.application"):
        importlib.import_module(name)
