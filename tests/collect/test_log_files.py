"""A look at files whose names move."""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING

from watchdogd.collect.log_files import cut_head, hash_head, survey
from watchdogd.errors import SourceError

if TYPE_CHECKING:
    from pathlib import Path

FILES = 8


def test_a_survey_in_the_middle_of_rotations_misses_no_file(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    names = [tmp_path / f"audit.log.{number}" for number in range(1, FILES + 2)]
    for name in [log, *names[:FILES]]:
        name.write_text(f"{name}\n")
    ended = threading.Event()
    chance = random.Random(5)
    surveys = 0

    def go_round() -> None:
        while not ended.is_set():
            for number in range(FILES, 0, -1):
                names[number - 1].rename(names[number])
            names[FILES].rename(names[0])
            time.sleep(chance.choice((0.0, 0.003, 0.02, 0.05)))

    thread = threading.Thread(target=go_round)
    thread.start()
    try:
        for _ in range(150):
            try:
                files = survey(log, lambda _: None)
            except SourceError:
                continue  # it says that it could not, which is no miss
            surveys += 1
            found = {file.node for file in files}
            for file in files:
                file.close()
            assert len(found) == len(files) == FILES + 1
    finally:
        ended.set()
        thread.join()
    assert surveys


def test_a_head_is_the_first_line_that_is_not_empty() -> None:
    assert cut_head(b"", complete=True) is None
    assert cut_head(b"one", complete=False) is None
    assert cut_head(b"one", complete=True) == b"one"
    assert cut_head(b"one\ntwo\n", complete=False) == b"one\n"
    assert cut_head(b"\n\r\none\ntwo\n", complete=False) == b"\n\r\none\n"
    assert cut_head(b"\n\n", complete=False) is None
    assert cut_head(b"x" * 5000, complete=False) == b"x" * 4096


def test_a_hash_does_not_change_when_the_newline_comes() -> None:
    assert hash_head(b"one") == hash_head(b"one\n") == hash_head(b"\none\r\n")
    assert hash_head(b"one") != hash_head(b"on")
