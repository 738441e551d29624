"""The kernel's word about watched folders: real inotify."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from watchdogd.collect.file_watch import OVERFLOWS, UNWATCHED, FolderWatch
from watchdogd.telemetry import Counters

LIMIT = Path("/proc/sys/fs/inotify")


@pytest.fixture
def counters() -> Counters:
    return Counters()


def read_all(watch: FolderWatch) -> set[bytes]:
    found: set[bytes] = set()
    deadline_s = time.monotonic() + 5
    while not found and time.monotonic() < deadline_s:
        found |= watch.read()[0]
    return found | watch.read()[0]


def test_what_happens_in_a_folder_is_told(tmp_path: Path, counters: Counters) -> None:
    watch = FolderWatch(counters)
    watch.add(os.fsencode(tmp_path))
    assert watch.read() == (set(), False)
    (tmp_path / "new\n\udcff").write_text("x")
    assert read_all(watch) == {os.fsencode(tmp_path / "new\n\udcff")}
    (tmp_path / "new\n\udcff").chmod(0o600)
    assert read_all(watch) == {os.fsencode(tmp_path / "new\n\udcff")}
    os.rename(tmp_path / "new\n\udcff", tmp_path / "other")  # noqa: PTH104
    assert read_all(watch) == {os.fsencode(tmp_path / "new\n\udcff"), os.fsencode(tmp_path / "other")}
    watch.close()
    watch.close()


def test_a_folder_that_goes_and_comes_again(tmp_path: Path, counters: Counters) -> None:
    watch = FolderWatch(counters)
    folder = tmp_path / "folder"
    folder.mkdir()
    watch.add(os.fsencode(folder))
    folder.rmdir()
    assert read_all(watch) == {os.fsencode(folder)}
    assert len(watch) == 0
    assert not watch.add(os.fsencode(folder))
    folder.mkdir()
    assert watch.add(os.fsencode(folder))
    (folder / "x").touch()
    assert read_all(watch) == {os.fsencode(folder / "x")}
    assert counters.get(UNWATCHED) == 0
    watch.keep(set())
    (folder / "y").touch()
    assert not any(b"y" in path for path in watch.read()[0])
    watch.close()


def test_a_folder_in_the_place_of_one_that_was_moved_away(tmp_path: Path, counters: Counters) -> None:
    watch = FolderWatch(counters)
    folder = tmp_path / "folder"
    folder.mkdir()
    assert watch.add(os.fsencode(folder))
    assert not watch.add(os.fsencode(folder))
    folder.rename(tmp_path / "away")
    folder.mkdir()
    assert watch.add(os.fsencode(folder))
    read_all(watch)
    (folder / "x").touch()
    assert read_all(watch) == {os.fsencode(folder / "x")}
    watch.close()


def test_an_overflow_is_seen_and_counted(tmp_path: Path, counters: Counters) -> None:
    watch = FolderWatch(counters)
    watch.add(os.fsencode(tmp_path))
    limit = int((LIMIT / "max_queued_events").read_text())
    if limit > 40_000:
        pytest.skip(f"the queue holds {limit} events here")
    for number in range(limit // 2 + 10):  # two events each: created, and opened for writing
        (tmp_path / f"{number % 7}{number}").touch()
    lost = False
    for _ in range(200):
        paths, overflowed = watch.read()
        lost = lost or overflowed
        if not paths and not overflowed:
            break
    assert lost
    assert counters.get(OVERFLOWS) == 1
    watch.close()


@pytest.mark.parametrize("reason", ["file", "link"])
def test_what_is_no_folder_is_not_watched(tmp_path: Path, counters: Counters, reason: str) -> None:
    path = tmp_path / reason
    if reason == "file":
        path.touch()
    else:
        path.symlink_to(tmp_path)
    watch = FolderWatch(counters)
    assert not watch.add(os.fsencode(path))
    watch.close()


FULL = """
import sys
from watchdogd.collect.file_watch import UNWATCHED, FolderWatch
from watchdogd.telemetry import Counters
counters = Counters()
watch = FolderWatch(counters)
for path in sys.argv[1:] * 2:
    watch.add(path.encode())
print(len(watch), watch.refused, counters.get(UNWATCHED))
"""


def test_the_kernels_limit_of_watches_is_counted_and_said(tmp_path: Path) -> None:
    """In a user namespace of its own, whose limit is lowered."""
    folders = [tmp_path / name for name in "abcde"]
    for folder in folders:
        folder.mkdir()
    command = 'echo 2 >/proc/sys/user/max_inotify_watches && exec "$0" -c "$@"'
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", command, sys.executable, FULL, *map(str, folders)],
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare" in done.stderr or "Permission denied" in done.stderr:
        pytest.skip(f"no user namespaces here: {done.stderr}")
    assert done.stdout == "2 3 3\n", done.stderr
    assert done.stderr.count("raise fs.inotify.max_user_watches") == 1
