"""Who acted upon which file lately: a small memory of audit's events, so that a changed file has a name to it.

A file is known again by its path or by device and inode: programs that name it relative to an open folder leave no path
in the log. Nobody is named for a change at another moment.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from watchdogd.entities import LazyViews
from watchdogd.file_states import Deed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from watchdogd.entities import AuditRecord, Event, FieldMap, View

KEYS: Final = 4_096
"""Paths and inodes that are remembered: those acted upon last, in whatever order that is heard of. What the kernel's
socket has lost comes seconds later from the log, thousands of files where a package is unpacked."""
SLACK: Final = 256
"""More than that are remembered until they are sorted out."""
DEEDS_OF_ONE: Final = 8
BEFORE_MS: Final = 10_000
"""A file is opened for writing, and written to the end, within this time..."""
AFTER_MS: Final = 1_500
"""...and a change's time may lie so much before what audit says of it: clocks of the kernel are coarse."""

_CATEGORIES: Final = frozenset({"file_event", "file_change", "file_delete", "file_rename"})
_MERGED: Final = ("/bin/", "/sbin/", "/lib/", "/lib32/", "/lib64/", "/libx32/")
_ACTOR: Final = (
    *("Image", "CommandLine", "CurrentDirectory", "User", "ProcessId", "LogonId", "TerminalSessionId", "ParentImage"),
    *("ParentCommandLine", "ParentProcessId", "ParentUser", "AncestorImages", "Context", "ImagePackaged"),
)
_UNKNOWN_PATH: Final = "<fd "
_TIME: Final = operator.attrgetter("time_ms")


class RecentDeeds:
    """Not for several threads."""

    def __init__(self, is_wanted: Callable[[str], bool], *, merged: Sequence[str] = _MERGED) -> None:
        """`is_wanted` says which paths may be asked about; `merged` folders are links to their namesakes in /usr."""
        self.is_wanted = is_wanted
        self._merged = tuple(merged)
        self._mattered: dict[str, bool] = {}
        self._done: dict[str, tuple[Deed, ...]] = {}
        self._oldest_ms: int | None = None

    def __len__(self) -> int:
        """How many paths and inodes are remembered."""
        return len(self._done)

    def note(self, event: Event, decoded: Event | None = None) -> None:
        """Remember what an enriched event did to files that may be asked about; `decoded` is what it was before."""
        if event.call is not None and (self._oldest_ms is None or event.id.time_ms < self._oldest_ms):
            self._oldest_ms = event.id.time_ms
        categories = event.categories
        if event.call is None if categories is None else categories.isdisjoint(_CATEGORIES):
            return
        views = event.views if decoded is None else decoded.views
        outline = views.outline if isinstance(views, LazyViews) else None  # of what was decoded it costs less
        if outline is not None and not any(self._may_matter(path) for path in _list_paths(outline)):
            return
        for view in event.views:
            if view.category in _CATEGORIES:
                self._note_view(event, view)

    def take_oldest_ms(self) -> int | None:
        """The time of the oldest system call that was noted since the last call; None where none was."""
        oldest_ms, self._oldest_ms = self._oldest_ms, None
        return oldest_ms

    def find(self, keys: Sequence[str], time_ms: int) -> Deed | None:
        """Who acted upon one of these (paths, or what `name_inode` gives) at that moment, the nearest in time."""
        found = [
            done for key in keys for done in self._done.get(key, ()) if -AFTER_MS <= time_ms - done.time_ms <= BEFORE_MS
        ]
        if not found:
            return None
        nearest = min(found, key=lambda done: (abs(time_ms - done.time_ms), done.time_ms))
        others = {str(done.fields.get("Image")): None for done in found if _tell(done) != _tell(nearest)}
        return replace(nearest, others=tuple(others))

    def _note_view(self, event: Event, view: View) -> None:
        paths = [self._spell(path) for path in _list_paths(view.fields)]
        if paths and not any(path.startswith(_UNKNOWN_PATH) or self.is_wanted(path) for path in paths):
            return  # a file that is open already may have no path at all
        fields: FieldMap = {name: view.fields[name] for name in _ACTOR if name in view.fields}
        done = Deed(event.id.time_ms, event.process, event.lineage, fields)
        for key in (*paths, *_list_inodes(event.records)):
            known = self._done.pop(key, ())
            if done not in known:
                known = tuple(sorted((*known, done), key=_TIME)[-DEEDS_OF_ONE:])
            self._done[key] = known
        if len(self._done) > KEYS + SLACK:
            latest = sorted(self._done.items(), key=lambda entry: entry[1][-1].time_ms)[-KEYS:]
            self._done = dict(latest)

    def _may_matter(self, path: str) -> bool:
        known = self._mattered.get(path)
        if known is None:
            if len(self._mattered) >= KEYS:
                self._mattered.clear()
            spelt = self._spell(path)
            known = self._mattered[path] = not spelt.startswith("/") or self.is_wanted(spelt)
        return known

    def forget_answers(self) -> None:
        """Ask `is_wanted` anew from now on."""
        self._mattered.clear()

    def _spell(self, path: str) -> str:
        return f"/usr{path}" if path.startswith(self._merged) else path


def name_inode(major: int, minor: int, inode: int) -> str:
    """A file by device and inode, as PATH records have them."""
    return f"{major:02x}:{minor:02x} {inode}"


def _list_inodes(records: Sequence[AuditRecord]) -> Iterator[str]:
    for record in records:
        if record.type == "PATH" and record.get("nametype") != "PARENT":
            inode, device = record.get("inode"), record.get("dev")
            if inode and device:
                yield f"{device} {inode}"


def _list_paths(fields: FieldMap) -> Iterator[str]:
    for name in ("TargetFilename", "SourceFilename"):
        value = fields.get(name)
        for path in value if isinstance(value, tuple) else (value,):
            if isinstance(path, str):
                yield path


def _tell(done: Deed) -> object:
    return None if done.process is None else (done.process.pid, done.process.exe)
