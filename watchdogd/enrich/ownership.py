"""Which package owns a file, and whether the file still is what the package brought.

Blocking: databases of packages and the file itself are read. Facts are kept by path and by what the file system says of
the file and the databases (device, inode, size, times), so that a change of either is looked at again.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import stat
import subprocess
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from watchdogd.background import Package
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger("watchdogd.service")

DATABASE_ERRORS: Final = "enrich_package_database_errors_total"
HASHED_BYTES: Final = 64 << 20
"""Of a larger file nothing is said but its owner."""
KEPT: Final = 512

_DPKG: Final = "var/lib/dpkg"
_APK: Final = "lib/apk/db/installed"
_PACMAN: Final = ("var/lib/pacman", "var/lib/pacman/local")
"""The former changes when its lock goes: then the latter, with its packages' lists, is complete."""
_RPM: Final = ("var/lib/rpm", "usr/lib/sysimage/rpm")
_RPM_FILES: Final = ("rpmdb.sqlite", "Packages", "Packages.db")
_RPM_TIMEOUT_S: Final = 10.0
_RPM_DIGESTS: Final = {"1": "md5", "2": "sha1", "8": "sha256", "9": "sha384", "10": "sha512"}
"""RFC 4880's numbers of hash algorithms, which rpm uses."""
_MERGED: Final = ("bin/", "sbin/", "lib/", "lib32/", "lib64/", "libx32/")
_CHUNK: Final = 1 << 20


class _Owner(NamedTuple):
    name: str
    version: str | None
    algorithm: str | None = None
    digest: str | None = None
    """In hexadecimal, as the package's database has it; None where it says nothing of this file."""


