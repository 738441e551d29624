"""Packages that makepkg builds and pacman installs below a root of their own: its database is read as it is written."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.host import guard
from watchdogd.background import Package
from watchdogd.collect.file_look import Looker
from watchdogd.collect.package_changes import Change, PackageChanges
from watchdogd.enrich.ownership import PackageOwners
from watchdogd.enrich.package import PackageFiles
from watchdogd.pacman import list_installed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from watchdogd.file_states import FileState

pytestmark = [pytest.mark.host, pytest.mark.slow]

BUILD = r"""
pkgname=a-tool
pkgver=2.0
pkgrel=3
epoch=1
pkgdesc="a tool"
arch=(any)
backup=(etc/tool.conf)
options=(!strip !debug)
package() {
  mkdir -p "$pkgdir/usr/bin" "$pkgdir/etc"
  echo program >"$pkgdir/usr/bin/tool"
  echo odd >"$pkgdir/usr/bin/with space#=\\, and ü"
  ln -s 'tool' "$pkgdir/usr/bin/a link"
  chmod 4755 "$pkgdir/usr/bin/tool"
  chmod 700 "$pkgdir/etc"
  echo settings >"$pkgdir/etc/tool.conf"
}
"""
TOOL, ODD, LINK, CONF = (
    b"/usr/bin/tool",
    "/usr/bin/with space#=\\, and ü".encode(),
    b"/usr/bin/a link",
    b"/etc/tool.conf",
)
LABEL = "a-tool 1:2.0-3"


@pytest.fixture(scope="module")
def package() -> Iterator[Path]:
    """makepkg refuses to be root, so nobody builds it."""
    guard.require_programs("makepkg", "pacman", "bsdtar", "setpriv")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "PKGBUILD").write_text(BUILD)
        for path in (folder, folder / "PKGBUILD"):
            os.chown(path, 65534, 65534)
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "makepkg", "--nodeps", "--nocheck"]
        environ = {"HOME": place, "PKGEXT": ".pkg.tar", "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
        subprocess.run(command, cwd=folder, env=environ, check=True, capture_output=True)
        (built,) = folder.glob("*.pkg.tar")
        yield built


class Root:
    """A root that pacman installs into."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "var/lib/pacman").mkdir(parents=True)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Pacman, without a word from its hooks or its settings."""
        root = self.path
        places = [f"--root={root}", f"--dbpath={root}/var/lib/pacman", f"--logfile={root}/var/log/pacman.log"]
        command = ["pacman", *places, "--noconfirm", *arguments]
        environ = {**os.environ, "LC_ALL": "C.UTF-8"}
        return subprocess.run(command, check=False, capture_output=True, text=True, env=environ)

    def look(self, path: bytes) -> tuple[FileState, bytes | None]:
        found = Looker(max_bytes=1 << 20, md5=True).look_path(os.fsencode(self.path) + path)
        assert found is not None
        return found.state, found.md5

    def change(self, path: bytes, before: FileState | None = None) -> Change:
        """What a scan would say of it now."""
        state, md5 = self.look(path)
        return Change(path, before, state, md5=md5, time_ns=state.ctime_ns)


@pytest.fixture
def root(tmp_path: Path, package: Path) -> Root:
    root = Root(tmp_path.resolve() / "root")
    (root.path / "var/log").mkdir()
    done = root.run("-U", str(package))
    assert done.returncode == 0, done.stderr
    return root


def test_file_integrity_knows_what_pacman_installed_upgraded_and_removed(root: Root, package: Path) -> None:
    packages = PackageChanges(root.path)
    paths = (TOOL, ODD, LINK, CONF, b"/usr/bin", b"/etc")
    assert packages.explain([root.change(path) for path in paths]) == dict.fromkeys(paths, LABEL)
    assert packages.list_owners(lambda _: True) == dict.fromkeys((*paths, b"/usr"), "a-tool")

    before = {path: root.look(path)[0] for path in paths}
    (root.path / "usr/bin/tool").write_text("evil")
    assert packages.explain([root.change(TOOL, before[TOOL])]) == {}
    (root.path / "etc/tool.conf").write_text("changed since")
    evil = root.look(TOOL)[0]
    assert root.run("-U", str(package)).returncode == 0
    assert packages.explain([root.change(TOOL, evil)]) == {TOOL: LABEL}  # whatever inode it has got
    assert packages.explain([root.change(CONF, before[CONF])]) == {}
    (root.path / "usr/bin/tool").chmod(0o777)
    assert packages.explain([root.change(TOOL, evil)]) == {}

    state = root.look(ODD)[0]
    gone = Change(ODD, state, None, "a-tool", time_ns=state.ctime_ns)
    assert packages.explain([gone]) == {}  # its package still has it
    done = root.run("-R", "a-tool")
    assert done.returncode == 0, done.stderr
    assert packages.explain([gone]) == {ODD: "a-tool"}
    assert not packages.is_busy()
    assert packages.take_troubles() == []


def test_a_program_is_known_as_packaged_and_intact(root: Root) -> None:
    files = PackageFiles(_Clock(), root.path)
    files.read()
    assert [files.is_packaged(os.fsdecode(path)) for path in (TOOL, ODD, b"/usr/bin/evil")] == [True, True, False]
    owners = PackageOwners(root.path)
    assert owners.describe(os.fsdecode(ODD)) == Package("a-tool", "1:2.0-3", intact=True)
    assert owners.describe(os.fsdecode(CONF)) == Package("a-tool", "1:2.0-3", intact=None)
    (root.path / os.fsdecode(TOOL[1:])).write_text("evil")
    assert owners.describe(os.fsdecode(TOOL)) == Package("a-tool", "1:2.0-3", intact=False)


def test_pacman_says_the_same_of_its_package(root: Root) -> None:
    """As many files as pacman counts, without its own `.PKGINFO` and its like."""
    (one,) = list_installed(root.path)
    said = root.run("-Qkk", "a-tool")
    assert said.returncode == 0, said.stderr
    (count,) = re.findall(r"(\d+) total files", said.stdout)
    assert len(one.read_all()) == len(list(one.list_paths())) == int(count)


class _Clock:
    def now_ms(self) -> int:
        return 0

    def monotonic_s(self) -> float:
        return 0.0

    async def sleep(self, delay_s: float) -> None:
        """Never."""
