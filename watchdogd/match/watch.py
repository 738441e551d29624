"""Notices that rule files have changed: the kernel's word (inotify) wakes it, what the files' states say decides.

A look takes the state of every file (device, inode, size, times), whatever links lead to it. inotify only says when to
look, for it is blind across some mounts and for links whose target changes; a slow poll finds what it missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from watchdog import events
from watchdog.observers import Observer

from watchdogd.match.files import find_layers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from watchdog.observers.api import BaseObserver

    from watchdogd.telemetry import Counters

log = logging.getLogger("watchdogd.match")

POLL_S = 30.0
"""A look costs 8 ms: every 10 s it would be a quarter of all that an idle daemon may take."""
QUIET_S = 0.2
"""What comes at once is one change: so long nothing more must come..."""
MOST_S = 1.0
"""...but no longer than this is waited."""
WATCHES = 12
"""Each costs a thread or two; what is beyond them is polled."""
_LINKS = 40
_WAKING: list[type[events.FileSystemEvent]] = [
    events.FileCreatedEvent,
    events.FileModifiedEvent,
    events.FileMovedEvent,
    events.FileDeletedEvent,
    events.FileClosedEvent,
    getattr(events, "FileAttribEvent", events.FileModifiedEvent),  # of its own since watchdog 7
    events.DirCreatedEvent,
    events.DirMovedEvent,
    events.DirDeletedEvent,
]


class Target(NamedTuple):
    """A folder to watch: all below it, or (not recursive) only some names in it."""

    path: Path
    recursive: bool


Targets: TypeAlias = "dict[Target, frozenset[tuple[int, int] | str]]"


class Look(NamedTuple):
    """How the files are now: `fingerprint` is equal where nothing has changed."""

    fingerprint: str
    targets: Targets
    """What to watch to hear of the next change; each with the folders or the names that it stands for."""


def look(folders: Sequence[Path], files: Sequence[Path]) -> Look:
    """Take the state of all rule files below the folders, and of further files. Never raises."""
    layers, problems = find_layers(folders)
    paths = [path for layer in layers for path in layer]
    names: dict[Path, set[str]] = {}
    below: dict[Path, set[tuple[int, int]]] = {}
    for folder in folders:
        below.setdefault(_trace(folder, names), set())
    for path in files:
        _trace(path, names)
    for parent in dict.fromkeys(path.parent for path in paths):
        _find_root(_trace(parent, {}), below, parent, names).add(_identify(parent))
    for path in paths:
        if path.is_symlink():
            _trace(path, names)
    lines = [str(problem) for problem in problems]
    lines += [f"{os.fsencode(path)!r} {_read_state(path)}" for path in (*paths, *files)]
    targets: Targets = {
        Target(root, recursive=True): frozenset({_identify(root), *found}) for root, found in below.items()
    }
    targets |= {Target(path, recursive=False): frozenset(found) for path, found in names.items()}
    return Look(hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest(), targets)


def _trace(path: Path, names: dict[Path, set[str]]) -> Path:
    """Follow a path link by link; note each name whose change would lead elsewhere, the last one included.

    Returns the real path as far as it exists. Where a folder on the way is missing, its name in the last one that is
    there is noted.
    """
    current, parts, links = Path("/"), list(path.absolute().parts[1:]), 0
    while parts:
        part = parts.pop(0)
        if part == "..":
            current = current.parent
            continue
        step = current / part
        if step.is_symlink() and links < _LINKS:
            links += 1
            names.setdefault(current, set()).add(part)
            with contextlib.suppress(OSError):
                target = step.readlink()
                parts = [*(target.parts[1:] if target.is_absolute() else target.parts), *parts]
                current = Path("/") if target.is_absolute() else current
        else:
            if not parts or not step.exists():
                names.setdefault(current, set()).add(part)
            if not step.exists():
                return step.joinpath(*parts)
            current = step
    return current


def _find_root(
    real: Path, below: dict[Path, set[tuple[int, int]]], path: Path, names: dict[Path, set[str]]
) -> set[tuple[int, int]]:
    """The watched folder that this one lies in; one that only a link leads to becomes a watched folder."""
    for root, found in below.items():
        if real.is_relative_to(root):
            return found
    _trace(path, names)
    return below.setdefault(real, set())


def _identify(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0)
    return (status.st_dev, status.st_ino)


def _read_state(path: Path) -> str:
    try:
        status = path.stat()
    except OSError as error:
        return f"errno {error.errno}"
    return f"{status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


class RuleWatcher:
    """Calls `changed` when the files are no longer as `seen` says. `look` and `seen` are about the files in use now."""

    def __init__(
        self,
        look: Callable[[], Look],
        seen: Callable[[], str],
        changed: Callable[[], Awaitable[object]],
        counters: Counters,
        *,
        poll_s: float = POLL_S,
    ) -> None:
        self._look = look
        self._seen = seen
        self._changed = changed
        self._counters = counters
        self._poll_s = poll_s
        self._wake = asyncio.Event()
        self._observer: BaseObserver | None = None
        self._watched: Targets = {}
        self._complained = False

    async def run(self) -> None:
        """Watch until cancelled."""
        loop = asyncio.get_running_loop()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._wake.set)

        try:
            woken = False
            while True:
                now = await asyncio.to_thread(self._aim, wake)
                if now.fingerprint != self._seen():
                    if not woken:
                        await self._settle()  # somebody may be writing still
                    await self._changed()
                woken = await self._wait()
        finally:
            if self._observer is not None:
                self._observer.stop()

    async def _wait(self) -> bool:
        """Until something has changed and nothing more comes (True), or it is time to look anyway."""
        try:
            async with asyncio.timeout(self._poll_s):
                await self._wake.wait()
        except TimeoutError:
            return False
        await self._settle()
        return True

    async def _settle(self) -> None:
        """Until nothing more comes for a while."""
        loop = asyncio.get_running_loop()
        last_s = loop.time() + MOST_S
        while loop.time() < last_s:
            self._wake.clear()
            try:
                async with asyncio.timeout(QUIET_S):
                    await self._wake.wait()
            except TimeoutError:
                return
        self._wake.clear()

    def _aim(self, wake: Callable[[], None]) -> Look:
        """Look, and watch what there is to watch; look again for what changed before the kernel was asked to tell."""
        now = self._look()
        wanted = dict(sorted(now.targets.items(), key=lambda item: (not item[0].recursive, item[0].path))[:WATCHES])
        if wanted == self._watched:
            return now
        try:
            observer = _observe(wanted, wake)
        except OSError as error:
            self._counters.add("match_watch_errors_total")
            if not self._complained:
                log.warning("changes of rules are found every %.0f s only, no inotify: %s", self._poll_s, error)
            self._complained = True
        else:
            former, self._observer, self._watched = self._observer, observer, wanted
            if former is not None:
                former.stop()
        return self._look()


def _observe(targets: Targets, wake: Callable[[], None]) -> BaseObserver:
    """All watches anew, while the former ones still tell: so there is no gap, whatever became of a folder.

    Raises OSError where the kernel gives no more watches.
    """
    logging.getLogger("watchdog").setLevel(logging.CRITICAL)  # it complains where a watch ends; we look anyway
    observer = Observer()
    observer.start()
    try:
        for target, found in targets.items():
            handler = _Handler(None if target.recursive else {name for name in found if isinstance(name, str)}, wake)
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # gone meanwhile; its parent tells more
                observer.schedule(handler, str(target.path), recursive=target.recursive, event_filter=_WAKING)
    except OSError:
        observer.stop()
        raise
    return observer


class _Handler(events.FileSystemEventHandler):
    def __init__(self, names: set[str] | None, wake: Callable[[], None]) -> None:
        self._names = names
        self._wake = wake

    def on_any_event(self, event: events.FileSystemEvent) -> None:
        paths = (event.src_path, event.dest_path)
        if self._names is None or any(Path(os.fsdecode(path)).name in self._names for path in paths):
            self._wake()
