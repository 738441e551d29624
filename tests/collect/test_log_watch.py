"""Waiting for a log: told of a write at once, at most one look in `poll_s`, and polled where the kernel is silent."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

from watchdogd.collect.log_watch import LogWatch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LONG_S = 3600.0
NODE = (1, 1)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "audit.log"
    path.touch()
    return path


@pytest.fixture
def log_fd(log: Path) -> Iterator[int]:
    fd = os.open(log, os.O_RDONLY)
    yield fd
    os.close(fd)


def end_wait(watch: LogWatch, log_fd: int, *, quick: bool = False) -> threading.Thread:
    """A wait on a thread of its own that would last for an hour."""
    thread = threading.Thread(target=lambda: watch.wait(log_fd, NODE, quick=quick), daemon=True)
    thread.start()
    return thread


def test_a_write_ends_the_wait(log: Path, log_fd: int) -> None:
    watch = LogWatch(LONG_S, lambda: 2 * LONG_S)  # the last look is long past
    thread = end_wait(watch, log_fd)
    while thread.is_alive():
        with log.open("a") as file:
            file.write("line\n")
        thread.join(0.05)


def test_stopping_ends_every_wait(log_fd: int) -> None:
    watch = LogWatch(LONG_S)
    thread = end_wait(watch, log_fd)
    watch.wake()
    thread.join(10)
    assert not thread.is_alive()
    watch.wait(log_fd, NODE, quick=False)


def test_a_storm_is_looked_at_once_in_poll_s(log: Path, log_fd: int) -> None:
    watch = LogWatch(0.05)
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            with log.open("a") as file:
                file.write("line\n")

    writer = threading.Thread(target=write)
    writer.start()
    began_s = time.monotonic()
    for _ in range(5):
        watch.wait(log_fd, NODE, quick=False)
        watch.note_lines()
    took_s = time.monotonic() - began_s
    done.set()
    writer.join()
    assert took_s >= 4 * 0.05


def test_where_the_kernel_was_silent_it_is_polled_quickly_until_it_tells(log: Path, log_fd: int) -> None:
    watch = LogWatch(0.001)
    watch.wait(log_fd, NODE, quick=False)
    watch.note_lines()  # lines of which nobody told
    assert not watch._is_trusted
    with log.open("a") as file:
        file.write("line\n")
    watch.wait(log_fd, NODE, quick=False)
    watch.note_lines()
    assert watch._is_trusted
