"""Lines of audit rules, as auditctl(8) takes and lists them: which calls and paths each makes the kernel record."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

_NUMBERS: Final = {"452": "fchmodat2", "59": "execve"}
_FAILURES: Final = ("exit=-", "success=0", "success=no")
_ASYNC_CONNECT: Final = ("exit=-EINPROGRESS", "exit=-115")
_LIMITING: Final = ("a0", "a1", "a2", "a3", "exit", "success", "auid", "uid", "euid", "exe", "pid", "filetype")


class AuditLine(msgspec.Struct, frozen=True):
    """One `-a` or `-w` line. `syscalls` None stands for all of them."""

    text: str
    syscalls: frozenset[str] | None
    path: str = ""
    """Of `path=`, `dir=` or `-w`, case-folded and without a slash at its end; empty where any will do."""
    whole_tree: bool = False
    access: frozenset[str] = frozenset("rwxa")
    filters: tuple[str, ...] = ()
    """Other fields, as written."""
    never: bool = False
    key: str = ""
    comment: str = ""
    """What stands above it in the file."""

    @property
    def failures_only(self) -> bool:
        """Only calls that were refused are recorded."""
        return any(text.startswith(_FAILURES) and text not in _ASYNC_CONNECT for text in self.filters)

    @property
    def limited(self) -> bool:
        """Looks at arguments, users or programs, too."""
        return any(text.startswith(_LIMITING) for text in self.filters)

    def names(self, call: str) -> bool:
        """Whether the line is about this call: by name, or because it takes all."""
        return self.syscalls is None or call in self.syscalls


def read_lines(text: str) -> tuple[AuditLine, ...]:
    """What a file of audit rules, or `auditctl -l`, says. `-D` forgets what stands before it, as loading does.

    Lines that say nothing about syscalls (buffers, user and exclude lists) are passed over, and so are those that
    cannot be read: auditctl refuses them.
    """
    found: list[AuditLine] = []
    comment: list[str] = []
    behind_rule = False
    for raw in text.splitlines():
        line = raw.strip()
        if line.startswith("#"):
            comment = [line.lstrip("# ")] if behind_rule else [*comment, line.lstrip("# ")]
            behind_rule = False
            continue
        if not line:
            comment = []
            continue
        try:
            words = shlex.split(line)
        except ValueError:
            continue
        if words[0] == "-D" and len(words) == 1:
            found.clear()
        behind_rule = True
        read = _read_rule(line, words, " ".join(comment))
        if read is not None:
            found.append(read)
    return tuple(found)


def _read_rule(text: str, words: list[str], comment: str) -> AuditLine | None:
    options: dict[str, list[str]] = {}
    for option, value in zip(words[::2], words[1::2], strict=False):
        options.setdefault(option, []).append(value)
    action = next(iter(options.get("-a", options.get("-A", ["always,exit"]))))
    watched = options.get("-w", [])
    if not watched and "-a" not in options and "-A" not in options:
        return None
    parts = set(action.split(","))
    if not parts & {"exit", "task"} or ("task" in parts and "never" not in parts):
        return None
    names = [_NUMBERS.get(name, name) for value in options.get("-S", []) for name in value.split(",")]
    fields = [field for value in options.get("-F", []) for field in [value] if not field.startswith("arch")]
    place, whole_tree, access, key, rest = "", False, frozenset("rwxa"), "", []
    for field in fields:
        name, _, value = field.partition("=")
        if name in {"path", "dir"}:
            place, whole_tree = value, name == "dir"
        elif name == "perm":
            access = frozenset(value)
        elif name == "key":
            key = value
        else:
            rest.append(field)
    if watched:
        place, whole_tree, access = watched[0], True, frozenset(options.get("-p", ["rwxa"])[0])
    return AuditLine(
        text,
        None if not names or "all" in names or "task" in parts else frozenset(names),
        place.rstrip("/").casefold(),
        whole_tree,
        access,
        tuple(rest),
        never="never" in parts,
        key=key or next(iter(options.get("-k", [""]))),
        comment=comment,
    )


def drop_suppressed(lines: Iterable[AuditLine]) -> tuple[AuditLine, ...]:
    """Lines that can record something: not those behind a `never` that takes all they could."""
    kept: list[AuditLine] = []
    blocked: set[str] = set()
    for line in lines:
        if not line.never:
            left = None if line.syscalls is None else line.syscalls - blocked
            if left is None or left:
                kept.append(msgspec.structs.replace(line, syscalls=left))
        elif not line.path and not line.filters:
            if line.syscalls is None:
                # `never,task` switches syscall auditing off altogether, wherever it stands.
                return () if "task" in line.text else tuple(kept)
            blocked |= line.syscalls
    return tuple(kept)
