"""Following the journal: faults of journalctl's, with a program that stands in for it. The real one: tests/host."""

from __future__ import annotations

import json
import shlex
import threading
from typing import TYPE_CHECKING

import pytest

from tests.collect.probing import assert_answers
from watchdogd.collect.journal import (
    BEFORE,
    BEHIND,
    SOURCE,
    JournalFollow,
    choose_matches,
    find_newest,
    read_machine_id,
)
from watchdogd.entities import Checkpoint, Position
from watchdogd.errors import SourceError
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from watchdogd.entities import Record

    WriteProgram = Callable[[str], str]

FIRST, SECOND = "s=1;i=1", "s=1;i=2"


@pytest.fixture
def write_program(tmp_path: Path) -> WriteProgram:
    def write(script: str) -> str:
        path = tmp_path / "journalctl"
        path.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\n{script}\n')
        path.chmod(0o755)
        return str(path)

    return write


def say(cursor: str, message: str = "text") -> str:
    return f"printf '%s\\n' {shlex.quote(json.dumps({'__CURSOR': cursor, 'MESSAGE': message}))}"


def follow(
    program: str, counters: Counters | None = None, checkpoint: Checkpoint | None = None, longest: int = 1 << 20
) -> JournalFollow:
    return JournalFollow(
        checkpoint=checkpoint,
        units=(),
        counters=counters or Counters(),
        program=program,
        max_line_bytes=longest,
    )


def read(source: JournalFollow) -> list[Record]:
    """All that it emits until the program ends."""
    found: list[Record] = []
    with pytest.raises(SourceError):
        source.run(lambda records: found.extend(records))  # noqa: PLW0108 (Emit names its argument)
    return found


def test_entries_come_with_their_cursor_as_place(write_program: WriteProgram, tmp_path: Path) -> None:
    found = read(follow(write_program(f"{say(FIRST)}; {say(SECOND)}")))
    assert [record.position for record in found] == [
        Position(SOURCE, FIRST, BEFORE, BEHIND),
        Position(SOURCE, SECOND, BEFORE, BEHIND),
    ]
    assert json.loads(found[0].data)["MESSAGE"] == "text"
    assert "--cursor" not in (tmp_path / "arguments").read_text()


@pytest.mark.parametrize(("offset", "cursors"), [(BEFORE, [FIRST, SECOND]), (BEHIND, [SECOND])])
def test_a_checkpoint_is_before_its_entry_or_behind_it(
    write_program: WriteProgram, tmp_path: Path, offset: int, cursors: list[str]
) -> None:
    program = write_program(f"{say(FIRST)}; {say(SECOND)}")
    found = read(follow(program, checkpoint=Checkpoint(SOURCE, SOURCE, FIRST, offset)))
    assert [record.position.file_id for record in found if record.position] == cursors
    assert f"--cursor={FIRST}" in (tmp_path / "arguments").read_text()


def test_nothing_is_left_out_where_the_judged_entry_is_gone(write_program: WriteProgram) -> None:
    """Journalctl begins with the next that there is."""
    found = read(follow(write_program(say(SECOND)), checkpoint=Checkpoint(SOURCE, SOURCE, FIRST, BEHIND)))
    assert len(found) == 1


def test_what_journalctl_complains_of_is_told(write_program: WriteProgram) -> None:
    source = follow(write_program("echo 'first line' >&2; echo 'No journal files were opened' >&2; exit 1"))
    with pytest.raises(SourceError, match=r"journalctl ended \(No journal files were opened\)"):
        source.run(lambda _: None)


def test_a_host_without_journalctl_is_told() -> None:
    with pytest.raises(SourceError, match="there is no no-such-journalctl"):
        follow("no-such-journalctl").run(lambda _: None)
    with pytest.raises(SourceError, match="there is no no-such-journalctl"):
        find_newest("no-such-journalctl")


def test_an_entry_that_is_too_long_is_left_out_and_counted(write_program: WriteProgram) -> None:
    counters = Counters()
    program = write_program(f"{say(FIRST)}; head -c 300000 /dev/zero | tr '\\0' x; echo; {say(SECOND)}")
    found = read(follow(program, counters, longest=100_000))
    assert len(found) == 2
    assert counters.get("collect_overlong_lines_total") == 1


def test_lines_that_are_no_entries_are_counted(write_program: WriteProgram) -> None:
    counters = Counters()
    program = write_program(f"echo 'no json'; echo '[]'; echo '{{}}'; echo '{{\"__CURSOR\": 7}}'; {say(FIRST)}")
    assert len(read(follow(program, counters))) == 1
    assert counters.get("collect_journal_garbled_total") == 4


def test_a_line_that_was_not_ended_is_no_entry(write_program: WriteProgram) -> None:
    assert read(follow(write_program(f'{say(FIRST)}; printf \'{{"__CURSOR": "s=1\''))) != []


def test_a_probe_is_answered_while_nothing_comes(write_program: WriteProgram) -> None:
    assert_answers(follow(write_program("exec sleep 600")))


def test_stop_ends_a_program_that_says_nothing(write_program: WriteProgram) -> None:
    source = follow(write_program("exec sleep 600"))
    thread = threading.Thread(target=source.run, args=(lambda _: None,), daemon=True)
    thread.start()
    source.stop()
    thread.join(10)
    assert not thread.is_alive()


def test_the_newest_entry_is_where_a_new_host_begins(write_program: WriteProgram) -> None:
    assert find_newest(write_program(say(FIRST))) == Checkpoint(SOURCE, SOURCE, FIRST, BEHIND)
    assert find_newest(write_program("true")) is None
    with pytest.raises(SourceError, match="permission"):
        find_newest(write_program("echo 'no permission' >&2; exit 1"))
    with pytest.raises(SourceError, match="no entry"):
        find_newest(write_program("echo text"))


def test_other_machines_entries_are_not_matched() -> None:
    for term in " ".join(choose_matches((), "f" * 32)).split(" + "):
        assert term.endswith(f" _MACHINE_ID={'f' * 32}")
    assert choose_matches((), "f" * 32, everything=True) == (f"_MACHINE_ID={'f' * 32}",)


@pytest.mark.parametrize(("text", "found"), [("0" * 32 + "\n", "0" * 32), ("uninitialized\n", ""), ("", ""), ("é", "")])
def test_a_machine_that_has_no_id_is_not_matched_by_it(tmp_path: Path, text: str, found: str) -> None:
    (tmp_path / "machine-id").write_text(text)
    assert read_machine_id(tmp_path / "machine-id") == found
    assert read_machine_id(tmp_path / "none") == ""


def test_units_are_matched_beside_the_rest() -> None:
    matches = choose_matches(["nginx.service"])
    assert "_SYSTEMD_UNIT=nginx.service" in matches
    assert matches[0] != "+"
    assert matches[1::2] == ("+",) * (len(matches) // 2)
