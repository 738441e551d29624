"""Which changes of files a package manager has made: asked of dpkg's, rpm's and pacman's databases.

A change is the package's where the package was installed or upgraded at about that moment and the file is what it
brought, by its own checksum. Checksums of dpkg are MD5 (`*.md5sums`, and `Conffiles:` of the status file): whoever can
write the database can vouch for anything, as with debsums(1).
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from watchdogd.file_states import FILE, FileState

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from watchdogd.pacman import Installed, Recorded

ABOUT_NS: Final = 600 * 1_000_000_000
"""Between a file's change and that of its package's database lie at most ten minutes."""

_DPKG: Final = "var/lib/dpkg"
_RPM: Final = ("usr/lib/sysimage/rpm", "var/lib/rpm")
_RPM_FILES: Final = ("rpmdb.sqlite", "Packages.db", "Packages")
_PACMAN: Final = "var/lib/pacman/local"
_PACMAN_LOCK: Final = "var/lib/pacman/db.lck"
_PACMAN_LOG: Final = "var/log/pacman.log"
_PACNEW: Final = b".pacnew"
_LOCKS: Final = (f"{_DPKG}/lock", f"{_DPKG}/lock-frontend", *(f"{folder}/.rpm.lock" for folder in _RPM))
_FLOCK: Final = struct.Struct("hhqqi4x")
_MERGED: Final = (b"/bin", b"/sbin", b"/lib", b"/lib32", b"/lib64", b"/libx32")
_RPM_PROGRAM: Final = "/usr/bin/rpm"
_RPM_TIMEOUT_S: Final = 60.0
_SHA256_CHARS: Final = 64


class Change(msgspec.Struct, frozen=True, gc=False):
    """What happened to a path. None stands for a file that is not there."""

    path: bytes
    before: FileState | None
    after: FileState | None
    package: str | None = None
    """Whose file it was before."""
    md5: bytes | None = None
    """Of the file as it is now."""
    time_ns: int = 0


class _Package(msgspec.Struct, frozen=True):
    """A package that was installed lately, with those of its files that are asked about: path to checksum, if any."""

    name: str
    time_ns: int
    files: dict[bytes, bytes | None]
    version: str = ""
    records: dict[bytes, Recorded] | None = None
    """Of pacman's, which know what all but the content is to be like, too."""

    @property
    def label(self) -> str:
        return f"{self.name} {self.version}" if self.version else self.name

    def has_brought(self, change: Change, after: FileState) -> bool:
        """Whether the change is to what the package has of this path."""
        before = change.before
        if self.records is not None:
            record = self.records.get(change.path)
            return record is not None and record.describes(after, before, change.md5)
        if before is not None and (before.inode, before.device) == (after.inode, after.device):
            return False  # dpkg and rpm replace files; who changes one in place is somebody else
        checksum = self.files[change.path]
        return after.kind != FILE or (checksum is not None and checksum in (change.md5, after.sha256))


