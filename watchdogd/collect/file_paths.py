"""Which files are watched: patterns from the settings, accounts' home folders, mounts that are not entered.

A pattern is an absolute path whose parts may have the wildcards of a shell (`*`, `?`, `[...]`), none of which matches a
slash; `~/` stands for the home folder of each account in /etc/passwd. What it matches is watched, with all below it.
"""

from __future__ import annotations

import fnmatch
import os
import re
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

ACCOUNTS: Final = "/etc/passwd"

_HOME: Final = b"~/"
_WILD: Final = re.compile(rb"[*?\[]")
_NO_HOMES: Final = frozenset({b"/", b"/nonexistent", b"/dev/null", b"/bin", b"/sbin", b"/dev", b"/proc"})
_HOMES_KEPT: Final = 10_000
_PSEUDO: Final = frozenset(
    {
        *("autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "devtmpfs", "efivarfs"),
        *("fusectl", "hugetlbfs", "mqueue", "nsfs", "proc", "pstore", "rpc_pipefs", "securityfs", "selinuxfs", "sysfs"),
        "tracefs",
    }
)
"""Kernels' own file systems, which hold no files; and automounters, which mount what is looked at."""
_REMOTE: Final = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "gfs2", "glusterfs", "lustre", "ncpfs", "nfs", "nfs4"}
    | {"ocfs2", "orangefs", "smb3", "smbfs", "virtiofs"}
)
"""File systems that other hosts write, or that hang with a network."""
_OCTAL: Final = re.compile(rb"\\([0-7]{3})")

Parts = tuple[bytes, ...]
_Matcher = re.Pattern[bytes] | bytes


class Pattern(msgspec.Struct, frozen=True):
    """One pattern, part by part; literal parts as they are."""

    text: str
    """As it stands in the settings."""
    parts: tuple[_Matcher, ...]


class _Index:
    """Patterns by their first parts: of many, few are asked about a path."""

    def __init__(self, patterns: Sequence[Pattern]) -> None:
        self._by_parts: dict[Parts, list[Pattern]] = {}
        for pattern in patterns:
            literal = 0
            while literal < min(2, len(pattern.parts)) and isinstance(pattern.parts[literal], bytes):
                literal += 1
            key = tuple(part for part in pattern.parts[:literal] if isinstance(part, bytes))
            self._by_parts.setdefault(key, []).append(pattern)

    def find(self, parts: Parts) -> Iterator[Pattern]:
        """Those that may cover the path, or that it may lead to if it has two parts or more."""
        for length in range(min(2, len(parts)) + 1):
            yield from self._by_parts.get(parts[:length], ())


class Selection:
    """Answers which paths are watched, and which folders lead to such. Immutable; paths are absolute and real."""

    def __init__(self, patterns: Sequence[Pattern], excluded: Sequence[Pattern], names: Sequence[_Matcher]) -> None:
        """`excluded` are paths that are left out with all below them, `names` names that are left out anywhere."""
        self.patterns = tuple(patterns)
        self._excluded = tuple(excluded)
        self._names = tuple(names)
        self._literal_names = frozenset(name for name in names if isinstance(name, bytes))
        wild = b"|".join(b"(?:%b)" % name.pattern for name in names if not isinstance(name, bytes))
        self._wild_names = re.compile(wild, re.DOTALL) if wild else None
        self._covering = _Index(self.patterns)
        self._excluding = _Index(self._excluded)

    def covers(self, path: bytes) -> bool:
        """Whether the path is watched."""
        parts = split_path(path)
        return any(_covers(pattern, parts) for pattern in self._covering.find(parts)) and not self.excludes(parts)

    def leads(self, path: bytes) -> bool:
        """Whether watched paths may lie below this one, which is not watched itself."""
        parts = split_path(path)
        return any(_leads(pattern, parts) for pattern in self.patterns) and not self.excludes(parts)

    def excludes(self, parts: Parts) -> bool:
        """Whether the path, or a folder above it, is left out."""
        if not self._literal_names.isdisjoint(parts):
            return True
        wild = self._wild_names
        if wild is not None and any(wild.fullmatch(part) for part in parts):
            return True
        return any(_covers(pattern, parts) for pattern in self._excluding.find(parts))

    def list_next(self, path: bytes) -> list[bytes] | None:
        """Names in a folder that leads, all that can be watched or lead on; None where there are wildcards."""
        parts = split_path(path)
        names = []
        for pattern in self.patterns:
            if _leads(pattern, parts):
                following = pattern.parts[len(parts)]
                if not isinstance(following, bytes):
                    return None
                names.append(following)
        return sorted(set(names))

    def restrict(self, built: Iterable[str]) -> Selection:
        """The same with only the patterns of these texts."""
        wanted = frozenset(built)
        return Selection([one for one in self.patterns if one.text in wanted], self._excluded, self._names)


