"""Changes of files between the look that found them and the event that tells them.

A change waits for the audit event that says who did it, and, while a package manager is at work, for the database that
says whether it was the package's. Until its event has been judged and committed the baseline keeps the former state: a
crash meanwhile has it found again by the next scan, under the same id.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import subprocess
from itertools import islice
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from watchdogd.collect.file_integrity import build_event, build_package_event
from watchdogd.collect.package_changes import ABOUT_NS, Change, PackageChanges
from watchdogd.file_states import Deed, FileRow, find_differences, list_gained, show_path

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from watchdogd.collect.file_look import Look
    from watchdogd.entities import Event, EventId
    from watchdogd.ports import Clock
    from watchdogd.telemetry import Counters

log = logging.getLogger("watchdogd.service")

FOUND: Final = "collect_integrity_changes_total"
MERGED: Final = "collect_integrity_merged_total"
TOLD: Final = "collect_integrity_events_total"
PACKAGED: Final = "collect_integrity_packaged_total"
UNKNOWN: Final = "collect_integrity_unknown_actors_total"
PACKAGE_ERRORS: Final = "collect_integrity_package_errors_total"

NEAR_MS: Final = 100
"""Who acted upon a file so near to its change did it; before somebody else is named, that one is waited for."""
MERGED_WAITS: Final = 3
"""So many waits at most, where a file changes again meanwhile."""
BEHIND_S: Final = 30.0
"""Where audit is behind, its events older than the change, it is waited for this much longer at most."""
SETTLED_S: Final = 3.0
"""So long after a package manager's last word its database is complete..."""
QUIET_S: Final = 5.0
"""...and so long after the last file of packages their summary is made,"""
SUMMARY_S: Final = 900.0
"""but no later than this after the first one,"""
SUMMARY_FILES: Final = 2_000
"""or when it is of so many files: each takes 1.5 kB until then."""
RELEASED_AT_ONCE: Final = 512
"""So many are judged and committed together at most: what they make waits in memory."""
_ASK_EVERY_S: Final = 1.0
_ASKED_FOR_SUMMARY: Final = 200


class _Held(msgspec.Struct):
    """A change that waits."""

    change: Change
    since_s: float
    changed_s: float
    behind_s: float = -math.inf
    """When audit was last heard to be behind it."""
    deed: Deed | None = None
    reverted: bool = False
    intact: bool = False
    """A package has just brought it so, which is told by itself all the same: it gives new rights."""
    row: FileRow | None = None
    """What the baseline is to hold, where that is not the state after the change."""


class Terms(msgspec.Struct, frozen=True):
    """How long a change waits, in seconds: for audit, and for a package manager that is at work."""

    who_wait_s: float = 3.0
    package_wait_s: float = 60.0


class Deeds(Protocol):
    """What audit says of who did what."""

    def find(self, keys: Sequence[str], time_ms: int) -> Deed | None:
        """Who acted upon one of these, paths or what `name_inode` makes of major, minor and inode, at that time."""

    def take_oldest_ms(self) -> int | None:
        """The time of the oldest event that was heard of since the last call; None where none was."""


