"""Whether a reader that runs on its thread answers when it is asked, as often as that is, and ends when it is told."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from watchdogd.entities import Record
    from watchdogd.ports import LineSource

PATIENCE_S = 30


def assert_answers(source: LineSource, times: int = 3) -> None:
    """Probe a source that has nothing to read, one time after the other, and stop it."""
    answers = threading.Semaphore(0)

    def emit(records: list[Record]) -> None:
        if not records:
            answers.release()

    thread = threading.Thread(target=source.run, args=(emit,), daemon=True)
    thread.start()
    for _ in range(times):
        source.probe()
        assert answers.acquire(timeout=PATIENCE_S)
    assert not answers.acquire(timeout=0.05), "answered without being asked"
    source.stop()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
