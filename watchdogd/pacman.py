"""pacman's local database: which packages there are, which files each holds, and what it says that they are like.

`var/lib/pacman/local/NAME-VERSION-RELEASE` has `files` (paths below `%FILES%`, configuration files and their MD5 below
`%BACKUP%`) and `mtree`, mtree(5) in gzip as bsdtar writes it. A package that is being installed has only `mtree` yet.
Nothing is taken for granted: files are opened without following a link, and read no further than to a limit.
"""

from __future__ import annotations

import os
import re
import stat
import zlib
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from watchdogd.file_states import DEVICE, FIFO, FILE, FOLDER, LINK, SOCKET, FileState

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from pathlib import Path
    from typing import BinaryIO

LOCAL: Final = "var/lib/pacman/local"

LIST_BYTES: Final = 64 << 20
"""Of `files`; the largest packages of Arch have 10 MB."""
PACKED_BYTES: Final = 32 << 20
MTREE_BYTES: Final = 256 << 20
"""Of `mtree`, packed and unpacked."""
LINE_BYTES: Final = 64 << 10
_CHUNK: Final = 256 << 10
_GZIP: Final = 31
"""zlib's window for a stream with a header of gzip."""

_FOLDER: Final = re.compile(r"([A-Za-z0-9@_+][A-Za-z0-9@._+-]*)-([^-/\s]+-[^-/\s]+)")
_KINDS: Final = {
    b"file": FILE,
    b"dir": FOLDER,
    b"link": LINK,
    b"fifo": FIFO,
    b"socket": SOCKET,
    b"block": DEVICE,
    b"char": DEVICE,
}
_OF_THE_PACKAGE: Final = b"/."
"""`.PKGINFO` and its like are no files of the host."""
_ESCAPE: Final = re.compile(rb"\\(.{0,3})", re.DOTALL)
_OCTAL: Final = re.compile(rb"[0-3][0-7][0-7]")
_MD5_BYTES: Final = 16
_SHA256_BYTES: Final = 32
_MOST: Final = (1 << 63) - 1
_NS: Final = 1_000_000_000


