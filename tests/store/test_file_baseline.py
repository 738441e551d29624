"""The baseline of files in a real database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from watchdogd.file_states import FileRow, FileState
from watchdogd.store import file_baseline
from watchdogd.store.connection import connect
from watchdogd.store.damage import salvage
from watchdogd.store.file_baseline import PAGE_ROWS, load_files, write_files

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from pathlib import Path

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
STATES = st.builds(
    FileState,
    kind=st.sampled_from(["file", "link", "folder"]),
    mode=st.integers(0, 0o7777),
    uid=st.integers(0, (1 << 32) - 1),
    gid=st.integers(0, (1 << 32) - 1),
    size=st.integers(0, (1 << 63) - 1),
    mtime_ns=INT64,
    ctime_ns=INT64,
    device=st.integers(0, (1 << 63) - 1),
    inode=st.integers(0, (1 << 64) - 1),
    sha256=st.none() | st.binary(min_size=32, max_size=32),
    link_target=st.none() | st.binary(max_size=20),
    capabilities=st.none() | st.binary(max_size=24),
    xattrs=st.dictionaries(st.text(alphabet="abc.\\", max_size=5), st.binary(min_size=16, max_size=16), max_size=2),
)
PATHS = st.binary(max_size=60).map(lambda name: b"/" + name.replace(b"\0", b""))
STATE = FileState("file", 0o644, 0, 0, 1, 2, 3, 4, 5, b"h" * 32)


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    opened = connect(tmp_path_factory.mktemp("baseline") / "watchdogd.db")
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def _empty(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM files")
    connection.execute("DELETE FROM file_patterns")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(path=PATHS, state=STATES, package=st.none() | st.just("tool"))
def test_what_is_written_is_read(
    connection: sqlite3.Connection, path: bytes, state: FileState, package: str | None
) -> None:
    row = FileRow(path, state, package)
    write_files(connection, [row])
    assert load_files(connection, [path, b"/other\xff"])[path] == row
    write_files(connection, [FileRow(path, None)])
    assert load_files(connection, [path]) == {}


def test_a_path_of_the_longest_length(connection: sqlite3.Connection) -> None:
    path = b"/" + b"/".join([b"\xff" * 250] * 16)
    write_files(connection, [FileRow(path, STATE)])
    assert [row.path for row in file_baseline.iterate_files(connection)] == [path]


def test_all_of_it_page_by_page(connection: sqlite3.Connection) -> None:
    paths = [b"/%05d" % number for number in range(2 * PAGE_ROWS + 3)]
    write_files(connection, [FileRow(path, STATE) for path in reversed(paths)])
    assert [row.path for row in file_baseline.iterate_files(connection)] == paths
    assert sorted(load_files(connection, paths)) == paths
    assert file_baseline.count_files(connection) == len(paths)


def test_what_is_known_below_a_folder(connection: sqlite3.Connection) -> None:
    names = (b"/a", b"/a/b", b"/a/b/c", b"/a-b", b"/a0", b"/b")
    write_files(connection, [FileRow(path, STATE) for path in names])
    assert file_baseline.list_below(connection, b"/a", 10) == [b"/a/b", b"/a/b/c"]
    assert file_baseline.list_below(connection, b"/a", 1) == [b"/a/b"]


def test_patterns_that_are_built(connection: sqlite3.Connection) -> None:
    file_baseline.mark_built(connection, ["/etc", "/boot"], 1)
    file_baseline.mark_built(connection, ["/etc", "/usr"], 2)
    assert file_baseline.load_built(connection) == {"/etc": 1, "/usr": 2}


def test_another_process_reads_what_is_committed(tmp_path: Path) -> None:
    path = tmp_path / "state ?#" / "watchdogd.db"
    path.parent.mkdir()
    writer = connect(path)
    reader = file_baseline.open_read_only(path)
    write_files(writer, [FileRow(b"/a", STATE)])
    assert file_baseline.count_files(reader) == 1
    reader.close()
    writer.close()


def test_the_baseline_survives_a_damaged_database(tmp_path: Path) -> None:
    old, new = connect(tmp_path / "old.db"), connect(tmp_path / "new.db")
    write_files(old, [FileRow(b"/a\xff", STATE, "tool")])
    file_baseline.mark_built(old, ["/"], 1)
    old.close()
    assert salvage(tmp_path / "old.db", new) == {"files": 1, "file_patterns": 1}
    assert load_files(new, [b"/a\xff"]) == {b"/a\xff": FileRow(b"/a\xff", STATE, "tool")}
    new.close()
