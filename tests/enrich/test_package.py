"""Which files belong to a package: each database's form, links of merged-usr, what is unknown, and what changes."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from tests import pacman
from watchdogd.enrich.package import PackageFiles
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from pathlib import Path


class FakeClock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def now_ms(self) -> int:
        return int(self.now_s * 1000)

    def monotonic_s(self) -> float:
        return self.now_s

    async def sleep(self, delay_s: float) -> None:
        self.now_s += delay_s


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host of Debian's kind, /bin and /lib merged into /usr."""
    for name in ("usr/bin", "usr/lib"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "bin").symlink_to("usr/bin")
    (tmp_path / "lib").symlink_to("usr/lib")
    (tmp_path / "sbin").mkdir()
    write(tmp_path, "var/lib/dpkg/info/login.list", "/.\n/bin\n/bin/login\n/usr/sbin/nologin\n/usr/share/doc/login\n")
    write(tmp_path, "var/lib/dpkg/info/apt:amd64.list", "/usr/bin/apt\n/sbin/early\n/usr/lib/apt/ü\n")
    return tmp_path


def read(root: Path, clock: FakeClock | None = None) -> PackageFiles:
    files = PackageFiles(clock or FakeClock(), root)
    files.read()
    return files


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/bin/login", True),
        ("/usr/bin/login", True),
        ("/usr/sbin/nologin", True),
        ("/usr/bin/apt", True),
        ("/bin/apt", True),
        ("/usr/lib/apt/ü", True),
        ("/lib/apt/ü", True),
        ("/sbin/early", True),
        ("/usr/sbin/early", False),
        ("/usr/bin/ap", False),
        ("/tmp/usr/bin/apt", False),
        ("/usr/share/doc/login/x", False),
        ("/usr/bin/apt (deleted)", None),
        ("/snap/core/1/usr/bin/apt", None),
        ("apt", None),
        ("", None),
    ],
)
def test_dpkg(root: Path, path: str, answer: bool | None) -> None:  # noqa: FBT001 - what is asked for
    assert read(root).is_packaged(path) is answer


def test_apk_and_pacman(tmp_path: Path) -> None:
    write(tmp_path, "lib/apk/db/installed", "P:busybox\nF:bin\nR:busybox\na:0:0:755\nF:sbin\nR:init\n\n")
    write(tmp_path, "var/lib/pacman/local/bash-5-1/files", "%FILES%\nusr/\nusr/bin/bash\n\n%BACKUP%\netc/bash\tabc\n")
    files = read(tmp_path)
    asked = ("/bin/busybox", "/sbin/init", "/usr/bin/bash", "/sbin/busybox", "/etc/bash\tabc")
    assert [files.is_packaged(path) for path in asked] == [True, True, True, False, False]


def test_pacmans_packages_may_be_replaced_while_they_are_read(tmp_path: Path) -> None:
    clock = FakeClock()
    pacman.install(tmp_path, "bash-5-1", "./usr/bin/bash mode=755\n")
    listing = pacman.install(tmp_path, "zsh-5-1", "./usr/bin/zsh mode=755\n") / "files"
    content = listing.read_bytes()
    listing.unlink()
    files = read(tmp_path, clock)
    assert [files.is_packaged(path) for path in ("/usr/bin/bash", "/usr/bin/zsh")] == [True, False]
    listing.write_bytes(content)
    os.utime(tmp_path / "var/lib/pacman", ns=(1, 1))  # the lock is gone
    clock.now_s += 2
    assert files.is_packaged("/usr/bin/zsh") is None
    files.read()
    clock.now_s += 2
    assert files.is_packaged("/usr/bin/zsh") is True


def test_pacmans_list_that_is_damaged_leaves_all_unknown(tmp_path: Path) -> None:
    folder = pacman.install(tmp_path, "bash-5-1", "./usr/bin/bash mode=755\n")
    (folder / "files").write_bytes(b"%FILES%\n" + b"x" * (1 << 17))
    files = PackageFiles(FakeClock(), tmp_path)
    with pytest.raises(ValueError, match="longer than pacman writes it"):
        files.read()
    assert files.is_packaged("/usr/bin/bash") is None


def test_nothing_is_known_before_the_first_reading_and_without_any_database(tmp_path: Path, root: Path) -> None:
    assert PackageFiles(FakeClock(), root).is_packaged("/usr/bin/apt") is None
    (tmp_path / "empty").mkdir()
    assert read(tmp_path / "empty").is_packaged("/usr/bin/apt") is None


def test_what_is_installed_later_is_unknown_until_it_is_read(root: Path) -> None:
    clock = FakeClock()
    files = read(root, clock)
    assert files.is_packaged("/usr/bin/new") is False
    write(root, "var/lib/dpkg/info/new.list", "/usr/bin/new\n")
    os.utime(root / "var/lib/dpkg/info", ns=(1, 1))
    clock.now_s += 2
    assert files.is_packaged("/usr/bin/new") is None
    assert files.is_packaged("/usr/bin/apt") is True
    files.read()
    clock.now_s += 2
    assert files.is_packaged("/usr/bin/new") is True


def test_the_thread_reads_and_tells(root: Path) -> None:
    told = threading.Event()
    files = PackageFiles(FakeClock(), root)
    files.start(told.set)
    assert told.wait(30)
    assert files.is_packaged("/usr/bin/apt") is True
    files.stop()


def test_what_the_thread_cannot_read_is_counted(root: Path) -> None:
    (root / "var/lib/dpkg/info/broken.list").mkdir()
    counters, told = Counters(), threading.Event()
    files = PackageFiles(FakeClock(), root, counters)
    files.start(told.set)
    for _ in range(3000):
        if counters.get("enrich_package_database_errors_total"):
            break
        told.wait(0.01)
    files.stop()
    assert counters.get("enrich_package_database_errors_total") == 1
    assert not told.is_set()


def test_a_database_that_cannot_be_read_leaves_all_unknown(root: Path) -> None:
    (root / "var/lib/dpkg/info/broken.list").mkdir()
    files = PackageFiles(FakeClock(), root)
    with pytest.raises(OSError, match="directory"):
        files.read()
    assert files.is_packaged("/usr/bin/apt") is None
