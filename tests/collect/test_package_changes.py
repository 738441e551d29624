"""Which changes a package manager has made: databases as dpkg writes them, and a real lock."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import msgspec
import pytest

from tests import pacman
from watchdogd.collect.package_changes import ABOUT_NS, Change, PackageChanges
from watchdogd.file_states import FileState

if TYPE_CHECKING:
    from pathlib import Path

NOW_NS = time.time_ns()
TOOL, CONF, LINK, OLD = b"/usr/bin/tool", b"/etc/tool.conf", b"/usr/bin/tl", b"/usr/bin/old"
CONTENT = b"the program"
STATE = FileState("file", 0o755, 0, 0, len(CONTENT), NOW_NS, NOW_NS, 1, 7, hashlib.sha256(CONTENT).digest())
BEFORE = msgspec.structs.replace(STATE, inode=6, sha256=b"o" * 32)
MD5 = hashlib.md5(CONTENT).digest()

STATUS = f"""\
Package: other
Architecture: all
Version: 9
Conffiles:
 /etc/other.conf 00000000000000000000000000000000

Package: tool
Status: install ok installed
Architecture: amd64
Version: 2:1.0-3
Conffiles:
 /etc/tool.conf {hashlib.md5(b"conf").hexdigest()}
 /etc/gone.conf newconffile
Description: a tool

"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    info = tmp_path / "var/lib/dpkg/info"
    info.mkdir(parents=True)
    (tmp_path / "usr" / "bin").mkdir(parents=True)
    (tmp_path / "bin").symlink_to("usr/bin")
    (info / "tool:amd64.list").write_bytes(b"/.\n/bin\n/bin/tool\n/etc/tool.conf\n/bin/tl\n")
    (info / "tool:amd64.md5sums").write_text(f"{MD5.hex()}  bin/tool\nbroken\n")
    (info / "other.list").write_bytes(b"/.\n/etc/other.conf\n")
    os.utime(info / "other.list", ns=(0, 0))
    (tmp_path / "var/lib/dpkg/status").write_text(STATUS)
    return tmp_path


def make(path: bytes = TOOL, **changes: object) -> Change:
    whole = Change(path, BEFORE, STATE, md5=MD5, time_ns=NOW_NS)
    return msgspec.structs.replace(whole, **changes)


def test_a_file_that_is_what_its_fresh_package_brought(root: Path) -> None:
    assert PackageChanges(root).explain([make()]) == {TOOL: "tool:amd64 2:1.0-3"}
    assert PackageChanges(root).explain([make(before=None)]) == {TOOL: "tool:amd64 2:1.0-3"}


@pytest.mark.parametrize(
    "change",
    [
        make(md5=b"x" * 16),
        make(md5=None),
        make(path=b"/usr/bin/not-of-any-package"),
        make(path=b"/etc/other.conf"),
        make(before=msgspec.structs.replace(BEFORE, inode=7)),  # changed in place
        make(time_ns=NOW_NS - 2 * ABOUT_NS),
        make(time_ns=NOW_NS + 2 * ABOUT_NS),
        make(path=OLD, after=None),
        make(path=TOOL, after=None, package="tool:amd64"),  # its package still has it
    ],
)
def test_what_a_package_did_not_do(root: Path, change: Change) -> None:
    assert PackageChanges(root).explain([change]) == {}


def test_a_configuration_file_has_its_checksum_in_the_status_file(root: Path) -> None:
    packages = PackageChanges(root)
    md5 = hashlib.md5(b"conf").digest()
    assert packages.explain([make(path=CONF, md5=md5)]) == {CONF: "tool:amd64 2:1.0-3"}
    assert packages.explain([make(path=CONF)]) == {}


def test_links_and_folders_have_no_checksum(root: Path) -> None:
    link = msgspec.structs.replace(STATE, kind="link", sha256=None, link_target=b"tool")
    assert PackageChanges(root).explain([make(path=LINK, after=link, md5=None)]) == {LINK: "tool:amd64 2:1.0-3"}


def test_a_file_goes_with_its_package_or_its_version(root: Path) -> None:
    packages = PackageChanges(root)
    assert packages.explain([make(path=OLD, after=None, package="tool:amd64")]) == {OLD: "tool:amd64 2:1.0-3"}
    assert packages.explain([make(path=OLD, after=None, package="removed")]) == {OLD: "removed"}
    assert packages.explain([make(path=OLD, after=None, package="removed", time_ns=NOW_NS - 2 * ABOUT_NS)]) == {}


def test_owners_of_what_is_wanted(root: Path) -> None:
    assert PackageChanges(root).list_owners(lambda path: path.startswith(b"/usr/bin/")) == {
        TOOL: "tool:amd64",
        LINK: "tool:amd64",
    }


def test_a_host_without_any_database(tmp_path: Path) -> None:
    packages = PackageChanges(tmp_path)
    assert packages.explain([make()]) == {}
    assert packages.read_time_ns() == 0
    assert not packages.is_busy()


