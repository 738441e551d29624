"""A look at a file: what it finds, and that nothing holds it up or leads it astray."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watchdogd.collect.file_look import TOO_LARGE, UNREADABLE, Looker, Throttle

if TYPE_CHECKING:
    from pathlib import Path

LOOKER = Looker(max_bytes=1 << 20, md5=True)


def look(path: Path, looker: Looker = LOOKER) -> object:
    found = looker.look_path(os.fsencode(path))
    assert found is not None
    return found.state


def test_a_file_is_hashed_and_described(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"hello")
    path.chmod(0o4750)
    found = LOOKER.look_path(os.fsencode(path))
    assert found is not None
    state = found.state
    assert (state.kind, state.mode, state.uid, state.size) == ("file", 0o4750, os.getuid(), 5)
    assert state.sha256 == hashlib.sha256(b"hello").digest()
    assert found.md5 == hashlib.md5(b"hello").digest()
    assert state.is_special
    assert (state.mtime_ns, state.ctime_ns, state.inode) == (
        path.stat().st_mtime_ns,
        path.stat().st_ctime_ns,
        path.stat().st_ino,
    )


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    """A FIFO without a writer would block whoever opens it."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("nowhere")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "socket"))
    kinds = {name: look(tmp_path / name).kind for name in ("fifo", "link", "socket")}  # type: ignore[attr-defined]
    assert kinds == {"fifo": "fifo", "link": "link", "socket": "socket"}
    assert LOOKER.look_path(b"/dev/null").state.kind == "device"  # type: ignore[union-attr]
    assert look(tmp_path).kind == "folder"  # type: ignore[attr-defined]
    assert look(tmp_path / "link").link_target == b"nowhere"  # type: ignore[attr-defined]


def test_no_link_on_the_way_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_bytes(b"secret")
    (tmp_path / "way").symlink_to("real")
    assert LOOKER.look_path(os.fsencode(tmp_path / "way" / "file")) is None
    assert LOOKER.look_path(os.fsencode(tmp_path / "real" / "file" / "below")) is None
    assert LOOKER.look_path(os.fsencode(tmp_path / "missing")) is None


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    found = LOOKER.look_path(os.fsencode(path))
    assert found is not None
    assert (found.trouble, found.state.sha256, found.state.size) == (TOO_LARGE, None, 1 << 40)


def test_what_may_not_be_read_is_told(tmp_path: Path) -> None:
    path = tmp_path / "closed"
    path.write_bytes(b"x")
    path.chmod(0)
    code = (
        "import os, sys\n"
        "from watchdogd.collect.file_look import Looker\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "found = Looker(max_bytes=1 << 20).look_path(os.fsencode(sys.argv[1]))\n"
        "print(found.trouble, found.state.mode)\n"
    )
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and folder != folder.parent and not folder.stat().st_mode & 0o1:
            folder.chmod(0o755)
    if os.getuid() != 0:
        assert LOOKER.look_path(os.fsencode(path)).trouble == UNREADABLE  # type: ignore[union-attr]
        return
    import sys  # noqa: PLC0415

    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert done.stdout == f"{UNREADABLE} 0\n", done.stderr


def test_what_the_file_system_says_is_the_same_is_not_read_again(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    looker = Looker(max_bytes=1 << 20)
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        first = looker.look(folder, b"file").state
        assert looker.look(folder, b"file", first).state == first
        assert looker.hashed_bytes == 100
        path.write_bytes(b"y" * 100)
        os.utime(path, ns=(first.mtime_ns, first.mtime_ns))  # forged; the ctime tells
        assert looker.look(folder, b"file", first).state.sha256 == hashlib.sha256(b"y" * 100).digest()
    finally:
        os.close(folder)


def test_extended_attributes_and_capabilities(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    try:
        os.setxattr(path, "user.note", b"value")
    except OSError:
        pytest.skip("this file system has no extended attributes")
    assert look(path).xattrs == {"user.note": hashlib.sha256(b"value").digest()[:16]}  # type: ignore[attr-defined]


NAMES = st.binary(min_size=1, max_size=255).filter(
    lambda name: not set(name) & {0, ord("/")} and name not in {b".", b".."}
)


@settings(max_examples=40, deadline=None)
@given(name=NAMES)
def test_any_name_is_looked_at(name: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = os.fsencode(tmp_path_factory.mktemp("names"))
    path = os.path.join(folder, name)  # noqa: PTH118
    with open(path, "wb") as file:  # noqa: PTH123
        file.write(name)
    found = LOOKER.look_path(path)
    assert found is not None
    assert found.state.sha256 == hashlib.sha256(name).digest()


def test_a_throttle_sleeps_for_what_is_over_its_share() -> None:
    now = {"cpu": 0.0, "wall": 0.0}
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now["wall"] += seconds

    throttle = Throttle(0.25, cpu_s=lambda: now["cpu"], wall_s=lambda: now["wall"], sleep=sleep)
    for _ in range(100):
        now["cpu"] += 0.01
        now["wall"] += 0.01
        throttle.rest()
    assert now["wall"] == pytest.approx(4.0, rel=0.01)
    assert slept
    Throttle(1.0, sleep=lambda _: pytest.fail("slept")).rest()
