"""One look at one file: its attributes and the hash of its content, without being led astray or held up.

A file is opened by its folder's descriptor without following a link (O_PATH), and what is read is that very inode: no
exchange between the steps can put another one in its place. Nothing but a regular file is ever opened for reading, so
no FIFO blocks and no device acts.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import time
from typing import TYPE_CHECKING, Final

import msgspec

from watchdogd.file_states import DEVICE, FIFO, FILE, FOLDER, LINK, SOCKET, FileState

if TYPE_CHECKING:
    from collections.abc import Callable

UNREADABLE, TOO_LARGE, RESTLESS = "unreadable", "too_large", "restless"

_CHUNK: Final = 1 << 17
_TRIES: Final = 3
_CAPABILITY: Final = "security.capability"
_XATTRS_KEPT: Final = 32
_KINDS: Final = {
    stat.S_IFREG: FILE,
    stat.S_IFDIR: FOLDER,
    stat.S_IFLNK: LINK,
    stat.S_IFIFO: FIFO,
    stat.S_IFSOCK: SOCKET,
    stat.S_IFBLK: DEVICE,
    stat.S_IFCHR: DEVICE,
}
GONE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
"""What opening says of a path that is not there, or no longer leads through folders alone."""


class Look(msgspec.Struct, frozen=True, gc=False):
    """What a look found. `trouble` is empty, or why there is no hash, or RESTLESS: it may be of no one moment."""

    state: FileState
    md5: bytes | None = None
    """Where it was asked for: packages' own checksums are often MD5."""
    trouble: str = ""


