"""A start waits for what may pass, gives up on what somebody must mend, and can be stopped while it waits."""

from __future__ import annotations

import asyncio
import errno
import sqlite3

import pytest

from watchdogd.errors import StoreError
from watchdogd.store import patience as module
from watchdogd.store.patience import may_pass, persist


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_S", 0.001)
    monkeypatch.setattr(module, "LAST_S", 0.002)


def refuse(code: int) -> StoreError:
    cause = sqlite3.OperationalError("no")
    cause.sqlite_errorcode = code
    error = StoreError("refused")
    error.__cause__ = cause
    return error


def refuse_file(number: int) -> StoreError:
    error = StoreError("refused")
    error.__cause__ = OSError(number, "no")
    return error


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (refuse(sqlite3.SQLITE_FULL), True),
        (refuse(sqlite3.SQLITE_BUSY), True),
        (refuse(sqlite3.SQLITE_IOERR_WRITE), True),
        (refuse(sqlite3.SQLITE_READONLY_DIRECTORY), True),
        (refuse(sqlite3.SQLITE_NOTADB), False),
        (refuse(sqlite3.SQLITE_ERROR), False),
        (refuse_file(errno.ENOSPC), True),
        (refuse_file(errno.EROFS), True),
        (refuse_file(errno.EACCES), False),
        (StoreError("the database has version 99"), False),
    ],
)
def test_what_may_pass(error: StoreError, *, passes: bool) -> None:
    assert may_pass(error) is passes


async def test_it_is_tried_until_it_works_and_each_refusal_is_told(caplog: pytest.LogCaptureFixture) -> None:
    answers: list[StoreError | int] = [refuse(sqlite3.SQLITE_FULL)] * 3 + [7]
    told: list[str] = []

    async def work() -> int:
        await asyncio.sleep(0)
        answer = answers.pop(0)
        if isinstance(answer, StoreError):
            raise answer
        return answer

    assert await persist(work, asyncio.Event(), told.append) == 7
    assert told == ["refused"] * 3
    assert len(caplog.records) == 1


async def test_what_cannot_pass_is_raised() -> None:
    async def work() -> None:
        await asyncio.sleep(0)
        raise refuse(sqlite3.SQLITE_NOTADB)

    with pytest.raises(StoreError):
        await persist(work, asyncio.Event(), lambda _: None)


async def test_a_stop_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_S", 3600)
    stop = asyncio.Event()

    async def work() -> int:
        await asyncio.sleep(0)
        raise refuse(sqlite3.SQLITE_FULL)

    assert await asyncio.wait_for(persist(work, stop, lambda _: stop.set()), 10) is None
