"""Package managers that install a real package of the tests, which they build before: dpkg and pacman."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NAME: Final = "watchdogd-test-files"


class Packager(Protocol):
    """What a test needs of a package manager; `label` is how it names a version, `image` who writes the files."""

    programs: Sequence[str]
    image: str

    def label(self, version: str) -> str:
        """Name and version, as its database has them."""

    def build(self, folder: Path, version: str, target: Path, *, files: int) -> Path:
        """A package of so many programs in `bin`, and a configuration file."""

    def install(self, package: Path) -> list[str]:
        """The command."""

    def purge(self) -> list[str]:
        """The command; configuration files go, too."""


def _fill(place: Path, version: str, files: int) -> None:
    (place / "bin").mkdir(parents=True)
    for number in range(files):
        (place / "bin" / f"program{number}").write_text(f"{version} {number}\n")
    (place / "settings.conf").write_text(f"version {version}\n")


class Dpkg:
    """Debian's."""

    programs = ("dpkg-deb",)
    image = "/usr/bin/dpkg"

    def label(self, version: str) -> str:
        """As `Packager` has it."""
        return f"{NAME} {version}"

    def build(self, folder: Path, version: str, target: Path, *, files: int) -> Path:
        """As `Packager` has it."""
        tree = folder / version
        _fill(tree / target.relative_to("/"), version, files)
        control = tree / "DEBIAN"
        control.mkdir()
        (control / "control").write_text(
            f"Package: {NAME}\nVersion: {version}\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\n"
            "Description: files of a test\n"
        )
        (control / "conffiles").write_text(f"{target}/settings.conf\n")
        find = "find . -path ./DEBIAN -prune -o -type f ! -name *.conf -exec md5sum {} +"
        sums = subprocess.run(find.split(), cwd=tree, capture_output=True, text=True, check=True).stdout
        (control / "md5sums").write_text(sums.replace("  ./", "  "))
        package = folder / f"{version}.deb"
        build = ["dpkg-deb", "--root-owner-group", "-b", str(tree), str(package)]
        subprocess.run(build, check=True, capture_output=True)
        return package

    def install(self, package: Path) -> list[str]:
        """As `Packager` has it."""
        return ["dpkg", "-i", str(package)]

    def purge(self) -> list[str]:
        """As `Packager` has it."""
        return ["dpkg", "--purge", NAME]


class Pacman:
    """Arch's, which Debian carries, too. makepkg refuses to be root: the package is packed as makepkg packs it."""

    programs = ("pacman", "bsdtar", "zstd")
    image = "/usr/bin/pacman"

    def label(self, version: str) -> str:
        """As `Packager` has it."""
        return f"{NAME} {version}-1"

    def build(self, folder: Path, version: str, target: Path, *, files: int) -> Path:
        """As `Packager` has it."""
        tree = folder / version
        place = target.relative_to("/")
        _fill(tree / place, version, files)
        (tree / ".PKGINFO").write_text(
            f"pkgname = {NAME}\npkgver = {version}-1\npkgdesc = files of a test\nbuilddate = 1700000000\n"
            f"packager = nobody\nsize = 1\narch = any\nbackup = {place}/settings.conf\n"
        )
        for path in (*tree.rglob("*"), tree):
            os.utime(path, (1_700_000_000, 1_700_000_000))
        package = folder / f"{NAME}-{version}-1-any.pkg.tar.zst"
        options = "--options=!all,use-set,type,uid,gid,mode,time,size,md5,sha256,link"
        script = (
            f"bsdtar -cf - --format=mtree '{options}' .PKGINFO {place.parts[0]} | gzip -c -f -n >.MTREE"
            f" && bsdtar -cf - .MTREE .PKGINFO {place.parts[0]} | zstd -q -o {package}"
        )
        subprocess.run(["bash", "-o", "pipefail", "-c", script], cwd=tree, check=True, capture_output=True)
        shutil.rmtree(tree)
        return package

    def install(self, package: Path) -> list[str]:
        """As `Packager` has it."""
        return ["pacman", "--noconfirm", "-U", str(package)]

    def purge(self) -> list[str]:
        """As `Packager` has it."""
        return ["pacman", "--noconfirm", "-Rn", NAME]