class PackageOwners:
    """Not for the judge's thread; one thread at a time."""

    def __init__(self, root: Path = Path("/"), counters: Counters | None = None) -> None:
        self._root = root
        self._counters = counters or Counters()
        self._said: dict[str, str] = {}
        self._counters.add(DATABASE_ERRORS, 0)
        self._kept: OrderedDict[str, tuple[tuple[int, ...], Package | None]] = OrderedDict()
        self._linked = tuple(name for name in _MERGED if (root / name[:-1]).is_symlink())

    def describe(self, path: str) -> Package | None:
        """The package that owns the file, None where none does, or none that is known.

        `intact` is None where the database has no checksum of the file (configuration), and where the file is too
        large, may not be read, or is not a regular one.
        """
        if not path.startswith("/") or "\n" in path or "\0" in path:
            return None
        try:
            state = self._look(path)
        except OSError:
            return None
        kept = self._kept.get(path)
        if kept is not None and kept[0] == state:
            self._kept.move_to_end(path)
            return kept[1]
        package = self._read(path)
        self._kept[path] = (state, package)
        self._kept.move_to_end(path)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return package

    def _look(self, path: str) -> tuple[int, ...]:
        """What changes where the file or a database does. Raises OSError where the file is not there."""
        status = self._place(path).stat()
        file = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        databases = (f"{_DPKG}/info", f"{_DPKG}/status", _APK, *_PACMAN, *self._list_rpm())
        return (*file, *(self._read_time(name) for name in databases))

    def _read_time(self, name: str) -> int:
        try:
            return (self._root / name).stat().st_mtime_ns
        except OSError:
            return 0

    def _place(self, path: str) -> Path:
        return self._root / path[1:]

    def _list_rpm(self) -> list[str]:
        return [f"{folder}/{name}" for folder in _RPM for name in _RPM_FILES]

    def _read(self, path: str) -> Package | None:
        names = list(self._spell(path[1:]))
        finders = {"dpkg": self._find_dpkg, "apk": self._find_apk, "pacman": self._find_pacman, "rpm": self._find_rpm}
        for manager, find in finders.items():
            try:
                owner = find(names)
            except (OSError, ValueError, subprocess.SubprocessError) as error:
                self._note_error(manager, error)
                continue
            if owner is not None:
                return Package(owner.name, owner.version, self._check(path, owner))
        return None

    def _note_error(self, manager: str, error: Exception) -> None:
        self._counters.add(DATABASE_ERRORS)
        if self._said.get(manager) != str(error):
            self._said[manager] = str(error)
            log.warning("packages: the database of %s cannot be read, owners of files are unknown: %s", manager, error)

    def _spell(self, name: str) -> Iterator[str]:
        """The path without its first slash, as databases may have it: merged-usr has two names for one file."""
        yield name
        for link in self._linked:
            if name.startswith(link):
                yield f"usr/{name}"
            elif name.startswith(f"usr/{link}"):
                yield name[4:]

    def _check(self, path: str, owner: _Owner) -> bool | None:
        if owner.algorithm is None or not owner.digest:
            return None
        try:
            digest = self._hash(path, owner.algorithm)
        except OSError:
            return None
        return None if digest is None else digest == owner.digest.lower()

    def _hash(self, path: str, algorithm: str) -> str | None:
        fd = os.open(self._place(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        with os.fdopen(fd, "rb", buffering=0) as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_size > HASHED_BYTES:
                return None
            digest = hashlib.new(algorithm, usedforsecurity=False)
            left = HASHED_BYTES + 1
            while left > 0 and (part := file.read(min(_CHUNK, left))):
                digest.update(part)
                left -= len(part)
        return digest.hexdigest() if left > 0 else None

    # --- the databases -------------------------------------------------------------------------------------------

    def _find_dpkg(self, names: list[str]) -> _Owner | None:
        """`info/NAME.list` has a path a line, `info/NAME.md5sums` a digest and a path without its first slash."""
        lines = [f"/{name}\n".encode("utf-8", "surrogateescape") for name in names]
        for listing in sorted((self._root / _DPKG / "info").glob("*.list")):
            content = b"\n" + listing.read_bytes() + b"\n"
            if any(b"\n" + line in content for line in lines):
                name = listing.stem.partition(":")[0]
                digest = self._read_md5(listing.with_suffix(".md5sums"), names)
                return _Owner(name, self._read_dpkg_version(name), "md5", digest)
        return None

    def _read_md5(self, sums: Path, names: list[str]) -> str | None:
        if not sums.is_file():
            return None
        wanted = {name.encode("utf-8", "surrogateescape") for name in names}
        for line in sums.read_bytes().splitlines():
            digest, _, name = line.partition(b"  ")
            if name in wanted:
                return digest.decode("ascii", "replace")
        return None

    def _read_dpkg_version(self, name: str) -> str | None:
        """From `status`: paragraphs of `Field: value`."""
        within = False
        with (self._root / _DPKG / "status").open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("Package: "):
                    within = line[9:].strip() == name
                elif within and line.startswith("Version: "):
                    return line[9:].strip()
        return None

    def _find_apk(self, names: list[str]) -> _Owner | None:
        """`P:` name, `V:` version, `F:` folder, `R:` file, `Z:Q1` its SHA-1 in base64; an empty line ends a package."""
        listing = self._root / _APK
        if not listing.is_file():
            return None
        name, version, folder, found = "", None, "", False
        with listing.open(encoding="utf-8", errors="surrogateescape") as lines:
            for line in map(str.rstrip, lines):
                kind, value = line[:2], line[2:]
                if found:
                    digest = base64.b64decode(value[2:]).hex() if line.startswith("Z:Q1") else None
                    if digest is not None or kind in ("R:", "F:", ""):
                        return _Owner(name, version, "sha1", digest)
                elif kind == "P:":
                    name, version, folder = value, None, ""
                elif kind == "V:":
                    version = value
                elif kind == "F:":
                    folder = value
                elif kind == "R:":
                    found = f"{folder}/{value}".lstrip("/") in names
        return _Owner(name, version) if found else None

    def _find_pacman(self, names: list[str]) -> _Owner | None:
        """Of configuration there is no digest, as with dpkg: people change it."""
        if not (self._root / _PACMAN[1]).is_dir():
            return None
        from watchdogd.pacman import list_installed  # noqa: PLC0415 - memory only where it is used

        paths = [f"/{name}".encode("utf-8", "surrogateescape") for name in names]
        for one in list_installed(self._root):
            try:
                if not one.holds(paths):
                    continue
                records = {} if set(paths) & set(one.list_backups()) else one.read(paths)[1]
            except FileNotFoundError:
                continue  # replaced just now
            for record in records.values():
                for algorithm, digest in (("sha256", record.sha256), ("md5", record.md5)):
                    if digest is not None:
                        return _Owner(one.name, one.version, algorithm, digest.hex())
            return _Owner(one.name, one.version)
        return None

    def _find_rpm(self, names: list[str]) -> _Owner | None:
        """Asks `rpm -qf`, which prints no digest for what is no regular file."""
        if not any((self._root / name).is_file() for name in self._list_rpm()):
            return None
        if not os.access("/usr/bin/rpm", os.X_OK):
            return None
        form = "%{NAME}\\t%{VERSION}-%{RELEASE}\\t%{FILEDIGESTALGO}\\n[%{FILENAMES}\\t%{FILEDIGESTS}\\n]"
        command = ["/usr/bin/rpm", "--root", str(self._root), "-qf", "--qf", form, "--", f"/{names[0]}"]
        done = subprocess.run(command, capture_output=True, timeout=_RPM_TIMEOUT_S, check=False)  # noqa: S603 - no shell
        if done.returncode != 0:
            return None
        return read_rpm(done.stdout.decode("utf-8", "surrogateescape"), names)


def read_rpm(said: str, names: list[str]) -> _Owner | None:
    """The owner as the query of `_find_rpm` prints it: name, version, number of the algorithm; path and digest."""
    head, *files = said.splitlines()
    name, version, algorithm = head.split("\t")
    digests = dict(line.rsplit("\t", 1) for line in files if "\t" in line)
    digest = next((digests[f"/{one}"] for one in names if digests.get(f"/{one}")), None)
    return _Owner(name, version, _RPM_DIGESTS.get(algorithm, "md5" if algorithm == "(none)" else None), digest)
