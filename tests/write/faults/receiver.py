"""A receiver of webhooks that misbehaves in every way: a process of its own, by asyncio, with or without TLS.

Usage: receiver.py [CERTIFICATE]. Prints `{"port": ..., "closed_port": ...}`, then serves on 127.0.0.1. The path says
how it behaves: `/good`, `/dead` (500), `/redirect`, `/stuck` (hangs), `/picky` (413 above 20,000 bytes), `/flaky` (each
fault in turn, by a seeded die). What came in is told by `GET /log`; `GET /open` makes `closed_port` listen.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import ssl
import struct
import sys
from typing import Any

LARGE = 20_000
FAULTS = ("500", "503", "429", "408", "reset", "vanish", "hang", "drip", "cut")
ANSWERS = {
    "ok": "200 OK",
    "500": "500 Internal Server Error",
    "503": "503 Service Unavailable\r\nRetry-After: 45",
    "429": "429 Too Many Requests\r\nRetry-After: 90",
    "408": "408 Request Timeout",
    "302": "302 Found\r\nLocation: http://127.0.0.1:1/elsewhere",
    "413": "413 Content Too Large",
}
TAKEN = ("ok", "cut")
"""Whoever has said 200 has it, whatever becomes of the rest of the answer."""


class Receiver:
    """Both ports, and what came in."""

    def __init__(self) -> None:
        self.log: list[dict[str, Any]] = []
        self.die = random.Random(11)
        self.held = socket.socket()
        self.held.bind(("127.0.0.1", 0))  # bound, but nobody listens: refused
        self.servers: list[asyncio.Server] = []
        self.context: ssl.SSLContext | None = None

    async def serve(self, certificate: str | None) -> None:
        if certificate is not None:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(certificate)
        server = await asyncio.start_server(self.talk, "127.0.0.1", 0, ssl=self.context)
        self.servers.append(server)
        port, closed_port = server.sockets[0].getsockname()[1], self.held.getsockname()[1]
        sys.stdout.write(json.dumps({"port": port, "closed_port": closed_port}) + "\n")
        sys.stdout.flush()
        await server.serve_forever()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
            while await self.answer(reader, writer):
                pass
        writer.close()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        path = head[0].split(" ")[1]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        size = int(headers.get("content-length", "0"))
        if path in {"/log", "/open"}:
            return await self.control(path, writer)
        how = self.choose(path, size)
        if how == "reset":
            await reader.readexactly(size // 2)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            self.note(path, headers, how, b"{}")
            return False
        body = await reader.readexactly(size)
        self.note(path, headers, how, body)
        return await self.respond(how, reader, writer)

    def choose(self, path: str, size: int) -> str:
        match path.strip("/"):
            case "dead":
                return "500"
            case "redirect":
                return "302"
            case "stuck":
                return "hang"
            case "picky":
                return "413" if size > LARGE else "ok"
            case "flaky":
                return "ok" if self.die.random() < 0.4 else self.die.choice(FAULTS)
        return "ok"

    def note(self, path: str, headers: dict[str, str], how: str, body: bytes) -> None:
        known = json.loads(body).get("watchdogd", {})
        self.log.append(
            {
                "target": path.strip("/"),
                "webhook_id": headers["webhook-id"],
                "kind": headers["x-watchdogd-kind"],
                "alert_id": known.get("alert_id"),
                "group": known.get("group_key"),
                "how": how,
                "taken": how in TAKEN,
            }
        )

    async def respond(self, how: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        match how:
            case "vanish":
                return False
            case "hang":
                await reader.read(1)  # until the client has enough of it
                return False
            case "drip":
                writer.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
                while not reader.at_eof():
                    writer.write(b"x")
                    await writer.drain()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.02):
                            await reader.read(1)
                return False
            case "cut":
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
                await writer.drain()
                return False
        writer.write(f"HTTP/1.1 {ANSWERS[how]}\r\ncontent-length: 2\r\n\r\nok".encode())
        await writer.drain()
        return True

    async def control(self, path: str, writer: asyncio.StreamWriter) -> bool:
        if path == "/open":
            self.held.listen()
            self.servers.append(await asyncio.start_server(self.talk, sock=self.held, ssl=self.context))
        body = json.dumps(self.log).encode()
        writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        return True


if __name__ == "__main__":
    asyncio.run(Receiver().serve(sys.argv[1] if len(sys.argv) > 1 else None))
