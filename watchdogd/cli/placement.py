"""Putting files in place so that what a person edited is never lost, and taking them away again.

A record of what was written (path and sha256) tells an edited file from one of an older version.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from watchdogd.errors import WatchdogdError

if TYPE_CHECKING:
    from collections.abc import Iterator

RECORD_PATH: Final = Path("/usr/share/watchdogd/installed.json")


class Placed(msgspec.Struct, frozen=True):
    """A file to put at `path` (absolute, below the root). `editable`: people are meant to change or delete it."""

    path: Path
    content: bytes
    editable: bool = False
    mode: int = 0o644


class Step(msgspec.Struct, frozen=True):
    """What is done about one path. `verb`: write, update, keep, leave, new, replace or remove.

    `before` and `after` are the file's content where that changes, None where there is no file.
    """

    verb: str
    path: Path
    note: str = ""
    before: bytes | None = None
    after: bytes | None = None

    def __str__(self) -> str:
        """One line for a person."""
        return f"{self.verb:<8}{self.path}" + (f"  ({self.note})" if self.note else "")


class Placement:
    """Files below `root`. `force` overwrites edited files (the old one stays as `.old`); `dry` changes nothing.

    Without `record` nothing is remembered: the files are a package's.
    """

    def __init__(self, root: Path, *, force: bool = False, dry: bool = False, record: bool = True) -> None:
        self._root = root.resolve()
        self._force = force
        self._dry = dry
        self._keeps_record = record
        self._record = self._read_record()
        self.steps: list[Step] = []

    def place(self, files: list[Placed]) -> None:
        """Put every file in place, then take away what an older version placed and this one does not have."""
        for file in files:
            self._place_one(file)
        wanted = {str(file.path) for file in files}
        for path in sorted(self._record.keys() - wanted):
            self._remove_one(Path(path), "no longer part of watchdogd")
        self._write_record()

    def remove_all(self) -> None:
        """Take away everything that was placed and is as it was placed; the rest is left and named."""
        for path in sorted(self._record):
            self._remove_one(Path(path), "")
        if not self._record:
            self._delete(RECORD_PATH)
        else:
            self._write_record()

    def recorded(self) -> frozenset[Path]:
        """Paths that are in place as far as the record knows."""
        return frozenset(map(Path, self._record))

    def _place_one(self, file: Placed) -> None:
        present = self._read(file.path)
        known = self._record.get(str(file.path))
        if present is None:
            if known and file.editable and not self._force:
                self._say("leave", file.path, "you deleted it; --force brings it back")
                return
            self._write(file)
            self._say("write", file.path, after=file.content)
        elif present == file.content:
            self._say("keep", file.path, "unchanged")
        elif known == _digest(present):
            self._write(file)
            self._say("update", file.path, before=present, after=file.content)
        elif self._force:
            self._write(Placed(_beside(file.path, ".old"), present, mode=file.mode))
            self._write(file)
            self._say("replace", file.path, "the edited one is beside it as .old", before=present, after=file.content)
        elif known == _digest(file.content):
            self._say("keep", file.path, "edited; what is shipped is as it was")
            return
        else:
            beside, note = _beside(file.path, ".new"), f"{file.path.name} was edited and stays as it is"
            self._write(Placed(beside, file.content, mode=file.mode))
            self._say("new", beside, note, before=present, after=file.content)
            return
        self._record[str(file.path)] = _digest(file.content)

    def _remove_one(self, path: Path, why: str) -> None:
        present = self._read(path)
        if present is not None and _digest(present) != self._record[str(path)] and not self._force:
            self._delete(_beside(path, ".new"))
            self._say("leave", path, "edited" + (f"; {why}" if why else ""))
            return
        del self._record[str(path)]
        self._delete(_beside(path, ".new"))
        if present is not None:
            self._delete(path)
            self._say("remove", path, why, before=present)

    def _real(self, path: Path) -> Path:
        """Where the path is below the root, whatever links stand on the way. Raises WatchdogdError if outside."""
        target = self._root / path.relative_to("/")
        if not target.parent.resolve().is_relative_to(self._root):
            raise WatchdogdError(f"{target} leads out of {self._root} by a link: nothing is written there")
        return target

    def _read(self, path: Path) -> bytes | None:
        try:
            return self._real(path).read_bytes()
        except FileNotFoundError:
            return None

    def _write(self, file: Placed) -> None:
        if self._dry:
            return
        target = self._real(file.path)
        target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(file.content)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.chmod(stat.S_IMODE(target.stat().st_mode) if target.exists() else file.mode)
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _delete(self, path: Path) -> None:
        if self._dry:
            return
        target = self._real(path)
        target.unlink(missing_ok=True)
        parent = target.parent
        while "watchdogd" in parent.relative_to(self._root).parts:  # never a folder of the system
            try:
                parent.rmdir()
            except OSError:
                return
            parent = parent.parent

    def _read_record(self) -> dict[str, str]:
        content = self._read(RECORD_PATH)
        if content is None:
            return {}
        try:
            return msgspec.json.decode(content, type=dict[str, str])
        except msgspec.DecodeError as error:
            raise WatchdogdError(
                f"{self._real(RECORD_PATH)} is damaged ({error}): delete it and install again"
            ) from None

    def _write_record(self) -> None:
        if not self._keeps_record:
            return
        content = msgspec.json.format(msgspec.json.encode(self._record, order="sorted"), indent=1) + b"\n"
        self._write(Placed(RECORD_PATH, content))

    def _say(
        self, verb: str, path: Path, note: str = "", *, before: bytes | None = None, after: bytes | None = None
    ) -> None:
        self.steps.append(Step(verb, path, note, before, after))


def render_diff(step: Step) -> Iterator[str]:
    """What the step changes, as `diff -u` shows it, each line escaped; nothing where it changes nothing."""
    from watchdogd.write.formats.text import escape_controls  # noqa: PLC0415 - only where one is shown

    if step.before == step.after:
        return
    was = str(step.path.with_suffix("") if step.verb == "new" else step.path)
    before, after = ((content or b"").decode(errors="replace").splitlines() for content in (step.before, step.after))
    names = os.devnull if step.before is None else was, os.devnull if step.after is None else str(step.path)
    for line in difflib.unified_diff(before, after, *names, lineterm=""):
        yield escape_controls(line)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