class Throttle:
    """Holds its thread to a share of one core by sleeping; `share` 1 never sleeps."""

    def __init__(
        self,
        share: float,
        *,
        cpu_s: Callable[[], float] = time.thread_time,
        wall_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._share = share
        self._cpu_s = cpu_s
        self._wall_s = wall_s
        self._sleep = sleep
        self._cpu_from, self._wall_from = cpu_s(), wall_s()

    def rest(self) -> None:
        """Sleep as long as what was used since the last rest is more than the share."""
        if self._share >= 1:
            return
        used_s = self._cpu_s() - self._cpu_from
        owed_s = used_s / self._share - (self._wall_s() - self._wall_from)
        if owed_s < _LEAST_REST_S and used_s < _LEAST_REST_S:
            return
        if owed_s > 0:
            self._sleep(owed_s)
        self._cpu_from, self._wall_from = self._cpu_s(), self._wall_s()


_LEAST_REST_S: Final = 0.005


class Looker:
    """Looks at files; `max_bytes` is the most that is hashed of one."""

    def __init__(self, *, max_bytes: int, throttle: Throttle | None = None, md5: bool = False) -> None:
        self._max_bytes = max_bytes
        self._throttle = throttle
        self._md5 = md5
        self.hashed_bytes = 0

    def look(self, folder: int, name: bytes, known: FileState | None = None) -> Look:
        """Look at a name in an open folder. Raises OSError where nothing can be found out of it (`GONE`: not there).

        Where the file system says the same as of `known`, that is returned and nothing is read.
        """
        handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            return self._look_at(handle, known)
        finally:
            os.close(handle)

    def look_path(self, path: bytes) -> Look | None:
        """Look at an absolute path, of whose folders none may be a link; None where it is not there.

        Raises OSError where nothing can be found out.
        """
        try:
            folder = open_folder(os.path.dirname(path))  # noqa: PTH120 - bytes
            try:
                return self.look(folder, os.path.basename(path) or b".")  # noqa: PTH119 - bytes
            finally:
                os.close(folder)
        except OSError as error:
            if error.errno in GONE:
                return None
            raise

    def _look_at(self, handle: int, known: FileState | None) -> Look:
        for _ in range(_TRIES):
            status = os.fstat(handle)
            state = _read_status(status)
            if known is not None and known.looks_like(state):
                return Look(msgspec.structs.replace(known, device=state.device))
            if state.kind == LINK:
                return Look(msgspec.structs.replace(state, link_target=os.readlink(b"", dir_fd=handle)))
            found = self._read(handle, state)
            after = os.fstat(handle)
            if (after.st_ctime_ns, after.st_size) == (status.st_ctime_ns, status.st_size):
                return found
        return msgspec.structs.replace(found, trouble=found.trouble or RESTLESS)

    def _read(self, handle: int, state: FileState) -> Look:
        """Extended attributes and content of what is no link."""
        place = f"/proc/self/fd/{handle}"
        capabilities, xattrs = _read_xattrs(place)
        state = msgspec.structs.replace(state, capabilities=capabilities, xattrs=xattrs)
        if state.kind != FILE:
            return Look(state)
        if state.size > self._max_bytes:
            return Look(state, trouble=TOO_LARGE)
        try:
            file = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        except OSError:
            return Look(state, trouble=UNREADABLE)
        try:
            return self._hash(file, state)
        except OSError:
            return Look(state, trouble=UNREADABLE)
        finally:
            os.close(file)

    def _hash(self, file: int, state: FileState) -> Look:
        sha256 = hashlib.sha256()
        md5 = hashlib.md5(usedforsecurity=False) if self._md5 else None
        left = self._max_bytes  # it may grow while it is read
        while left > 0 and (data := os.read(file, min(_CHUNK, left))):
            sha256.update(data)
            if md5 is not None:
                md5.update(data)
            left -= len(data)
            self.hashed_bytes += len(data)
            if self._throttle is not None:
                self._throttle.rest()
        return Look(msgspec.structs.replace(state, sha256=sha256.digest()), None if md5 is None else md5.digest())


def open_folder(path: bytes) -> int:
    """Descriptor of a folder by its absolute path, link by link refused. Raises OSError (`GONE`: not there)."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    current = os.open(b"/", flags)
    for part in path.split(b"/"):
        if not part:
            continue
        try:
            below = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=current)
        finally:
            os.close(current)
        current = below
    return current


def find_folder_time_ns(path: bytes) -> int:
    """When something last changed in the nearest folder above a path that is there: nobody can forge a ctime (ns)."""
    while path != b"/":
        path = os.path.dirname(path)  # noqa: PTH120 - bytes
        with contextlib.suppress(OSError):
            return os.stat(path, follow_symlinks=False).st_ctime_ns  # noqa: PTH116 - bytes
    return 0


def list_children(path: bytes) -> set[bytes]:
    """Paths in a folder, of which no part is a link; none where it cannot be read."""
    try:
        handle = open_folder(path)
        try:
            folder = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=handle)
        finally:
            os.close(handle)
    except OSError:
        return set()
    try:
        return {(b"" if path == b"/" else path) + b"/" + os.fsencode(name) for name in os.listdir(folder)}  # noqa: PTH208
    finally:
        os.close(folder)


def _read_status(status: os.stat_result) -> FileState:
    return FileState(
        kind=_KINDS.get(stat.S_IFMT(status.st_mode), DEVICE),
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        ctime_ns=status.st_ctime_ns,
        device=status.st_dev,
        inode=status.st_ino,
    )


def _read_xattrs(place: str) -> tuple[bytes | None, dict[str, bytes]]:
    """`security.capability`, and of the others name and digest. What a file system does not tell is not there."""
    try:
        names = os.listxattr(place)
    except OSError:
        return None, {}
    capabilities = None
    xattrs = {}
    for name in sorted(names)[:_XATTRS_KEPT]:
        try:
            value = os.getxattr(place, name)
        except OSError:
            continue
        if name == _CAPABILITY:
            capabilities = value
        else:
            xattrs[name.encode("utf-8", "backslashreplace").decode()] = hashlib.sha256(value).digest()[:16]
    return capabilities, xattrs
