"""Which files belong to an installed package: dpkg's, rpm's, apk's and pacman's databases, read in a thread of its own.

Kept is a number of 64 bits for each path (8 bytes), by a hash that nobody outside this process can foresee. It says
that a package holds a file of that name, not that the file is still what the package brought.
"""

from __future__ import annotations

import logging
import os
import subprocess
import threading
from array import array
from bisect import bisect_left
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final

from watchdogd.enrich.ownership import DATABASE_ERRORS
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from watchdogd.ports import Clock

log = logging.getLogger("watchdogd.service")

_DPKG: Final = "var/lib/dpkg/info"
_APK: Final = "lib/apk/db/installed"
_PACMAN: Final = ("var/lib/pacman", "var/lib/pacman/local")
"""The lock in the former is gone once the latter, with its packages' lists, is complete."""
_RPM: Final = ("var/lib/rpm", "usr/lib/sysimage/rpm")
_RPM_FILES: Final = ("rpmdb.sqlite", "Packages", "Packages.db")
_MERGED: Final = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_LEFT_OUT: Final = tuple(
    f"/usr/share/{name}/".encode() for name in ("doc", "man", "locale", "icons", "info", "fonts", "zoneinfo", "help")
)
"""Nothing is run from there."""
_ELSEWHERE: Final = ("/snap/", "/var/lib/flatpak/", "/var/lib/snapd/", "/nix/", "/gnu/store/")
"""Other package managers' folders: nothing is known of them."""
_GONE: Final = " (deleted)"
_PARTS: Final = 256
_MASK: Final = (1 << 64) - 1
_CHECK_EVERY_S: Final = 60.0
_LOOK_AGAIN_S: Final = 1.0
_RPM_TIMEOUT_S: Final = 120.0


class PackageFiles:
    """Answers whether a package holds a file, None while nobody knows."""

    def __init__(self, clock: Clock, root: Path = Path("/"), counters: Counters | None = None) -> None:
        self._clock = clock
        self._counters = counters or Counters()
        self._counters.add(DATABASE_ERRORS, 0)
        self._root = root
        self._linked = tuple(f"{name}/" for name in _MERGED if (root / name[1:]).is_symlink())
        self._parts: list[array[int]] | None = None
        self._seen: object = None
        self._looked_s = 0.0
        self._wake = threading.Event()
        self._stopped = False

    def start(self, on_change: Callable[[], None]) -> None:
        """Read the databases in a thread, and again each time that they have changed, until `stop`.

        `on_change` is called by that thread after each reading.
        """
        threading.Thread(target=self._follow, args=(on_change,), name="packages", daemon=True).start()

    def stop(self) -> None:
        """Let the thread end; answers stay as they are."""
        self._stopped = True
        self._wake.set()

    def is_packaged(self, path: str) -> bool | None:
        """Whether an installed package holds the file. Never waits: what was not found just now may be None.

        None, too, for what is no path of a file that is there, and for the folders of snap, flatpak, nix and guix.
        """
        parts = self._parts
        if parts is None or not path.startswith("/") or path.endswith(_GONE) or path.startswith(_ELSEWHERE):
            return None
        wanted = self._hash(path.encode("utf-8", "surrogateescape"))
        part = parts[wanted % _PARTS]
        place = bisect_left(part, wanted)
        if place < len(part) and part[place] == wanted:
            return True
        return None if self._has_changed() else False

    def read(self) -> int:
        """Read the databases now; how many paths they hold. Where there is none at all, nothing is known."""
        before = self._look()
        parts = [array("Q") for _ in range(_PARTS)]  # each sorted by itself: a list of all would take ten times as much
        for path in self._list_paths():
            if not path.startswith(_LEFT_OUT):
                number = self._hash(path)
                parts[number % _PARTS].append(number)
        count = sum(map(len, parts))
        self._parts = [array("Q", sorted(part)) for part in parts] if count else None
        self._seen = before
        return count

    def _follow(self, on_change: Callable[[], None]) -> None:
        while not self._stopped:
            self._wake.clear()
            if self._look() != self._seen:
                try:
                    count = self.read()
                except (OSError, subprocess.SubprocessError, ValueError) as error:
                    self._seen = self._look()
                    self._counters.add(DATABASE_ERRORS)
                    log.warning("packages: the database cannot be read, what belongs to one is unknown: %s", error)
                else:
                    log.debug("packages: %d files known", count)
                    on_change()
            self._wake.wait(_CHECK_EVERY_S)

    def _has_changed(self) -> bool:
        """Whether the databases were written since they were read; then they are soon read again."""
        now_s = self._clock.monotonic_s()
        if now_s - self._looked_s < _LOOK_AGAIN_S:
            return self._wake.is_set()
        self._looked_s = now_s
        if self._look() == self._seen:
            return False
        self._wake.set()
        return True

    def _look(self) -> tuple[int, ...]:
        """When each database was written last, 0 where there is none."""
        rpm = [f"{folder}/{name}" for folder in _RPM for name in _RPM_FILES]
        times = []
        for name in (_DPKG, _APK, *_PACMAN, *rpm):
            try:
                times.append((self._root / name).stat().st_mtime_ns)
            except OSError:
                times.append(0)
        return tuple(times)

    def _hash(self, path: bytes) -> int:
        for link in self._linked:
            if path.startswith(link.encode()):
                path = b"/usr" + path
                break
        return hash(path) & _MASK

    def _list_paths(self) -> Iterator[bytes]:
        return chain(self._list_dpkg(), self._list_apk(), self._list_pacman(), self._list_rpm())

    def _list_dpkg(self) -> Iterator[bytes]:
        """`NAME.list`: a path a line."""
        for listing in sorted((self._root / _DPKG).glob("*.list")):
            yield from listing.read_bytes().splitlines()

    def _list_apk(self) -> Iterator[bytes]:
        """`F:folder` and below it `R:name`."""
        listing = self._root / _APK
        if not listing.is_file():
            return
        folder = b""
        with listing.open("rb") as lines:
            for line in lines:
                if line.startswith(b"F:"):
                    folder = line[2:].strip()
                elif line.startswith(b"R:"):
                    yield b"/" + folder + b"/" + line[2:].strip()

    def _list_pacman(self) -> Iterator[bytes]:
        """Of a package that is being replaced there is nothing for a moment: `_look` sees the end of it."""
        if (self._root / _PACMAN[1]).is_dir():
            from watchdogd.pacman import list_installed  # noqa: PLC0415 - memory only where it is used

            for one in list_installed(self._root):
                with suppress(FileNotFoundError):
                    yield from one.list_paths()

    def _list_rpm(self) -> Iterator[bytes]:
        """What `rpm -qal` lists, line by line."""
        databases = [self._root / folder / name for folder in _RPM for name in _RPM_FILES]
        if not any(database.is_file() for database in databases) or not os.access("/usr/bin/rpm", os.X_OK):
            return
        command = ["/usr/bin/rpm", "--root", str(self._root), "-qal"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:  # noqa: S603 - no shell
            timer = threading.Timer(_RPM_TIMEOUT_S, process.kill)
            timer.start()
            try:
                for line in process.stdout or ():
                    yield line.rstrip(b"\n")
            finally:
                timer.cancel()
        if process.returncode != 0:
            raise ValueError(f"rpm -qal ended with status {process.returncode}")
