"""What the daemon keeps of its rules on disk: files as they were read, and the last good set. Beside its database.

Neither is ever needed: what is missing, damaged or of another version is left out, counted, and made anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from watchdogd.errors import Place, ProblemsError
from watchdogd.marks import read_bytes
from watchdogd.match.files import show_path
from watchdogd.match.library import read_files
from watchdogd.match.syntax import FileReading, RuleSet

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from watchdogd.match.syntax import Correlation, RuleBody
    from watchdogd.telemetry import Counters

log = logging.getLogger("watchdogd.match")

FORMAT = 1
"""Of both files. Raise it where old content would decode and mean something else."""
_LIBRARIES = ("pysigma", "google_re2", "pyyaml")
_PACKAGE = Path(__file__).resolve().parent.parent


class _Readings(msgspec.Struct, frozen=True):
    """`context` names everything but the files' content that a reading depends on."""

    format: int
    context: str
    readings: tuple[FileReading, ...]


class LastGood(msgspec.Struct, frozen=True):
    """The set that was in force last, when it was loaded, and a few words about it."""

    format: int
    time_ms: int
    digests: dict[str, str]
    """Of each rule, by id; where its file lies does not count."""
    titles: dict[str, str]
    rules: msgspec.Raw
    """The set itself, for `RuleCache.decode_rules`: it takes megabytes, and is seldom asked for."""


ContentT = TypeVar("ContentT", _Readings, LastGood)


class RuleCache:
    """Reads rule files as `library.read_files` does, but each content once. One process at a time may write."""

    def __init__(
        self,
        database: Path,
        counters: Counters,
        *,
        read: Callable[[Sequence[Path], Path | None], list[FileReading]] = read_files,
    ) -> None:
        """`database` is the daemon's: both files lie beside it, under its name."""
        self._readings_path = database.with_name(f"{database.stem}.rules-cache")
        self._last_good_path = database.with_name(f"{database.stem}.rules-last-good")
        self._counters = counters
        self._read = read
        self._version = name_version()
        self._pending: _Readings | None = None

    def read(self, paths: Sequence[Path], placeholders: Path | None = None) -> list[FileReading]:
        """One reading for each file, in the same order; only what is new or changed reaches the reader process.

        Raises RuleError where that gives no answer.
        """
        context = f"{self._version}|{'' if placeholders is None else f'{placeholders}:{_digest(placeholders)}'}"
        kept = self._load(self._readings_path, _Readings)
        known: dict[tuple[str, str], FileReading] = {}
        if kept is not None and kept.context == context:
            known = {(reading.path, reading.digest): reading for reading in kept.readings}
        found = [known.get((show_path(path), _digest(path))) for path in paths]
        missing = [path for path, reading in zip(paths, found, strict=True) if reading is None]
        fresh = iter(self._read(missing, placeholders) if missing else ())
        readings = [reading or next(fresh) for reading in found]
        if missing or len(readings) != len(known):
            usable = tuple(reading for reading in readings if reading.digest)
            self._pending = _Readings(FORMAT, context, usable)
        return readings

    def save(self, rules: RuleSet | None, time_ms: int) -> None:
        """Keep what the last `read` gave and, where given, the set that is in force now. Never raises."""
        if self._pending is not None:
            self._write(self._readings_path, self._pending)
            self._pending = None
        if rules is not None:
            digests, titles = describe_rules(rules)
            raw = msgspec.Raw(msgspec.msgpack.encode(rules))
            self._write(self._last_good_path, LastGood(FORMAT, time_ms, digests, titles, raw))

    def load_last_good(self) -> LastGood | None:
        """The set of the last good load, None where there is none that can be read."""
        return self._load(self._last_good_path, LastGood)

    def decode_rules(self, kept: LastGood) -> RuleSet | None:
        """The rules themselves, None where they cannot be read."""
        try:
            return msgspec.msgpack.decode(kept.rules, type=RuleSet)
        except (msgspec.MsgspecError, RecursionError) as error:
            self._complain(self._last_good_path, error)
            return None

    def _load(self, path: Path, kind: type[ContentT]) -> ContentT | None:
        try:
            content = msgspec.msgpack.decode(path.read_bytes(), type=kind)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError, RecursionError) as error:
            self._complain(path, error)
            return None
        return content if content.format == FORMAT else None

    def _complain(self, path: Path, error: Exception) -> None:
        self._counters.add("match_cache_unreadable_total")
        log.warning("%s cannot be used and is made anew: %s", path, error)

    def _write(self, path: Path, content: msgspec.Struct) -> None:
        """Whole or not at all."""
        temporary = ""
        try:
            descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(msgspec.msgpack.encode(content))
                stream.flush()
                os.fsync(stream.fileno())
            Path(temporary).replace(path)
        except OSError as error:
            self._counters.add("match_cache_unwritten_total")
            log.warning("%s cannot be written, the next start takes longer: %s", path, error)
            if temporary:
                Path(temporary).unlink(missing_ok=True)


def describe_rules(rules: RuleSet) -> tuple[dict[str, str], dict[str, str]]:
    """Digests and titles by rule id; where a rule's file lies does not count."""
    found: list[RuleBody | Correlation] = [*rules.bodies, *rules.correlations]
    digests: dict[str, str] = {}
    for body in found:
        moved = msgspec.structs.replace(body, place=Place(""), rule=msgspec.structs.replace(body.rule, path=""))
        digests[body.rule.id] = hashlib.sha256(msgspec.msgpack.encode(moved)).hexdigest()[:16]
    return digests, {body.rule.id: body.rule.title for body in found}


def name_version() -> str:
    """A digest of the code that reads rules: other code, or another library, may read a file otherwise."""
    digest = hashlib.sha256(f"{FORMAT} {sys.implementation.cache_tag}".encode())
    for name in find_installed(sys.path, _LIBRARIES):
        digest.update(f" {name}".encode())
    for path in sorted([_PACKAGE / "marks.py", _PACKAGE / "entities.py", *(_PACKAGE / "match").iterdir()]):
        if path.is_file():
            digest.update(f" {path.name} {path.stat().st_size} ".encode() + path.read_bytes())
    return digest.hexdigest()


def find_installed(folders: Sequence[str], names: Sequence[str]) -> list[str]:
    """What the metadata folders of these libraries are called, version and all (PEP 376), in order of `names`.

    `importlib.metadata` would say the same, and take 2 MB for as long as the daemon runs. Distributions may name a
    library otherwise: nothing is said of it then.
    """
    found: dict[str, str] = {}
    for folder in folders:
        with contextlib.suppress(OSError):  # a folder that is not there, or an archive
            for entry in sorted(Path(folder).iterdir()):
                stem, dot, kind = entry.name.lower().rpartition(".")
                if dot and kind in {"dist-info", "egg-info"}:
                    found.setdefault(stem.partition("-")[0].replace(".", "_"), stem)
    return [found[name] for name in names if name in found]


def _digest(path: Path) -> str:
    """As the reader process names the content; empty where it cannot be read, which no reading has."""
    try:
        return hashlib.sha256(read_bytes(path)).hexdigest()
    except ProblemsError:
        return ""
