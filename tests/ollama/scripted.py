"""A server that answers as a script says, for the faults that no real server can be made to show."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

_CRLF = b"\r\n"


class Answer(NamedTuple):
    """Bytes on the wire, and what happens before and after them."""

    raw: bytes
    delay_s: float = 0.0
    after: str = "close"
    """`close`, `stall` (nothing more ever comes) or `reset`."""


def reply(body: object, status: int = 200, content_type: str = "application/json", **more: str) -> Answer:
    """A complete HTTP answer; `body` is JSON unless it is bytes."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": content_type, "Content-Length": str(len(content)), "Connection": "close"}
    headers |= {name.replace("_", "-"): value for name, value in more.items()}
    lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in headers.items())]
    return Answer("\r\n".join(lines).encode() + _CRLF * 2 + content)


def chat(content: object, **changes: object) -> Answer:
    """What /api/chat answers; `content` is the message's text, or a value that becomes JSON."""
    text = content if isinstance(content, str) else json.dumps(content)
    body: dict[str, object] = {
        "model": "m",
        "message": {"role": "assistant", "content": text},
        "done": True,
        "done_reason": "stop",
        "prompt_eval_count": 600,
        "eval_count": 9,
    }
    return reply(body | changes)


def lines(*parts: object, after: str = "close") -> Answer:
    """A streamed answer in chunks: one JSON value a line, bytes as they are. Complete only where `after` is `close`."""
    texts = [part if isinstance(part, bytes) else json.dumps(part).encode() + b"\n" for part in parts]
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(text), text) for text in texts if text)
    return Answer(head + chunks + (b"0\r\n\r\n" if after == "close" else b""), after=after)


def label(name: str, **changes: object) -> Answer:
    """A label, in the spacing that the real engine writes."""
    return chat(f'{{\n  "label" : "{name}"\n}}', **changes)


def explanation(summary: str, techniques: Sequence[str] = (), next_steps: Sequence[str] = ()) -> Answer:
    """An explanation, properties in alphabetical order as the real engine writes them."""
    return chat({"next_steps": list(next_steps), "summary": summary, "techniques": list(techniques)})


NO_MODELS = reply({"models": []})


class Scripted:
    """Plays `answers` to /api/chat one by one (the last again and again); keeps what it was asked.

    `others` are the answers to all else by name (`pull`, `ps`, `show`); `load` is to a chat without messages, which
    is one of the questions where it is not given.
    """

    def __init__(
        self, *answers: Answer, tags: Answer = NO_MODELS, version: Answer | None = None, **others: Answer
    ) -> None:
        self._answers = list(answers)
        self._others = {"/api/tags": tags, "/api/version": version or reply({"version": "0.32.0"})}
        self._others |= {f"/api/{name}": answer for name, answer in others.items()}
        self._tasks: set[asyncio.Task[Any] | None] = set()
        self._stop = asyncio.Event()
        self.questions: list[dict[str, Any]] = []
        self.asked = asyncio.Event()
        """Set at the first question."""
        self.most_at_once = 0
        """How many delayed answers were waited for at the same time."""
        self._open = 0
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        self._server.close()
        await asyncio.gather(*(task for task in self._tasks if task), return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.current_task())
        try:
            await self._answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(_CRLF * 2)
        length = next((int(line[15:]) for line in head.lower().split(_CRLF) if line.startswith(b"content-length:")), 0)
        body = await reader.readexactly(length)
        answer = self._choose(head.split()[1].decode(), body)
        if answer.delay_s:
            self._open += 1
            self.most_at_once = max(self.most_at_once, self._open)
            await self._wait(answer.delay_s)
            self._open -= 1
        writer.write(answer.raw)
        if answer.after == "reset":
            await writer.drain()
            writer.transport.abort()
        elif answer.after == "stall":
            await self._wait(None)
        else:
            await writer.drain()

    def _choose(self, path: str, body: bytes) -> Answer:
        if path != "/api/chat":
            return self._others[path]
        question = json.loads(body)
        if not question.get("messages") and "/api/load" in self._others:
            return self._others["/api/load"]
        self.questions.append(question)
        self.asked.set()
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]

    async def _wait(self, seconds: float | None) -> None:
        """Until `seconds` have passed or the test is over."""
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            pass
