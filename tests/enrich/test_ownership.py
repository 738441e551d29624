"""Which package owns a file, and whether it still is the package's, by each database's form."""

from __future__ import annotations

import base64
import gzip
import hashlib
import os
from typing import TYPE_CHECKING

import pytest

from tests import pacman
from watchdogd.background import Package
from watchdogd.enrich import ownership
from watchdogd.enrich.ownership import PackageOwners, read_rpm
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = b"\x7fELF a program"


def write(root: Path, path: str, content: bytes) -> Path:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(content)
    return root / path


@pytest.fixture
def debian(tmp_path: Path) -> Path:
    """A host of Debian's kind, /bin merged into /usr, `ls` listed by its old name."""
    write(tmp_path, "usr/bin/ls", PROGRAM)
    (tmp_path / "bin").symlink_to("usr/bin")
    write(tmp_path, "etc/ls.conf", b"x")
    info = "var/lib/dpkg/info"
    write(tmp_path, f"{info}/coreutils:amd64.list", b"/.\n/bin\n/bin/ls\n/etc/ls.conf\n")
    digest = hashlib.md5(PROGRAM).hexdigest().encode()
    write(tmp_path, f"{info}/coreutils:amd64.md5sums", digest + b"  bin/ls\n")
    status = b"Package: other\nVersion: 1\n\nPackage: coreutils\nStatus: x\nVersion: 9.1-1\n"
    write(tmp_path, "var/lib/dpkg/status", status)
    return tmp_path


def test_dpkg(debian: Path) -> None:
    owners = PackageOwners(debian)
    assert owners.describe("/usr/bin/ls") == owners.describe("/bin/ls") == Package("coreutils", "9.1-1", intact=True)
    assert owners.describe("/etc/ls.conf") == Package("coreutils", "9.1-1", intact=None)
    write(debian, "usr/bin/evil", b"")
    for path in ("/usr/bin/evil", "/usr/bin/gone", "usr/bin/ls", "", "/usr/bin/l", "/usr/bin/ls\n", "/a\0b"):
        assert owners.describe(path) is None


