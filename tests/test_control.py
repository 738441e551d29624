"""The control socket: who is answered, and what a client can do to the daemon (nothing)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from watchdogd import control
from watchdogd.cli.daemon import ask
from watchdogd.control import ControlServer, Takes
from watchdogd.errors import WatchdogdError
from watchdogd.reports import RuleName, StatusReport
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from watchdogd.control import Handler

ANSWER = RuleName("id", "title\nof two lines")


class Served(NamedTuple):
    path: Path
    counters: Counters
    waiting: asyncio.Semaphore
    release: asyncio.Event


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    waiting, release = asyncio.Semaphore(0), asyncio.Event()

    async def answer() -> RuleName:
        return ANSWER

    async def wait() -> RuleName:
        waiting.release()
        await release.wait()
        return ANSWER

    async def fail() -> RuleName:
        raise ValueError("secret")

    async def take(given: RuleName) -> RuleName:
        if not given.title:
            raise WatchdogdError("a title is needed")
        return given

    counters = Counters()
    handlers: dict[str, Handler] = {"answer": answer, "wait": wait, "fail": fail, "take": Takes(RuleName, take)}
    async with asyncio.TaskGroup() as group:
        server = ControlServer(tmp_path / "socket", handlers, counters, group.create_task)
        await server.open()
        yield Served(tmp_path / "socket", counters, waiting, release)
        server.close()
    assert not (tmp_path / "socket").exists()


async def say(served: Served, line: bytes) -> dict[str, Any]:
    reader, writer = await asyncio.open_unix_connection(served.path)
    try:
        writer.write(line)
        answer = await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    assert answer.endswith(b"\n")
    assert answer.count(b"\n") == 1
    return dict(json.loads(answer))


async def test_one_line_is_answered_by_one_line(served: Served) -> None:
    assert await asyncio.to_thread(ask, served.path, "answer", RuleName, 10) == ANSWER
    assert await say(served, b'{"do": "answer"}\n') == {"id": "id", "title": "title\nof two lines", "reason": ""}
    assert served.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "line",
    [b"\n", b"{}\n", b"[]\n", b'{"do": "nothing"}\n', b'{"do": 1}\n', b'{"do": "answer", "more": 1}\n', b"\xff\n"],
)
async def test_what_is_no_request_is_told_so(served: Served, line: bytes) -> None:
    assert "not a request" in (await say(served, line))["error"]
    assert served.counters.get("control_refused_total") == 1
    assert await asyncio.to_thread(ask, served.path, "answer", RuleName, 10) == ANSWER


async def test_a_request_may_take_arguments(served: Served) -> None:
    given = RuleName("id", "x" * 50_000)
    assert await asyncio.to_thread(ask, served.path, "take", RuleName, 10, given) == given
    with pytest.raises(WatchdogdError, match="a title is needed"):
        await asyncio.to_thread(ask, served.path, "take", RuleName, 10, RuleName("id", ""))


@pytest.mark.parametrize("arguments", [b'{"id": "id"}', b"[]", b'{"id": 1, "title": "x"}'])
async def test_arguments_of_another_kind_are_refused(served: Served, arguments: bytes) -> None:
    answer = await say(served, b'{"do": "take", "arguments": ' + arguments + b"}\n")
    assert "the arguments of take" in answer["error"]
    assert served.counters.get("control_refused_total") == 1


async def test_a_line_without_an_end_is_refused(served: Served) -> None:
    assert "not a request" in (await say(served, b'{"do": "' + b"x" * 100_000))["error"]


async def test_a_client_that_says_nothing_is_sent_away(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "REQUEST_S", 0.01)
    assert "not a request" in (await say(served, b""))["error"]


async def test_a_handler_that_fails_ends_nothing(served: Served) -> None:
    with pytest.raises(WatchdogdError, match="failed to answer: ValueError"):
        await asyncio.to_thread(ask, served.path, "fail", RuleName, 10)
    assert await asyncio.to_thread(ask, served.path, "answer", RuleName, 10) == ANSWER


async def test_only_so_many_wait_at_once(served: Served) -> None:
    waiting = [asyncio.ensure_future(say(served, b'{"do": "wait"}\n')) for _ in range(control.CONNECTIONS)]
    for _ in waiting:
        await served.waiting.acquire()
    assert "at once" in (await say(served, b'{"do": "answer"}\n'))["error"]
    served.release.set()
    assert all("error" not in answer for answer in await asyncio.gather(*waiting))


async def test_a_client_that_leaves_early_is_nobodys_business(served: Served) -> None:
    for line in (b"", b'{"do": "answer"}\n', b'{"do": "wai'):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(served.path))
            client.sendall(line)
    assert await asyncio.to_thread(ask, served.path, "answer", RuleName, 10) == ANSWER


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
async def test_another_account_is_not_answered() -> None:
    code = (
        "import os, socket, sys; os.setgid(65534); os.setuid(65534); s = socket.socket(socket.AF_UNIX);"
        's.connect(sys.argv[1]); s.sendall(b\'{"do": "answer"}\\n\'); print(s.recv(9999).decode())'
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "socket"
        async with asyncio.TaskGroup() as group:
            server = ControlServer(path, {}, counters := Counters(), group.create_task)
            await server.open()
            path.parent.chmod(0o755)  # what keeps strangers away on a real host is taken away
            path.chmod(0o777)
            done = await asyncio.to_thread(
                subprocess.run, [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
            )
            server.close()
    assert json.loads(done.stdout or done.stderr) == {"error": "only root and the daemon's own account may ask"}
    assert counters.get("control_refused_total") == 1


async def test_what_is_not_a_socket_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("mine")
    async with asyncio.TaskGroup() as group:
        server = ControlServer(tmp_path / "file", {}, Counters(), group.create_task)
        await server.open()
        server.close()
    assert (tmp_path / "file").read_text() == "mine"
    assert "no control socket" in caplog.text


async def test_a_stop_does_not_wait_for_who_waits(tmp_path: Path) -> None:
    async def hang() -> RuleName:
        await asyncio.get_running_loop().create_future()
        return ANSWER

    async with asyncio.TaskGroup() as group:
        server = ControlServer(tmp_path / "socket", {"hang": hang}, Counters(), group.create_task)
        await server.open()
        asking = group.create_task(asyncio.to_thread(complain, tmp_path / "socket"))
        while not server._answering:  # noqa: ASYNC110 - a thread asks
            await asyncio.sleep(0.01)
        server.close()
        assert "ended before it answered" in await asking


def complain(path: Path) -> str:
    with pytest.raises(WatchdogdError) as caught:
        ask(path, "hang", RuleName, 30)
    return str(caught.value)


async def test_an_answer_of_another_version_is_told_so(served: Served) -> None:
    with pytest.raises(WatchdogdError, match="of this version"):
        await asyncio.to_thread(ask, served.path, "answer", StatusReport, 10)
