"""The scan of all files against the baseline: as one process, and as a child of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec
import pytest

from watchdogd.collect.package_changes import PackageChanges
from watchdogd.file_scan import LENGTH, Built, Message, Scan, ScanDone, Scanned, ScanRequest
from watchdogd.file_states import FileRow
from watchdogd.store.connection import connect
from watchdogd.store.file_baseline import iterate_files, mark_built, write_files

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = connect(tmp_path / "watchdogd.db")
    yield connection
    connection.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path.resolve() / "etc"
    (root / "cron.d").mkdir(parents=True)
    (root / "passwd").write_text("root")
    (root / "cron.d" / "job").write_text("job")
    return root


def request(tmp_path: Path, root: Path, **changes: object) -> ScanRequest:
    plain = ScanRequest(str(tmp_path / "watchdogd.db"), (str(root),), ("*.swp",), share=1.0)
    return msgspec.structs.replace(plain, **changes)


def scan(request: ScanRequest, database: sqlite3.Connection) -> tuple[dict[str, Scanned], ScanDone]:
    *found, done = Scan(request, database, PackageChanges()).run()
    assert request.max_files < 100 or sum(isinstance(one, Built) for one in found) == 1
    assert isinstance(done, ScanDone)
    return {os.path.basename(os.fsdecode(one.path)): one for one in found if isinstance(one, Scanned)}, done  # noqa: PTH119


def take(found: dict[str, Scanned], done: ScanDone, database: sqlite3.Connection) -> None:
    """As the daemon does, once all of it was judged."""
    rows = [FileRow(one.path, None if one.look is None else one.look.state, one.package) for one in found.values()]
    write_files(database, rows)
    mark_built(database, done.patterns, 1)


def test_the_first_scan_is_quiet_and_the_next_finds_nothing(
    tmp_path: Path, root: Path, database: sqlite3.Connection
) -> None:
    found, done = scan(request(tmp_path, root), database)
    assert sorted(found) == ["cron.d", "etc", "job", "passwd"]
    assert not any(one.news for one in found.values())
    assert (done.files, done.hashed_bytes, done.patterns) == (4, 7, (str(root),))
    take(found, done, database)
    found, done = scan(request(tmp_path, root), database)
    assert (found, done.files, done.hashed_bytes) == ({}, 4, 0)
    found, done = scan(request(tmp_path, root, deep=True), database)
    assert (found, done.hashed_bytes) == ({}, 7)


def test_what_changed_since(tmp_path: Path, root: Path, database: sqlite3.Connection) -> None:
    take(*scan(request(tmp_path, root), database), database)
    (root / "passwd").write_text("evil")
    (root / "new").write_text("x")
    (root / "cron.d" / "job").unlink()
    (root / "left.swp").write_text("x")
    found, done = scan(request(tmp_path, root), database)
    assert {name: (one.look is None, one.before is None) for name, one in found.items() if one.news} == {
        "passwd": (False, False),
        "new": (False, True),
        "job": (True, False),
    }
    assert sorted(name for name, one in found.items() if not one.news) == ["cron.d", "etc"]  # new times, no news
    take(found, done, database)
    assert scan(request(tmp_path, root), database)[0] == {}


def test_a_chmod_back_and_forth_is_no_news(tmp_path: Path, root: Path, database: sqlite3.Connection) -> None:
    take(*scan(request(tmp_path, root), database), database)
    mode = (root / "passwd").stat().st_mode
    (root / "passwd").chmod(0o777)
    (root / "passwd").chmod(mode & 0o777)
    found, _ = scan(request(tmp_path, root), database)
    assert {name: one.news for name, one in found.items()} == {"passwd": False}


def test_a_pattern_that_is_added_later_begins_quietly(tmp_path: Path, root: Path, database: sqlite3.Connection) -> None:
    narrow = request(tmp_path, root, paths=(f"{root}/passwd",))
    take(*scan(narrow, database), database)
    found, done = scan(request(tmp_path, root), database)
    assert {name: one.news for name, one in found.items()} == {"cron.d": False, "etc": False, "job": False}
    take(found, done, database)
    found, _ = scan(narrow, database)  # and is taken away again
    assert not any(one.news or one.look for one in found.values())
    assert sorted(found) == ["cron.d", "etc", "job"]


def test_rights_that_are_gained_and_lost_anywhere(tmp_path: Path, root: Path, database: sqlite3.Connection) -> None:
    other = tmp_path.resolve() / "opt"
    other.mkdir()
    wide = request(tmp_path, root, special_folders=(str(other),))
    take(*scan(wide, database), database)
    (other / "tool").write_text("x")
    (other / "tool").chmod(0o4755)
    found, done = scan(wide, database)
    assert [name for name, one in found.items() if one.news] == ["tool"]
    take(found, done, database)
    (other / "tool").chmod(0o755)
    found, done = scan(wide, database)
    assert {name: (one.news, one.look is None) for name, one in found.items()} == {"tool": (True, False)}
    take(found, done, database)
    found, done = scan(wide, database)
    assert {name: (one.news, one.look is None) for name, one in found.items()} == {"tool": (False, True)}
    take(found, done, database)
    assert scan(wide, database)[0] == {}


def test_more_files_than_may_be_watched_are_counted_and_none_is_called_gone(
    tmp_path: Path, root: Path, database: sqlite3.Connection
) -> None:
    take(*scan(request(tmp_path, root), database), database)
    found, done = scan(request(tmp_path, root, max_files=2), database)
    assert (found, done.files, done.left_out) == ({}, 2, 2)


def test_a_file_too_large_is_compared_by_size_and_time(
    tmp_path: Path, root: Path, database: sqlite3.Connection
) -> None:
    take(*scan(request(tmp_path, root), database), database)
    small = request(tmp_path, root, max_bytes=3, deep=True)
    found, done = scan(small, database)
    assert (found, done.too_large) == ({}, 1)
    (root / "passwd").write_text("evil")
    found, _ = scan(small, database)
    assert found["passwd"].news


def test_a_process_of_its_own(tmp_path: Path, root: Path, database: sqlite3.Connection) -> None:
    """Names with a newline, no UTF-8 and 4 KB; and the database is only read."""
    (root / "\udcff\n").write_text("x")
    deep = root
    while len(os.fsencode(deep)) < 3_800:
        deep /= "d" * 200
    subprocess.run(["mkdir", "-p", str(deep)], check=True)
    done = subprocess.run(
        [sys.executable, "-m", "watchdogd.file_scan"],
        input=msgspec.msgpack.encode(request(tmp_path, root)),
        capture_output=True,
        check=True,
    )
    assert done.stderr == b""
    messages, data = [], done.stdout
    while data:
        (length,) = LENGTH.unpack_from(data)
        messages.append(msgspec.msgpack.decode(data[4 : 4 + length], type=Message))
        data = data[4 + length :]
    *found, last = messages
    assert isinstance(last, ScanDone)
    paths = [one.path for one in found if isinstance(one, Scanned)]
    assert last.files == len(paths)
    assert os.fsencode(deep) in paths
    assert os.fsencode(root / "\udcff\n") in paths
    assert list(iterate_files(database)) == []
