"""Walks over all watched files, folder by folder, by descriptors: no link on the way leads it elsewhere."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final

import msgspec

from watchdogd.collect.file_look import GONE, Look, Looker, Throttle
from watchdogd.collect.file_paths import is_within, split_path
from watchdogd.file_states import FileState, is_setgid_program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from watchdogd.collect.file_paths import Selection

_DEPTH: Final = 256
_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_GETXATTR_QUIET: Final = frozenset({errno.ENODATA, errno.ENOTSUP, *GONE, errno.EACCES, errno.EPERM})


class Found(msgspec.Struct, frozen=True, gc=False):
    """A watched path; `look` is None where nothing could be found out."""

    path: bytes
    look: Look | None


class Walk:
    """One walk. What it left out is counted in it."""

    def __init__(
        self,
        selection: Selection,
        closed: frozenset[bytes],
        *,
        looker: Looker,
        throttle: Throttle | None = None,
        known: Callable[[bytes], FileState | None] = lambda _: None,
    ) -> None:
        """`closed` are mount points that are not entered; `known` says what a path was like, to save reading it."""
        self._selection = selection
        self._closed = closed
        self._looker = looker
        self._throttle = throttle
        self._known = known
        self.unreadable = 0
        """Files and folders of which nothing, or not all, could be found out."""
        self.skipped_mounts: set[bytes] = set()

    def list_folders(self) -> Iterator[bytes]:
        """Every folder in which something watched is or may come to be; names only, no file is looked at."""
        for path, _, _ in self._visit():
            yield path

    def run(self) -> Iterator[Found]:
        """Every watched path with what it is like now. Never raises."""
        for path, folder, names in self._visit():
            is_covered = self._selection.covers(path)
            for name in names:
                child = _join(path, name)
                if self._wants(child, is_covered=is_covered):
                    found = self._look(folder, name, child)
                    if found is not None:
                        yield found

    def find_special(self, roots: tuple[bytes, ...]) -> Iterator[Found]:
        """Below further folders, programs that give rights to whoever runs them, but those that are watched anyway."""
        pending = [root for root in roots if not is_within(root, self._closed)]
        while pending:
            path = pending.pop()
            try:
                folder = _open_real(path)
            except OSError:
                continue
            try:
                yield from self._find_special_in(path, folder, pending)
            finally:
                os.close(folder)

    def _find_special_in(self, path: bytes, folder: int, pending: list[bytes]) -> Iterator[Found]:
        with os.scandir(folder) as entries:
            for entry in entries:
                if self._throttle is not None:
                    self._throttle.rest()
                name = os.fsencode(entry.name)
                child = _join(path, name)
                try:
                    if entry.is_dir(follow_symlinks=False):
                        if self._may_enter(child):
                            pending.append(child)
                    elif entry.is_file(follow_symlinks=False) and _is_special(folder, name, entry):
                        found = None if self._selection.covers(child) else self._look(folder, name, child)
                        if found is not None:
                            yield found
                except OSError:
                    continue

    def _visit(self) -> Iterator[tuple[bytes, int, list[bytes]]]:
        """Folders that are watched or lead on: path, descriptor (until the next one), and what names are in it."""
        pending = [b"/"]
        while pending:
            path = pending.pop()
            try:
                folder = _open_real(path)
            except OSError as error:
                self.unreadable += error.errno not in GONE
                continue
            try:
                names, below = self._list(path, folder)
                yield path, folder, names
            finally:
                os.close(folder)
            is_covered = self._selection.covers(path)
            for name in below:
                child = _join(path, name)
                is_wanted = self._wants(child, is_covered=is_covered) or self._selection.leads(child)
                if is_wanted and self._may_enter(child):
                    pending.append(child)

    def _wants(self, child: bytes, *, is_covered: bool) -> bool:
        """Whether a path is watched; what lies in a watched folder is, unless it is left out."""
        if is_covered:
            return not self._selection.excludes(split_path(child))
        return self._selection.covers(child)

    def _list(self, path: bytes, folder: int) -> tuple[list[bytes], list[bytes]]:
        """Names in a folder that may matter, and which of them are folders."""
        named = None if self._selection.covers(path) else self._selection.list_next(path)
        try:
            if named is not None:
                return named, [name for name in named if _is_folder(folder, name)]
            with os.scandir(folder) as entries:
                found = sorted((os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries)
        except OSError:
            self.unreadable += 1
            return [], []
        below = [name for name, is_folder in found if is_folder] if path.count(b"/") < _DEPTH else []
        return [name for name, _ in found], below

    def _may_enter(self, path: bytes) -> bool:
        if path in self._closed:
            self.skipped_mounts.add(path)
            return False
        return True

    def _look(self, folder: int, name: bytes, path: bytes) -> Found | None:
        if self._throttle is not None:
            self._throttle.rest()
        if path in self._closed:  # its root is what the mount shows, and asking may hang
            return None
        try:
            look = self._looker.look(folder, name, self._known(path))
        except OSError as error:
            if error.errno in GONE:
                return None
            self.unreadable += 1
            return Found(path, None)
        return Found(path, look)


def _join(folder: bytes, name: bytes) -> bytes:
    return folder + name if folder == b"/" else folder + b"/" + name


def _is_special(folder: int, name: bytes, entry: os.DirEntry[str]) -> bool:
    mode = entry.stat(follow_symlinks=False).st_mode
    if mode & stat.S_ISUID or is_setgid_program(stat.S_IMODE(mode)):
        return True
    if not mode & 0o111:
        return False
    try:
        os.getxattr(b"/proc/self/fd/%d/%b" % (folder, name), "security.capability", follow_symlinks=False)
    except OSError as error:
        if error.errno not in _GETXATTR_QUIET:
            raise
        return False
    return True


def _open_real(path: bytes) -> int:
    """Open a folder by its whole path, of which no part may be a link."""
    current = os.open(b"/", _OPEN)
    for part in split_path(path):
        try:
            below = os.open(part, _OPEN, dir_fd=current)
        finally:
            os.close(current)
        current = below
    return current


def _is_folder(folder: int, name: bytes) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False
