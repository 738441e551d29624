"""A real HTTP receiver on a thread, which stores what it gets and misbehaves as it is told."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


class Fault(msgspec.Struct, frozen=True):
    """How one request is answered. `kind`: `status`, `reset`, `hang`, `drip` or `cut`."""

    kind: str = "status"
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()


OK = Fault()
RESET = Fault("reset")
"""Reads half of the body, then sends RST."""
HANG = Fault("hang")
"""Takes the request and says nothing."""
DRIP = Fault("drip")
"""Sends the answer's head a byte at a time, for ever."""
CUT = Fault("cut")
"""Sends 200 and its headers, then closes before the promised body."""


class Received(msgspec.Struct, frozen=True):
    """One request, complete."""

    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def document(self) -> dict[str, Any]:
        """The body as JSON."""
        return msgspec.json.decode(self.body, type=dict[str, Any])


class Receiver:
    """Listens on 127.0.0.1 from `with` on. `answers` are used up in order; after them every answer is 200."""

    def __init__(self, *answers: Fault, certificate: Path | None = None, clients: Path | None = None) -> None:
        """`clients` is the authority whose certificates alone are let in."""
        self._answers = list(answers)
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._received: list[Received] = []
        self.failed = 0
        """Requests that got something else than 200."""
        self._closing = threading.Event()
        self._server = _Server(("127.0.0.1", 0), self._answer)
        self._scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            if clients is not None:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(clients)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self._scheme = "https"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="receiver")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """Where to send to; the path holds what should never show in a log."""
        return f"{self._scheme}://127.0.0.1:{self.port}/hook/token-abc123"

    @property
    def requests(self) -> list[Received]:
        """Everything that arrived whole, in order."""
        with self._lock:
            return list(self._received)

    def answer_next(self, *answers: Fault) -> None:
        """Queue these answers."""
        with self._lock:
            self._answers.extend(answers)

    def wait_for(self, enough: Callable[[list[Received]], bool], timeout_s: float) -> list[Received]:
        """The requests, as soon as `enough` says so; TimeoutError with what arrived else."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: enough(self._received), timeout_s):
                raise TimeoutError(f"only {len(self._received)} requests arrived: {self._received!r:.2000}")
            return list(self._received)

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        with self._lock:
            fault = self._answers.pop(0) if self._answers else OK
            self.failed += fault is not OK
        size = int(handler.headers["content-length"])
        if fault.kind == "reset":
            handler.rfile.read(size // 2)
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.close_connection = True
            return
        headers = {name.lower(): value for name, value in handler.headers.items()}
        request = Received(handler.path, headers, handler.rfile.read(size))
        if len(request.body) < size:  # the sender was killed in the middle: it did not arrive
            handler.close_connection = True
            return
        with self._arrived:
            self._received.append(request)
            self._arrived.notify_all()
        with contextlib.suppress(OSError):
            self._respond(handler, fault)

    def _respond(self, handler: BaseHTTPRequestHandler, fault: Fault) -> None:
        match fault.kind:
            case "hang":
                self._closing.wait(60)
            case "drip":
                handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
                while not self._closing.wait(0.02):
                    handler.wfile.write(b"x")
            case "cut":
                handler.send_response(200)
                handler.send_header("content-length", "1000")
                handler.end_headers()
                handler.close_connection = True
            case _:
                handler.send_response(fault.status)
                for name, value in fault.headers:
                    handler.send_header(name, value)
                handler.send_header("content-length", "2")
                handler.end_headers()
                handler.wfile.write(b"ok")


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], answer: Callable[[BaseHTTPRequestHandler], None]) -> None:
        super().__init__(address, _Handler)
        self.answer = answer

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    """Else each answer waits 40 ms for the client's delayed acknowledgement."""

    def do_POST(self) -> None:
        assert isinstance(self.server, _Server)
        self.server.answer(self)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
        """Say nothing."""