def test_a_file_that_was_changed_is_seen_at_once_and_an_unchanged_one_is_not_read_again(
    debian: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owners = PackageOwners(debian)
    assert owners.describe("/usr/bin/ls") == Package("coreutils", "9.1-1", intact=True)
    with monkeypatch.context() as patched:
        patched.setattr(owners, "_read", lambda _: pytest.fail("read again"))
        owners.describe("/usr/bin/ls")
    write(debian, "usr/bin/ls", PROGRAM + b" and more")
    assert owners.describe("/usr/bin/ls") == Package("coreutils", "9.1-1", intact=False)


def test_a_replacement_of_the_same_size_and_time_is_seen(debian: Path) -> None:
    owners = PackageOwners(debian)
    ls = debian / "usr/bin/ls"
    owners.describe("/usr/bin/ls")
    times = ls.stat()
    write(debian, "usr/bin/new", PROGRAM[::-1]).replace(ls)
    os.utime(ls, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert owners.describe("/usr/bin/ls") == Package("coreutils", "9.1-1", intact=False)


def test_what_is_too_large_or_no_file_is_not_hashed(debian: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "HASHED_BYTES", len(PROGRAM) - 1)
    assert PackageOwners(debian).describe("/usr/bin/ls") == Package("coreutils", "9.1-1", intact=None)
    (debian / "usr/bin/ls").unlink()
    os.mkfifo(debian / "usr/bin/ls")
    assert PackageOwners(debian).describe("/usr/bin/ls") == Package("coreutils", "9.1-1", intact=None)


def test_apk(tmp_path: Path) -> None:
    digest = base64.b64encode(hashlib.sha1(PROGRAM).digest())
    lines = [b"P:musl", b"V:1.2-r1", b"F:lib", b"R:ld.so", b"", b"P:busybox", b"V:1.36-r2", b"F:bin"]
    lines += [b"R:sh", b"a:0:0:777", b"R:busybox", b"a:0:0:755", b"Z:Q1" + digest, b"F:etc", b""]
    write(tmp_path, "lib/apk/db/installed", b"\n".join(lines))
    for name in ("bin/busybox", "bin/sh", "lib/ld.so"):
        write(tmp_path, name, PROGRAM)
    owners = PackageOwners(tmp_path)
    assert owners.describe("/bin/busybox") == Package("busybox", "1.36-r2", intact=True)
    assert owners.describe("/bin/sh") == Package("busybox", "1.36-r2", intact=None)
    assert owners.describe("/lib/ld.so") == Package("musl", "1.2-r1", intact=None)


def test_pacman(tmp_path: Path) -> None:
    folder = "var/lib/pacman/local/gnu-netcat-0.7.1-8"
    write(tmp_path, f"{folder}/files", b"%FILES%\nusr/\nusr/bin/\nusr/bin/nc\n")
    digest = hashlib.sha256(PROGRAM).hexdigest().encode()
    mtree = b"#mtree\n./usr/bin/nc time=1.0 size=9 md5digest=" + b"0" * 32 + b" sha256digest=" + digest + b"\n"
    write(tmp_path, f"{folder}/mtree", gzip.compress(mtree))
    write(tmp_path, "usr/bin/nc", PROGRAM)
    assert PackageOwners(tmp_path).describe("/usr/bin/nc") == Package("gnu-netcat", "0.7.1-8", intact=True)
    write(tmp_path, "usr/bin/nc", b"other")
    assert PackageOwners(tmp_path).describe("/usr/bin/nc") == Package("gnu-netcat", "0.7.1-8", intact=False)
    write(tmp_path, "usr/bin/ncat", PROGRAM)
    assert PackageOwners(tmp_path).describe("/usr/bin/ncat") is None


def test_pacmans_older_digests_escapes_and_configuration(tmp_path: Path) -> None:
    md5 = f"md5digest={hashlib.md5(PROGRAM).hexdigest()}"
    mtree = f"./usr/bin/a\\040b {md5}\n./etc/rc {md5}\n./usr/bin/bare mode=755\n"
    backup = f"etc/rc\t{'0' * 32}\n"
    pacman.install(tmp_path, "old-1-1", mtree, files="etc/rc\nusr/bin/a b\nusr/bin/bare\n", backup=backup)
    for name in ("usr/bin/a b", "usr/bin/bare", "etc/rc"):
        write(tmp_path, name, PROGRAM)
    owners = PackageOwners(tmp_path)
    assert owners.describe("/usr/bin/a b") == Package("old", "1-1", intact=True)
    assert owners.describe("/usr/bin/bare") == owners.describe("/etc/rc") == Package("old", "1-1", intact=None)


def test_pacman_is_asked_again_once_its_lock_is_gone(tmp_path: Path) -> None:
    """The list of the last package is written into a folder that is there already."""
    write(tmp_path, "usr/bin/nc", PROGRAM)
    folder = pacman.install(tmp_path, "nc-1-1", "./usr/bin/nc mode=755\n")
    listing = (folder / "files").read_bytes()
    (folder / "files").unlink()
    counters = Counters()
    owners = PackageOwners(tmp_path, counters)
    assert owners.describe("/usr/bin/nc") is None
    (folder / "files").write_bytes(listing)
    os.utime(tmp_path / "var/lib/pacman", ns=(1, 1))
    assert owners.describe("/usr/bin/nc") == Package("nc", "1-1", intact=None)
    assert counters.get("enrich_package_database_errors_total") == 0


def test_rpm_as_it_is_printed() -> None:
    said = "coreutils\t9.3-4.fc39\t8\n/usr/bin\t\n/usr/bin/ls\tab12\n/usr/bin/cat\tcd34\n"
    owner = read_rpm(said, ["bin/ls", "usr/bin/ls"])
    assert owner is not None
    assert (owner.name, owner.version, owner.algorithm, owner.digest) == ("coreutils", "9.3-4.fc39", "sha256", "ab12")
    folder = read_rpm(said, ["usr/bin"])
    assert folder is not None
    assert folder.digest is None


def test_databases_that_cannot_be_read_say_nothing(debian: Path, caplog: pytest.LogCaptureFixture) -> None:
    (debian / "var/lib/dpkg/status").unlink()
    counters = Counters()
    owners = PackageOwners(debian, counters)
    with caplog.at_level("WARNING"):
        for name in ("/usr/bin/ls", "/etc/ls.conf"):
            assert owners.describe(name) is None
    assert counters.get("enrich_package_database_errors_total") == 2
    assert len(caplog.records) == 1
    assert "dpkg" in caplog.text
    write(debian, "lib/apk/db/installed", b"P:x\nF:usr/bin\nR:ls\nZ:Q1***\n")
    assert PackageOwners(debian).describe("/usr/bin/ls") == Package("x")


def test_a_damaged_mtree_says_nothing(tmp_path: Path) -> None:
    write(tmp_path, "usr/bin/nc", PROGRAM)
    package = "var/lib/pacman/local/gnu-netcat-0.7.1-8"
    write(tmp_path, f"{package}/files", b"%FILES%\nusr/bin/nc\n")
    mtree = bytearray(gzip.compress(b"./usr/bin/nc mode=755\n" * 100))
    mtree[12:20] = b"\xff" * 8
    write(tmp_path, f"{package}/mtree", bytes(mtree))
    counters = Counters()
    assert PackageOwners(tmp_path, counters).describe("/usr/bin/nc") is None
    assert counters.get("enrich_package_database_errors_total") == 1


def test_kept_facts_are_bounded(debian: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "KEPT", 3)
    owners = PackageOwners(debian)
    for number in range(10):
        write(debian, f"usr/bin/{number}", b"")
        owners.describe(f"/usr/bin/{number}")
    assert len(owners._kept) == 3