def select(paths: Sequence[str], exclude: Sequence[str], accounts: str = ACCOUNTS) -> Selection:
    """Read the settings' patterns as this host has its folders now: links on the way to them are followed once."""
    homes = list_homes(accounts)
    names = [_compile(os.fsencode(text)) for text in exclude if "/" not in text]
    excluded = [one for text in exclude if "/" in text for one in _expand(text, homes)]
    return Selection([one for text in paths for one in _expand(text, homes)], excluded, names)


def list_homes(accounts: str = ACCOUNTS) -> list[bytes]:
    """Home folders of the accounts in the file, each once; empty where it cannot be read."""
    homes: dict[bytes, None] = {}
    try:
        with open(accounts, "rb") as lines:  # noqa: PTH123 - as /etc/passwd is read elsewhere, by its name
            for line in lines:
                fields = line.rstrip(b"\n").split(b":")
                if len(fields) > 5 and fields[5].startswith(b"/") and len(homes) < _HOMES_KEPT:  # noqa: PLR2004
                    homes[os.path.normpath(fields[5])] = None
    except OSError:
        return []
    return [home for home in homes if home not in _NO_HOMES]


def split_path(path: bytes) -> Parts:
    """The parts of an absolute path; none of `/`."""
    return tuple(part for part in path.split(b"/") if part)


def _expand(text: str, homes: Sequence[bytes]) -> list[Pattern]:
    data = os.fsencode(text)
    if data.startswith(_HOME):
        below = [_compile(part) for part in split_path(data[1:])]
        return [Pattern(text, (*split_path(os.path.realpath(home)), *below)) for home in homes]
    return [Pattern(text, tuple(real)) for real in _follow(split_path(data))]


def _follow(parts: Parts) -> list[list[_Matcher]]:
    """The pattern with links in its literal beginning followed; of a link at its very end both, link and folder."""
    literal = next((number for number, part in enumerate(parts) if _WILD.search(part)), len(parts))
    above = literal if literal < len(parts) else max(literal - 1, 0)
    real = split_path(os.path.realpath(b"/" + b"/".join(parts[:above])))
    ways: list[list[_Matcher]] = [[*real, *map(_compile, parts[above:])]]
    if literal == len(parts):
        whole = b"/" + b"/".join((*real, *parts[above:]))
        if os.path.islink(whole) and os.path.isdir(whole):  # noqa: PTH112, PTH114 - bytes
            ways.append([*split_path(os.path.realpath(whole))])
    return ways


def _compile(part: bytes) -> _Matcher:
    if not _WILD.search(part):
        return part
    return re.compile(fnmatch.translate(part.decode("latin-1")).encode("latin-1"), re.DOTALL)


def _fits(matcher: _Matcher, part: bytes) -> bool:
    return matcher == part if isinstance(matcher, bytes) else matcher.fullmatch(part) is not None


def _covers(pattern: Pattern, parts: Parts) -> bool:
    if len(parts) < len(pattern.parts):
        return False
    return all(_fits(matcher, part) for matcher, part in zip(pattern.parts, parts, strict=False))


def _leads(pattern: Pattern, parts: Parts) -> bool:
    if len(parts) >= len(pattern.parts):
        return False
    return all(_fits(matcher, part) for matcher, part in zip(pattern.parts, parts, strict=False))


def list_closed_mounts(mountinfo: str = "/proc/self/mountinfo", *, network: bool = False) -> frozenset[bytes]:
    """Mount points that are not entered: the kernel's own file systems, and (without `network`) those of networks.

    What is mounted is read from the kernel (proc_pid_mountinfo(5)): nothing on a server that hangs is touched.
    """
    closed: dict[bytes, bool] = {}
    try:
        with open(mountinfo, "rb") as lines:  # noqa: PTH123 - a file of /proc
            for line in lines:
                before, separator, after = line.partition(b" - ")
                fields = before.split()
                if separator and len(fields) > 4:  # noqa: PLR2004 - the fifth is the mount point
                    point = _OCTAL.sub(lambda match: bytes([int(match[1], 8)]), fields[4])
                    kind = after.split(None, 1)[0].decode("ascii", "replace") if after.split() else ""
                    closed[point] = kind in _PSEUDO or (not network and _is_remote(kind))
    except OSError:
        return frozenset()
    return frozenset(point for point, is_closed in closed.items() if is_closed)


def _is_remote(kind: str) -> bool:
    return kind in _REMOTE or (kind.startswith("fuse.") and kind != "fuse.snapfuse")


def is_within(path: bytes, folders: frozenset[bytes]) -> bool:
    """Whether the path is one of the folders, or lies below one."""
    while path not in folders:
        above = os.path.dirname(path)  # noqa: PTH120 - bytes
        if above == path:
            return False
        path = above
    return True
