"""`watchdogd outbox` as a person reads it; the outbox itself is tested in tests/store."""

from __future__ import annotations

import json
import socket
import threading
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from watchdogd.cli.main import main
from watchdogd.reports import DeliveryRow, OutboxChange, OutboxReport, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ROW = DeliveryRow(
    id=7,
    alert_id="a" * 64,
    sink="ops",
    kind="alert",
    state="pending",
    attempts=2,
    created_ms=1_795_000_000_000,
    next_try_ms=1_795_000_300_000,
    ended_ms=None,
    error="webhook ops: answered \x1b[31m503",
    level="high",
    title="Shadow\nread",
)


class FakeDaemon:
    """Answers on a socket what it is told to, one answer a request."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: list[msgspec.Struct] = []
        self.requests: list[dict[str, Any]] = []
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(str(path))
        self._server.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            client, _ = self._server.accept()
            with client:
                line = client.recv(1 << 16)
                if not line:
                    return
                self.requests.append(json.loads(line))
                client.sendall(msgspec.json.encode(self.answers.pop(0)) + b"\n")

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(str(self.path))
        self._thread.join()
        self._server.close()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    fake = FakeDaemon(tmp_path / "control.sock")
    yield fake
    fake.close()


@pytest.fixture
def run(daemon: FakeDaemon) -> Callable[..., int]:
    def run(*arguments: str, answers: tuple[msgspec.Struct, ...]) -> int:
        daemon.answers = list(answers)
        return main(["outbox", *arguments, "--socket", str(daemon.path)])

    return run


def test_every_page_is_shown_escaped(
    run: Callable[..., int], daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    dead = msgspec.structs.replace(ROW, id=9, state="dead", ended_ms=1_795_000_300_000, attempts=1, error="")
    counts = {"ops": {"pending": 1, "dead": 1}}
    pages = (OutboxReport((ROW,), counts, next_after=7), OutboxReport((dead,), counts))
    assert run("list", "--sink", "ops", answers=pages) == 0
    assert [request["arguments"]["after"] for request in daemon.requests] == [0, 7]
    first, second, last = capsys.readouterr().out.splitlines()
    assert first == (
        "7  pending  ops  alert aaaaaaaaaaaaaaaa  high  Shadow\\nread  (since 2026-11-18T11:06:40.000Z, 2 attempts, "
        "next 2026-11-18T11:11:40.000Z: webhook ops: answered \\x1b[31m503)"
    )
    assert second.startswith("9  dead  ops")
    assert second.endswith("1 attempt, 2026-11-18T11:11:40.000Z)")
    assert last == "ops: 1 pending, 1 dead"


def test_an_empty_outbox_says_so(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", "--state", "dead", answers=(OutboxReport((), {}),)) == 0
    assert capsys.readouterr().out == "nothing\n"


def test_as_json_it_is_one_object(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", "--format", "json", answers=(OutboxReport((ROW,), {"ops": {"pending": 1}}),)) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["deliveries"][0]["title"] == "Shadow\nread"
    assert document["counts"] == {"ops": {"pending": 1}}


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (("7", "9"), {"ids": [7, 9], "sink": None}),
        (("--sink", "ops"), {"ids": [], "sink": "ops"}),
        (("--all-dead",), {"ids": [], "sink": None}),
    ],
)
def test_retry_asks_for_just_that(
    run: Callable[..., int],
    daemon: FakeDaemon,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    asked: dict[str, object],
) -> None:
    assert run("retry", *arguments, answers=(OutboxChange(2),)) == 0
    assert daemon.requests == [{"do": "outbox_retry", "arguments": asked}]
    assert capsys.readouterr().out == "2 deliveries sent again now\n"


def test_drop_needs_a_reason(run: Callable[..., int], daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("drop", "7", "--reason", " a drill ", answers=(OutboxChange(1),)) == 0
    assert daemon.requests == [{"do": "outbox_drop", "arguments": {"ids": [7], "reason": "a drill"}}]
    assert capsys.readouterr().out == "1 delivery dropped\n"
    assert run("drop", "7", "--reason", " ", answers=()) == 2
    with pytest.raises(SystemExit):
        run("drop", "7", answers=())


def test_nothing_changed_is_an_error(run: Callable[..., int]) -> None:
    assert run("retry", "7", answers=(OutboxChange(0),)) == 2


def test_a_refusal_is_told(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("retry", "--sink", "x", answers=(Refusal("no sink 'x' is configured: ops"),)) == 2
    assert "no sink 'x' is configured: ops" in capsys.readouterr().err
