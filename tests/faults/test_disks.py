"""The real daemon on real file systems that are full, read-only or broken."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.daemon import Daemon, wait_until
from tests.faults.scene import append, ask_status, read_ids, read_stored
from tests.host import guard

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.host.receiver import Receiver

pytestmark = pytest.mark.slow

WAITING = "STATUS=the database cannot be used yet: waiting"


def run(*command: str | Path) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def fill(folder: Path) -> Path:
    """Take all room of a file system; what to remove for it to be free again."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return ballast


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 8 MB where the daemon keeps its database."""
    state = tmp_path / "state"
    state.mkdir()
    if os.geteuid() != 0 or not run("mount", "-t", "tmpfs", "-o", "size=8m", "x", state):
        pytest.skip("needs the right to mount a small file system")
    yield state
    assert run("umount", state)


@pytest.fixture
def image(tmp_path: Path) -> Iterator[Path]:
    """The same on an ext4 of its own, which turns read-only with the first error."""
    refusal = guard.find_refusal(guard.look_at_machine(), os.environ)
    if refusal:
        guard.skip_or_fail(refusal)
    state = tmp_path / "state"
    state.mkdir()
    disk = tmp_path / "disk.img"
    with disk.open("wb") as file:
        file.truncate(16 << 20)
    made = os.geteuid() == 0 and run("mkfs.ext4", "-q", "-F", disk)
    if not made or not run("mount", "-o", "loop,errors=remount-ro", disk, state):
        pytest.skip("needs the right to mount an image")
    yield state
    assert run("umount", state)


def test_full_at_a_start(small: Path, daemon: Daemon, receiver: Receiver) -> None:
    daemon.start()
    expected = append(daemon, range(1, 6))
    wait_until(lambda: read_ids(receiver) == expected, daemon)
    assert daemon.stop() == 0
    ballast = fill(small)
    daemon.start(ready=False)
    expected |= append(daemon, range(6, 26))
    daemon.wait_note(WAITING)
    assert "disk full" in daemon.said
    ballast.unlink()
    daemon.wait_note("READY=1")
    wait_until(lambda: read_ids(receiver) == expected, daemon)
    assert daemon.stop() == 0
    assert read_stored(daemon) == expected


def test_read_only_at_a_start(small: Path, daemon: Daemon, receiver: Receiver) -> None:
    daemon.start()
    expected = append(daemon, range(1, 6))
    wait_until(lambda: read_ids(receiver) == expected, daemon)
    assert daemon.stop() == 0
    assert run("mount", "-o", "remount,ro", small)
    daemon.start(ready=False)
    expected |= append(daemon, range(6, 26))
    daemon.wait_note(WAITING)
    assert run("mount", "-o", "remount,rw", small)
    daemon.wait_note("READY=1")
    wait_until(lambda: read_ids(receiver) == expected, daemon)
    assert daemon.stop() == 0
    assert read_stored(daemon) == expected


@pytest.mark.host
def test_full_while_it_runs(image: Path, daemon: Daemon, receiver: Receiver) -> None:
    daemon.start()
    before = append(daemon, range(1, 6))
    wait_until(lambda: read_ids(receiver) == before, daemon)
    ballast = fill(image)
    meanwhile = append(daemon, range(6, 206))
    wait_until(lambda: read_ids(receiver) == before | meanwhile, daemon, 60)
    status = ask_status(daemon)
    assert status["gauges"]["store_refusing"] == 1
    assert status["counters"]["write_emergency_total"] > 0
    assert "disk full" in daemon.said
    ballast.unlink()
    wait_until(lambda: read_stored(daemon) == before | meanwhile, daemon)
    wait_until(lambda: ask_status(daemon)["gauges"]["store_refusing"] == 0, daemon)
    assert daemon.stop() == 0
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 205


@pytest.mark.host
def test_a_file_system_that_fails_while_it_runs(image: Path, daemon: Daemon, receiver: Receiver) -> None:
    """ext4 turns read-only and gives nothing back before it was repaired: alerts leave, and a start mends the rest."""
    daemon.start()
    before = append(daemon, range(1, 6))
    wait_until(lambda: read_ids(receiver) == before, daemon)
    device = subprocess.run(["findmnt", "-no", "SOURCE", image], capture_output=True, text=True, check=True).stdout
    trigger = Path("/sys/fs/ext4") / Path(device.strip()).name / "trigger_fs_error"
    trigger.write_text("the test says so")
    meanwhile = append(daemon, range(6, 26))
    wait_until(lambda: read_ids(receiver) == before | meanwhile, daemon, 60)
    assert ask_status(daemon)["gauges"]["store_refusing"] == 1
    assert daemon.stop() == 0
    disk = daemon.folder / "disk.img"
    assert run("umount", image)
    run("e2fsck", "-fy", disk)
    assert run("mount", "-o", "loop", disk, image)
    daemon.start()
    expected = before | meanwhile | append(daemon, range(26, 31))
    wait_until(lambda: read_stored(daemon) == expected and read_ids(receiver) == expected, daemon)
    assert daemon.stop() == 0
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 30