class PackageChanges:
    """Reads the databases below `root`. Blocking; raises OSError, ValueError, SubprocessError."""

    def __init__(self, root: Path = Path("/"), now_ns: Callable[[], int] = time.time_ns) -> None:
        self._root = root
        self._now_ns = now_ns
        self._linked = tuple(name + b"/" for name in _MERGED if (root / os.fsdecode(name[1:])).is_symlink())
        self._troubles: list[str] = []

    def is_busy(self) -> bool:
        """Whether a package manager is at work: dpkg, apt and rpm hold fcntl locks, pacman makes a file.

        That file stays where pacman is killed: it counts while it, or what pacman writes, is no older than ABOUT_NS.
        """
        if any(_is_locked(self._root / name) for name in _LOCKS):
            return True
        locked_ns = _read_time_ns(self._root / _PACMAN_LOCK)
        return locked_ns != 0 and self._now_ns() - max(locked_ns, self._read_pacman_time_ns()) <= ABOUT_NS

    def read_time_ns(self) -> int:
        """When a database was written last; 0 where there is none."""
        names = [f"{_DPKG}/info", f"{_DPKG}/status", f"{_DPKG}/updates", *_list_rpm()]
        return max(self._read_pacman_time_ns(), *(_read_time_ns(self._root / name) for name in names))

    def take_troubles(self) -> list[str]:
        """Why single packages could not be read since this was asked last: their files are explained by none."""
        troubles, self._troubles = self._troubles, []
        return troubles

    def explain(self, changes: Sequence[Change]) -> dict[bytes, str]:
        """Of these changes those that a package has made: path to `name version`."""
        if not changes:
            return {}
        since_ns = min(change.time_ns for change in changes) - ABOUT_NS
        wanted = {change.path for change in changes}
        packages = [
            *self._list_dpkg(since_ns, wanted),
            *self._list_rpm_packages(since_ns, wanted),
            *self._list_pacman(since_ns, wanted),
        ]
        gone = {change.package for change in changes if change.after is None}
        held = {one.name: self._list_held(one, wanted) for one in self._list_installed() if one.name in gone}
        found = {}
        for change in changes:
            label = self._find(change, packages, held)
            if label is not None:
                found[change.path] = label
        return found

    def read_versions(self, names: Collection[str]) -> dict[str, str]:
        """Versions of these packages, as far as they are installed: dpkg knows a version once it is done with it."""
        versions = self._read_status(names)[0]
        for line in self._ask_rpm("-q", "--qf", "%{NAME}\\t%{VERSION}-%{RELEASE}\\n", "--", *names):
            name, separator, version = os.fsdecode(line).partition("\t")
            if separator:
                versions[name] = version
        return versions | {one.name: one.version for one in self._list_installed() if one.name in names}

    def list_owners(self, is_wanted: Callable[[bytes], bool]) -> dict[bytes, str]:
        """Package names of those paths that are wanted, as far as a database holds them."""
        owners: dict[bytes, str] = {}
        for listing in (self._root / _DPKG / "info").glob("*.list"):
            name = listing.stem
            for path in self._read_list(listing):
                if is_wanted(path):
                    owners[path] = name
        owners.update(self._list_owned(is_wanted))
        return owners | {path: name for name, path, _ in self._ask_rpm_files(()) if is_wanted(path)}

    def _find(self, change: Change, packages: Sequence[_Package], held: Mapping[str, Collection[bytes]]) -> str | None:
        if change.after is None:
            return self._find_removed(change, packages, held)
        for package in packages:
            is_near = abs(package.time_ns - change.time_ns) <= ABOUT_NS
            if is_near and change.path in package.files and package.has_brought(change, change.after):
                return package.label
        return None

    def _find_removed(
        self, change: Change, packages: Sequence[_Package], held: Mapping[str, Collection[bytes]]
    ) -> str | None:
        """A file goes with its package, or with the version that had it; `held` is what pacman's packages have."""
        name = change.package
        if name is None or abs(self.read_time_ns() - change.time_ns) > ABOUT_NS:
            return None
        new = next((package for package in packages if package.name == name), None)
        if new is not None:
            return None if change.path in new.files else new.label
        listing = self._root / _DPKG / "info" / f"{name}.list"
        if listing.exists():
            return None if change.path in set(self._read_list(listing)) else name
        if name in held:
            return None if change.path in held[name] else name
        if any((self._root / place).is_dir() for place in (f"{_DPKG}/info", _PACMAN)):
            return name
        return None if any(one == name for one, _, _ in self._ask_rpm_files((name,))) else name

    # --- dpkg -------------------------------------------------------------------------------------------------------

    def _list_dpkg(self, since_ns: int, wanted: Collection[bytes]) -> Iterator[_Package]:
        info = self._root / _DPKG / "info"
        fresh: dict[str, tuple[int, set[bytes]]] = {}
        for listing in info.glob("*.list"):
            time_ns = _read_time_ns(listing)
            if time_ns >= since_ns:
                fresh[listing.stem] = (time_ns, {path for path in self._read_list(listing) if path in wanted})
        if not fresh:
            return
        versions, conffiles = self._read_status(fresh)
        for name, (time_ns, paths) in fresh.items():
            sums = self._read_md5sums(info / f"{name}.md5sums", paths) | {
                path: checksum for path, checksum in conffiles.get(name, {}).items() if path in paths
            }
            yield _Package(name, time_ns, {path: sums.get(path) for path in paths}, versions.get(name, ""))

    def _read_list(self, listing: Path) -> Iterator[bytes]:
        for path in listing.read_bytes().splitlines():
            yield self._spell(path)

    def _read_md5sums(self, listing: Path, paths: Collection[bytes]) -> dict[bytes, bytes | None]:
        """`checksum  path` a line, without the first slash (deb-md5sums(5))."""
        sums: dict[bytes, bytes | None] = {}
        if not paths or not listing.is_file():
            return sums
        for line in listing.read_bytes().splitlines():
            checksum, _, name = line.partition(b"  ")
            path = self._spell(b"/" + name)
            if path in paths:
                sums[path] = _read_hex(checksum)
        return sums

    def _read_status(self, names: Collection[str]) -> tuple[dict[str, str], dict[str, dict[bytes, bytes | None]]]:
        """Versions and configuration files of these packages, whose lists may be named `name:architecture`."""
        versions: dict[str, str] = {}
        conffiles: dict[str, dict[bytes, bytes | None]] = {}
        status = self._root / _DPKG / "status"
        if not status.is_file():
            return versions, conffiles
        package, is_conffile = "", False
        keys: list[str] = []
        with status.open("rb") as lines:
            for line in lines:
                if line.startswith(b" "):
                    parts = line.split()
                    if is_conffile and len(parts) > 1:
                        for key in keys:
                            conffiles.setdefault(key, {})[self._spell(parts[0])] = _read_hex(parts[1])
                    continue
                field, _, value = line.rstrip(b"\n").partition(b": ")
                is_conffile = field == b"Conffiles:"
                if field == b"Package":
                    package, keys = os.fsdecode(value), [os.fsdecode(value)]
                elif field == b"Architecture":
                    keys = [key for key in (package, f"{package}:{os.fsdecode(value)}") if key in names]
                elif field == b"Version":
                    versions.update(dict.fromkeys(keys, os.fsdecode(value)))
        return versions, conffiles

    def _spell(self, path: bytes) -> bytes:
        """As the file system has it: of merged folders the list may have the former name."""
        for link in self._linked:
            if path.startswith(link):
                return b"/usr" + path
        return path

    # --- rpm --------------------------------------------------------------------------------------------------------

    def _list_rpm_packages(self, since_ns: int, wanted: Collection[bytes]) -> Iterator[_Package]:
        times: dict[str, int] = {}
        versions: dict[str, str] = {}
        for line in self._ask_rpm("-qa", "--qf", "%{INSTALLTIME}\\t%{NAME}\\t%{VERSION}-%{RELEASE}\\n"):
            seconds, name, version = map(os.fsdecode, line.split(b"\t"))
            time_ns = int(seconds) * 1_000_000_000
            if time_ns + 1_000_000_000 >= since_ns:
                times[name], versions[name] = time_ns, version
        if not times:
            return
        files: dict[str, dict[bytes, bytes | None]] = {name: {} for name in times}
        for owner, path, digest in self._ask_rpm_files(tuple(times)):
            if path in wanted and owner in files:
                files[owner][path] = digest
        for package, installed_ns in times.items():
            yield _Package(package, installed_ns, files[package], versions[package])

    def _ask_rpm_files(self, names: Sequence[str]) -> Iterator[tuple[str, bytes, bytes | None]]:
        """Name of the package, path and digest of each file; of all packages where none is named."""
        form = "[%{=NAME}\\t%{FILEDIGESTS}\\t%{FILENAMES}\\n]"
        which = ("--", *names) if names else ("-a",)
        for line in self._ask_rpm("-q", "--qf", form, *which):
            name, _, rest = line.partition(b"\t")
            digest, _, path = rest.partition(b"\t")
            if path:
                yield os.fsdecode(name), self._spell(path), _read_hex(digest)

    def _ask_rpm(self, *arguments: str) -> list[bytes]:
        """What rpm prints, line by line; nothing where there is no database of it. Raises ValueError where it fails."""
        database = next((name for name in _list_rpm() if (self._root / name).is_file()), None)
        if database is None or not os.access(_RPM_PROGRAM, os.X_OK):
            return []
        place = ("--root", str(self._root), "--dbpath", f"/{os.path.dirname(database)}")  # noqa: PTH120 - a text
        command = [_RPM_PROGRAM, *place, *arguments]
        done = subprocess.run(command, capture_output=True, timeout=_RPM_TIMEOUT_S, check=False)  # noqa: S603 - no shell
        if done.returncode < 0 or (done.returncode and not done.stdout):  # 1, and words, where a package is not there
            raise ValueError(f"rpm ended with status {done.returncode}")
        return done.stdout.splitlines()

    # --- pacman -----------------------------------------------------------------------------------------------------

    def _read_pacman_time_ns(self) -> int:
        """Its log has a line for each package that it is done with; the folder changes when it begins with one."""
        return max(_read_time_ns(self._root / name) for name in (_PACMAN, _PACMAN_LOG))

    def _list_installed(self) -> Iterator[Installed]:
        if (self._root / _PACMAN).is_dir():
            from watchdogd.pacman import list_installed  # noqa: PLC0415 - memory only where it is used

            yield from list_installed(self._root)

    def _list_pacman(self, since_ns: int, wanted: Collection[bytes]) -> Iterator[_Package]:
        """`NAME.pacnew` is what the package brought for a configuration file that somebody had changed."""
        named = {path: path.removesuffix(_PACNEW) for path in wanted}
        names = set(wanted).union(named.values())
        for one in self._list_installed():
            if one.time_ns < since_ns:
                continue
            try:
                held, records = one.read(names)
            except FileNotFoundError:
                continue  # it is only just beginning, or was replaced just now
            except (OSError, ValueError) as error:
                self._troubles.append(f"{one.name}: {error}")
                continue
            files = {path: path if path in held else name for path, name in named.items() if {path, name} & held}
            known = {path: records[name] for path, name in files.items() if name in records}
            yield _Package(one.name, one.time_ns, dict.fromkeys(files), one.version, known)

    def _list_held(self, one: Installed, wanted: Collection[bytes]) -> Collection[bytes]:
        """Those of the paths that a package has; all where that cannot be read."""
        try:
            return {path for path in one.list_paths() if path in wanted}
        except FileNotFoundError:
            return wanted
        except (OSError, ValueError) as error:
            self._troubles.append(f"{one.name}: {error}")
            return wanted

    def _list_owned(self, is_wanted: Callable[[bytes], bool]) -> Iterator[tuple[bytes, str]]:
        for one in self._list_installed():
            try:
                yield from ((path, one.name) for path in one.list_paths() if is_wanted(path))
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                self._troubles.append(f"{one.name}: {error}")


def _list_rpm() -> list[str]:
    return [f"{folder}/{name}" for folder in _RPM for name in _RPM_FILES]


def _read_time_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _read_hex(text: bytes) -> bytes | None:
    """A checksum, None where the text is none."""
    try:
        return bytes.fromhex(text.decode("ascii")) or None
    except ValueError:
        return None


def _is_locked(path: Path) -> bool:
    """Whether another process holds a lock on it; asking takes none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, *_ = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, asked))
    except OSError:
        return False
    finally:
        os.close(fd)
    return bool(kind != fcntl.F_UNLCK)