class Recorded(msgspec.Struct, frozen=True, gc=False):
    """What a package says of one of its files; None where it says nothing."""

    kind: str
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    time_s: int | None = None
    sha256: bytes | None = None
    md5: bytes | None = None
    link_target: bytes | None = None

    def describes(self, now: FileState, before: FileState | None, md5: bytes | None) -> bool:
        """Whether the file, of this MD5, is what the package brought; mode and owner may be those from before.

        pacman removes a file and makes a new one, which may get the old one's inode, and sets its time: one of another
        time was changed in place.
        """
        is_same_inode = before is not None and (before.inode, before.device) == (now.inode, now.device)
        if is_same_inode and (self.kind == FOLDER or self.time_s != now.mtime_ns // _NS):
            return False
        if now.uid not in (self.uid, before and before.uid) or now.gid not in (self.gid, before and before.gid):
            return False
        if now.kind == LINK or self.kind != now.kind:
            return self.kind == now.kind and self.link_target == now.link_target
        if now.mode not in (self.mode, before and before.mode):
            return False
        return now.kind != FILE or self._has_content(now.sha256, md5)

    def _has_content(self, sha256: bytes | None, md5: bytes | None) -> bool:
        ours, other = (self.md5, md5) if self.sha256 is None else (self.sha256, sha256)
        return ours is not None and ours == other


class Installed(NamedTuple):
    """A package of the database. Reading raises OSError, and ValueError where a file is damaged or too large."""

    name: str
    version: str
    folder: Path
    time_ns: int
    """When it was installed: what pacman writes later it writes into files that are there."""

    def list_paths(self) -> Iterator[bytes]:
        """Its files and folders, from `/` on."""
        return (b"/" + line.rstrip(b"/") for line in self._read_section(b"%FILES%"))

    def list_backups(self) -> Iterator[bytes]:
        """Of those the configuration files, which people change."""
        return (b"/" + line.rpartition(b"\t")[0] for line in self._read_section(b"%BACKUP%"))

    def holds(self, paths: Iterable[bytes]) -> bool:
        """Whether one of these is a file of it (no folder). Does not read line by line."""
        lines = [b"\n" + path[1:] + b"\n" for path in paths]
        rest = b""
        with _open(self.folder / "files", LIST_BYTES) as file:
            while part := file.read(_CHUNK):
                content = rest + part
                if any(line in content for line in lines):
                    return True
                rest = content[-max(map(len, lines)) :]
        return False

    def read(self, paths: Collection[bytes]) -> tuple[set[bytes], dict[bytes, Recorded]]:
        """Which of these paths it has, and what it says of them; while it is being installed it has no list yet.

        Raises FileNotFoundError, too, where there is nothing of it.
        """
        try:
            held = {path for path in self.list_paths() if path in paths}
        except FileNotFoundError:
            records = self._read_mtree(paths)
            return set(records), records
        try:
            return held, self._read_mtree(held) if held else {}
        except FileNotFoundError:  # it was built without
            return held, {}

    def read_all(self) -> dict[bytes, Recorded]:
        """What it says of every file."""
        return self._read_mtree(None)

    def _read_mtree(self, wanted: Collection[bytes] | None) -> dict[bytes, Recorded]:
        with _open(self.folder / "mtree", PACKED_BYTES) as file:
            return dict(parse_mtree(_split(_unpack(file)), wanted))

    def _read_section(self, title: bytes) -> Iterator[bytes]:
        """Lines of `files` below a title, until an empty one."""
        within, count = False, 0
        with _open(self.folder / "files", LIST_BYTES) as file:
            while line := file.readline(LINE_BYTES):
                count += len(line)
                if len(line) == LINE_BYTES or count > LIST_BYTES:
                    raise ValueError("files: longer than pacman writes it")
                line = line.rstrip(b"\n")
                if line.startswith(b"%") or not line:
                    within = line == title
                elif within:
                    yield line


def list_installed(root: Path) -> Iterator[Installed]:
    """Packages below this root, none where pacman has no database. Raises OSError where that cannot be read."""
    local = root / LOCAL
    try:
        entries = os.scandir(local)
    except (FileNotFoundError, NotADirectoryError):
        return
    with entries:
        for entry in entries:
            match = _FOLDER.fullmatch(entry.name)
            if match is None:
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue  # replaced just now
            if stat.S_ISDIR(status.st_mode):
                yield Installed(match[1], match[2], local / entry.name, status.st_mtime_ns)


def parse_mtree(lines: Iterable[bytes], wanted: Collection[bytes] | None = None) -> Iterator[tuple[bytes, Recorded]]:
    """Paths, from `/` on, and what mtree(5) says of them; of lines about others only the path is read.

    Raises ValueError, with the line's number, for what bsdtar does not write.
    """
    defaults: dict[bytes, bytes] = {}
    for number, line in enumerate(lines, 1):
        word, *facts = line.split(None, 1) or (b"#",)
        if word.startswith(b"#"):
            continue
        try:
            if word == b"/set":
                defaults |= _split_facts(facts)
            elif word != b".":
                path = parse_path(word)
                if path in wanted if wanted is not None else not path.startswith(_OF_THE_PACKAGE):
                    yield path, _build_record(defaults | _split_facts(facts))
        except ValueError as error:
            raise ValueError(f"mtree:{number}: {error}") from error


def parse_path(word: bytes) -> bytes:
    r"""A path as mtree(5) has it, `./usr/with\040space`, as `/usr/with space`. Raises ValueError where it is none."""
    path = _unescape(word)
    if not path.startswith(b"./"):
        raise ValueError("a path that does not begin with ./")
    if b"\0" in path or not {b"", b".", b".."}.isdisjoint(path[2:].split(b"/")):
        raise ValueError("a path that leads elsewhere")
    return path[1:]


def _unescape(word: bytes) -> bytes:
    if b"\\" not in word:
        return word

    def replace(match: re.Match[bytes]) -> bytes:
        if _OCTAL.fullmatch(match[1]) is None:
            raise ValueError("a backslash without three octal digits")
        return bytes((int(match[1], 8),))

    return _ESCAPE.sub(replace, word)


def _split_facts(facts: Iterable[bytes]) -> dict[bytes, bytes]:
    return {key: value for key, _, value in (fact.partition(b"=") for text in facts for fact in text.split())}


def _build_record(facts: dict[bytes, bytes]) -> Recorded:
    kind = _KINDS.get(facts.get(b"type", b"file"))
    if kind is None:
        raise ValueError("a type that is none")
    link = facts.get(b"link")
    return Recorded(
        kind=kind,
        mode=_read_number(facts.get(b"mode"), 8, 0o7777),
        uid=_read_number(facts.get(b"uid"), 10),
        gid=_read_number(facts.get(b"gid"), 10),
        time_s=_read_number(facts.get(b"time", b"").partition(b".")[0] or None, 10),
        sha256=_read_digest(facts.get(b"sha256digest") or facts.get(b"sha256"), _SHA256_BYTES),
        md5=_read_digest(facts.get(b"md5digest") or facts.get(b"md5"), _MD5_BYTES),
        link_target=None if link is None else _unescape(link),
    )


def _read_number(text: bytes | None, base: int, most: int = _MOST) -> int | None:
    if text is None:
        return None
    if not text.isdigit() or len(text) > len(str(_MOST)):
        raise ValueError("a number that is none")
    number = int(text, base)
    if number > most:
        raise ValueError("a number that is too large")
    return number


def _read_digest(text: bytes | None, size: int) -> bytes | None:
    if not text:
        return None
    digest = bytes.fromhex(text.decode("ascii"))
    if len(digest) != size:
        raise ValueError("a digest of a length that none has")
    return digest


def _open(path: Path, limit: int) -> BinaryIO:
    """A regular file of so many bytes at most. Raises OSError, ValueError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY)
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
        os.close(fd)
        raise ValueError(f"{path.name}: no regular file, or larger than {limit >> 20} MiB")
    return os.fdopen(fd, "rb")


def _unpack(file: BinaryIO) -> Iterator[bytes]:
    """Parts of what was packed by gzip. Raises ValueError where it is damaged, or more than MTREE_BYTES."""
    inflater = zlib.decompressobj(_GZIP)
    count = 0
    try:
        while not inflater.eof:
            packed = inflater.unconsumed_tail or file.read(_CHUNK)
            part = inflater.decompress(packed, _CHUNK)
            count += len(part)
            if count > MTREE_BYTES:
                raise ValueError(f"mtree: unpacked more than {MTREE_BYTES >> 20} MiB")
            if not packed and not part:
                raise ValueError("mtree: it ends too early")
            yield part
    except zlib.error as error:
        raise ValueError(f"mtree: {error}") from error


def _split(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Lines. Raises ValueError where one is longer than LINE_BYTES."""
    rest = b""
    for part in parts:
        *lines, rest = (rest + part).split(b"\n")
        if len(rest) > LINE_BYTES or any(len(line) > LINE_BYTES for line in lines):
            raise ValueError("mtree: a line that is too long")
        yield from lines
    if rest:
        yield rest