def test_a_held_lock_is_seen_and_none_is_taken(root: Path) -> None:
    packages = PackageChanges(root)
    lock = root / "var/lib/dpkg/lock"
    lock.touch()
    assert not packages.is_busy()
    hold = (
        "import fcntl, sys\nfile = open(sys.argv[1], 'w')\nfcntl.lockf(file, fcntl.LOCK_EX)\nprint(flush=True)\ninput()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert packages.is_busy()
        process.communicate(b"\n")
    assert not packages.is_busy()
    with lock.open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


ARCH_FILE = f"sha256digest={hashlib.sha256(CONTENT).hexdigest()} time={NOW_NS // 10**9}.0"
ARCH_MTREE = f"""\
/set type=file uid=0 gid=0 mode=755
./usr type=dir
./usr/bin/tool {ARCH_FILE}
./usr/bin/tl type=link link=tool
./etc/tool.conf sha256digest={hashlib.sha256(b"conf").hexdigest()}
"""


@pytest.fixture
def arch(tmp_path: Path) -> Path:
    pacman.install(tmp_path, "tool-2:1.0-3", ARCH_MTREE)
    other = pacman.install(tmp_path, "other-9-1", "./usr/bin/other mode=755\n")
    os.utime(other, ns=(0, 0))
    return tmp_path


def test_pacman_a_file_that_is_what_its_fresh_package_brought(arch: Path) -> None:
    packages = PackageChanges(arch)
    label = "tool 2:1.0-3"
    link = msgspec.structs.replace(STATE, kind="link", sha256=None, link_target=b"tool")
    conf = msgspec.structs.replace(STATE, sha256=hashlib.sha256(b"conf").digest())
    changes = [make(), make(path=LINK, after=link, md5=None), make(path=CONF + b".pacnew", before=None, after=conf)]
    assert packages.explain(changes) == dict.fromkeys((TOOL, LINK, CONF + b".pacnew"), label)
    assert packages.explain([make(before=msgspec.structs.replace(BEFORE, inode=7))]) == {TOOL: label}
    assert packages.read_versions(["tool", "none"]) == {"tool": "2:1.0-3"}
    assert packages.take_troubles() == []


@pytest.mark.parametrize(
    "change",
    [
        make(after=msgspec.structs.replace(STATE, sha256=b"x" * 32)),
        make(after=msgspec.structs.replace(STATE, mode=0o777)),
        make(after=msgspec.structs.replace(STATE, mtime_ns=1), before=msgspec.structs.replace(BEFORE, inode=7)),
        make(path=CONF),
        make(path=CONF + b".pacnew"),
        make(path=b"/usr/bin/not-of-any-package"),
        make(path=b"/usr/bin/other"),  # installed long ago
        make(time_ns=NOW_NS - 2 * ABOUT_NS),
        make(path=TOOL, after=None, package="tool"),  # it still has it
        make(path=b"/usr/bin/other", after=None, package="other"),
        make(path=OLD, after=None),
    ],
)
def test_pacman_what_a_package_did_not_do(arch: Path, change: Change) -> None:
    assert PackageChanges(arch).explain([change]) == {}


def test_pacman_a_file_goes_with_its_package_or_its_version(arch: Path) -> None:
    packages = PackageChanges(arch)
    gone = [make(path=OLD, after=None, package="tool"), make(path=LINK, after=None, package="removed")]
    gone.append(make(path=TOOL, after=None, package="other"))
    assert packages.explain(gone) == {OLD: "tool 2:1.0-3", LINK: "removed", TOOL: "other"}


def test_pacman_a_package_is_known_while_its_files_are_still_being_written(arch: Path) -> None:
    listing = arch / "var/lib/pacman/local/tool-2:1.0-3/files"
    listing.unlink()
    packages = PackageChanges(arch)
    assert packages.explain([make()]) == {TOOL: "tool 2:1.0-3"}
    assert packages.explain([make(after=None, package="tool")]) == {}
    listing.with_name("mtree").unlink()
    assert packages.explain([make(), make(path=OLD, after=None, package="tool")]) == {}
    assert packages.take_troubles() == []


def test_pacman_one_damaged_package_does_no_harm_to_the_others(arch: Path) -> None:
    bad = pacman.install(arch, "bad-1-1", b"no gzip")
    packages = PackageChanges(arch)
    changes = [make(), make(path=b"/usr/bin/bad"), make(path=b"/usr/bin/gone", after=None, package="bad")]
    (bad / "files").write_bytes(b"%FILES%\nusr/bin/tool\n" + b"x" * (1 << 17))
    assert packages.explain(changes) == {TOOL: "tool 2:1.0-3"}
    assert packages.take_troubles() == ["bad: files: longer than pacman writes it"] * 2
    assert packages.take_troubles() == []
    (bad / "files").write_bytes(b"%FILES%\nusr/bin/tool\n")
    assert packages.explain(changes[:2]) == {TOOL: "tool 2:1.0-3"}
    (trouble,) = packages.take_troubles()
    assert trouble.startswith("bad: mtree: ")


def test_pacman_owners_of_what_is_wanted(arch: Path) -> None:
    wanted = PackageChanges(arch).list_owners(lambda path: path.startswith(b"/usr/bin/"))
    assert wanted == {TOOL: "tool", LINK: "tool", b"/usr/bin/other": "other"}


def test_pacman_is_at_work_while_its_lock_is_there_and_it_writes(arch: Path) -> None:
    now_ns = [NOW_NS]
    packages = PackageChanges(arch, lambda: now_ns[0])
    lock, log, local = (arch / name for name in ("var/lib/pacman/db.lck", "var/log/pacman.log", "var/lib/pacman/local"))
    os.utime(local, ns=(NOW_NS, NOW_NS))
    assert not packages.is_busy()
    lock.touch()
    os.utime(lock, ns=(NOW_NS, NOW_NS))
    assert packages.is_busy()
    now_ns[0] += ABOUT_NS + 1
    assert not packages.is_busy()  # it was killed and left its lock
    log.parent.mkdir()
    log.touch()
    os.utime(log, ns=(now_ns[0], now_ns[0]))
    assert packages.is_busy()
    assert packages.read_time_ns() == now_ns[0]
    lock.unlink()
    assert not packages.is_busy()