class FileChanges:
    """Holds changes and makes events of them. Called on the loop's thread alone."""

    def __init__(
        self,
        terms: Terms,
        packages: PackageChanges,
        deeds: Deeds,
        name_user: Callable[[int], str | None],
        name_inode: Callable[[int, int, int], str],
        counters: Counters,
        clock: Clock,
    ) -> None:
        """`name_inode` makes of major, minor and inode what `deeds` know a file by, too."""
        self._terms = terms
        self._packages = packages
        self._deeds = deeds
        self._name_user = name_user
        self._name_inode = name_inode
        self._counters = counters
        self._clock = clock
        self._held: dict[bytes, _Held] = {}
        self._of_packages: dict[bytes, tuple[_Held, str]] = {}
        self._packages_since_s = self._packages_last_s = self._asked_s = 0.0
        self._early: list[Event] = []
        self._telling: dict[EventId, tuple[FileRow, ...]] = {}
        self._ready: list[FileRow] = []
        self._unwritten: dict[bytes, FileRow] = {}
        for name in (FOUND, MERGED, TOLD, PACKAGED, UNKNOWN, PACKAGE_ERRORS):
            counters.add(name, 0)

    def __len__(self) -> int:
        """How many changes wait."""
        return len(self._held) + len(self._of_packages)

    def count_waiting(self) -> int:
        """How many of them may yet turn out to be anybody's: those of packages are bounded by themselves."""
        return len(self._held)

    # --- in ---------------------------------------------------------------------------------------------------------

    def find_latest(self, path: bytes) -> FileRow | None:
        """What a path was like when it was last told of and the baseline does not hold it yet; None: ask that."""
        return self._unwritten.get(path)

    def take(
        self, path: bytes, row: FileRow | None, look: Look | None, time_ns: int, package: str | None = None
    ) -> bool:
        """Take what a path is like now (`look` None: gone) beside what is known of it; False where that is no change.

        `time_ns` is when it was deleted, as far as is known; else the ctime counts. What came before and still waits
        becomes one change with it.
        """
        before = None if row is None else row.state
        after = None if look is None else look.state
        md5 = None if look is None else look.md5
        waiting = self._held.get(path)
        if waiting is not None:
            return self._merge(waiting, look)
        packaged = self._of_packages.get(path)
        if packaged is not None:
            former = packaged[0].change.after
            if former == after or (former is not None and after is not None and not find_differences(former, after)):
                return False
            before = former
            self._early += self._release_packages()
        if before is None and after is None:
            return False
        if before is not None and after is not None and not find_differences(before, after):
            return False
        known = None if row is None else row.package
        changed_ns = time_ns if after is None else min(after.ctime_ns, time_ns)
        change = Change(path, before, after, known or package, md5, changed_ns)
        self._counters.add(FOUND)
        now_s = self._clock.monotonic_s()
        self._held[path] = _Held(change, now_s, now_s)
        return True

    def _merge(self, waiting: _Held, look: Look | None) -> bool:
        change = waiting.change
        after = None if look is None else look.state
        if change.after == after:
            return False
        self._counters.add(MERGED)
        package_row = FileRow(change.path, after, change.package)
        is_back = (change.before is None and after is None) or (
            change.before is not None and after is not None and not find_differences(change.before, after)
        )
        if is_back:
            waiting.reverted, waiting.row = True, package_row
            return True
        waiting.reverted, waiting.row, waiting.deed, waiting.intact = False, None, None, False
        waiting.changed_s = self._clock.monotonic_s()
        waiting.change = msgspec.structs.replace(
            change,
            after=after,
            md5=None if look is None else look.md5,
            time_ns=change.time_ns if after is None else min(after.ctime_ns, self._clock.now_ms() * 1_000_000),
        )
        return True

    # --- out --------------------------------------------------------------------------------------------------------

    async def release(self, *, more_to_come: bool = False) -> list[Event]:
        """Events of what need wait no longer. What they tell is written to the baseline once they were judged.

        With `more_to_come` files are being looked at: the summary of packages waits for them.
        """
        now_s = self._clock.monotonic_s()
        self._note_lag(now_s)
        ready = list(islice((held for held in self._held.values() if self._has_waited(held, now_s)), RELEASED_AT_ONCE))
        events, self._early = self._early, []
        if not ready and not self._of_packages:
            return events
        changed_ns, busy = await asyncio.to_thread(self._look_at_packages)
        near = [one for one in ready if busy or changed_ns >= one.change.time_ns - ABOUT_NS]
        is_unsettled = busy or self._clock.now_ms() - changed_ns // 1_000_000 < SETTLED_S * 1000
        if near and now_s - self._asked_s >= _ASK_EVERY_S:
            self._asked_s = now_s
            asked = {held.change.path: held.change for held in near}
            explained = await asyncio.to_thread(self._explain, list(asked.values()))
            for path, label in explained.items():
                self._set_apart(asked[path], label, now_s)
        elif near:
            ready = [one for one in ready if one not in near]
        for held in ready:
            path = held.change.path
            if self._held.get(path) is not held:
                continue  # a package's, or changed again meanwhile
            if held in near and not held.intact and is_unsettled and now_s - held.since_s < self._terms.package_wait_s:
                continue
            del self._held[path]
            events.append(self._tell(held))
        is_unsettled = is_unsettled or more_to_come or len(ready) == RELEASED_AT_ONCE
        if self._is_summary_due(now_s, is_unsettled=is_unsettled):
            events += self._release_packages()
        return events

    def settle(self, event: Event) -> None:
        """The event was judged: what it tells goes to the baseline with the next commit."""
        self._ready += self._telling.pop(event.id, ())

    def list_ready(self) -> tuple[FileRow, ...]:
        """Rows for the next commit."""
        return tuple(self._ready)

    def forget(self, rows: Sequence[FileRow]) -> None:
        """These were committed; they are the first of those that were ready."""
        del self._ready[: len(rows)]
        for row in rows:
            if self._unwritten.get(row.path) is row:
                del self._unwritten[row.path]

    def _has_waited(self, held: _Held, now_s: float) -> bool:
        """Whether it is known who did it: at that very moment, or nobody nearer was heard of in time."""
        wait_s, time_ms = self._terms.who_wait_s, held.change.time_ns // 1_000_000
        if held.deed is None or abs(held.deed.time_ms - time_ms) > NEAR_MS:
            held.deed = self._find(held.change) or held.deed
        if held.deed is not None and abs(held.deed.time_ms - time_ms) <= NEAR_MS:
            return True
        if now_s - held.behind_s < wait_s and now_s - held.since_s < MERGED_WAITS * wait_s + BEHIND_S:
            return False
        return now_s - held.changed_s >= wait_s or now_s - held.since_s >= MERGED_WAITS * wait_s

    def _note_lag(self, now_s: float) -> None:
        """Audit is behind where it tells now of what was before a change that is known already."""
        oldest_ms = self._deeds.take_oldest_ms()
        if oldest_ms is None:
            return
        for held in self._held.values():
            if oldest_ms * 1_000_000 < held.change.time_ns:
                held.behind_s = now_s

    def _find(self, change: Change) -> Deed | None:
        state = change.after or change.before
        keys = [show_path(change.path)]
        if state is not None:
            keys.append(self._name_inode(os.major(state.device), os.minor(state.device), state.inode))
        return self._deeds.find(keys, change.time_ns // 1_000_000)

    def _look_at_packages(self) -> tuple[int, bool]:
        return self._packages.read_time_ns(), self._packages.is_busy()

    def _explain(self, changes: Sequence[Change]) -> dict[bytes, str]:
        explained = {}
        try:
            explained = self._packages.explain(changes)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            self._counters.add(PACKAGE_ERRORS)
            log.warning("file integrity: databases of packages cannot be read, each file is told by itself: %s", error)
        for trouble in self._packages.take_troubles():
            self._counters.add(PACKAGE_ERRORS)
            log.warning(
                "file integrity: a package's files are told by themselves, its record cannot be read: %s", trouble
            )
        return explained

    def _set_apart(self, change: Change, label: str, now_s: float) -> None:
        held = self._held.get(change.path)
        if held is None or held.change is not change:  # it has changed again meanwhile
            return
        name = label.partition(" ")[0]
        if list_gained(change.before, change.after):
            held.intact, held.change = True, msgspec.structs.replace(change, package=name)
            return
        del self._held[change.path]
        if not self._of_packages:
            self._packages_since_s = now_s
        self._packages_last_s = now_s
        held.change = msgspec.structs.replace(held.change, package=name, before=None, md5=None)
        if len(self._of_packages) >= _ASKED_FOR_SUMMARY:
            held.deed = None  # the summary does not ask it
        self._of_packages[change.path] = (held, label)

    def _is_summary_due(self, now_s: float, *, is_unsettled: bool) -> bool:
        if not self._of_packages:
            return False
        if len(self._of_packages) >= SUMMARY_FILES or now_s - self._packages_since_s >= SUMMARY_S:
            return True
        return not is_unsettled and now_s - self._packages_last_s >= QUIET_S

    def _release_packages(self) -> list[Event]:
        entries = list(self._of_packages.values())
        self._of_packages = {}
        if not entries:
            return []
        deed = next((held.deed for held, _ in entries[:_ASKED_FOR_SUMMARY] if held.deed is not None), None)
        names = self._name_packages([label for _, label in entries])
        event = build_package_event([(held.change, names[label]) for held, label in entries], deed)
        self._keep(event, tuple(_make_row(held) for held, _ in entries))
        self._counters.add(PACKAGED, len(entries))
        return [event]

    def _name_packages(self, labels: Sequence[str]) -> dict[str, str]:
        """Each label with the version that the database has by now."""
        names = {label: label.partition(" ")[0] for label in set(labels)}
        try:
            versions = self._packages.read_versions(set(names.values()))
        except (OSError, ValueError, subprocess.SubprocessError):
            versions = {}
        return {label: f"{name} {versions[name]}" if name in versions else label for label, name in names.items()}

    def _tell(self, held: _Held) -> Event:
        event = build_event(held.change, held.deed, self._name_user, reverted=held.reverted, intact=held.intact)
        self._keep(event, (_make_row(held),))
        self._counters.add(TOLD)
        if held.deed is None:
            self._counters.add(UNKNOWN)
        return event

    def _keep(self, event: Event, rows: tuple[FileRow, ...]) -> None:
        self._telling[event.id] = (*self._telling.get(event.id, ()), *rows)
        self._unwritten.update({row.path: row for row in rows})


def _make_row(held: _Held) -> FileRow:
    return held.row or FileRow(held.change.path, held.change.after, held.change.package)
