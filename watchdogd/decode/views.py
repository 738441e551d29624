"""Sigma's views of one syscall: process_creation, file_event and its kin, network_connection, and plain syscall.

Field names are those of Sysmon for Linux where it has one.
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING, Final

from watchdogd.decode.actor import describe_actor
from watchdogd.decode.arguments import parse_hex
from watchdogd.decode.facts import PathFacts, SyscallFacts, read_path
from watchdogd.decode.sockaddr import SocketAddress, decode_sockaddr, unmap
from watchdogd.entities import View

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from watchdogd.decode.record import AuditLine
    from watchdogd.entities import FieldMap, FieldValue

    Builder = Callable[["Observation", list[str]], list[View]]

_O_ACCMODE: Final = 0o3
_O_CREAT: Final = 0o100
_O_TRUNC: Final = 0o1000
_O_PATH: Final = 0o10000000
_AT_FDCWD: Final = frozenset({"ffffff9c", "ffffffffffffff9c"})
_EINPROGRESS: Final = "-115"
_IP_FAMILIES: Final = frozenset({"inet", "inet6"})


class Observation:
    """One syscall with everything that its records say; paths are parsed when a view needs them."""

    __slots__ = ("actor", "argv", "cwd", "facts", "name", "open_how", "outcome", "path_lines", "sockaddr")

    def __init__(
        self,
        facts: SyscallFacts,
        argv: tuple[str, ...],
        cwd: str | None,
        path_lines: Sequence[AuditLine],
        sockaddr: AuditLine | None,
        open_how: AuditLine | None = None,
    ) -> None:
        self.facts = facts
        self.name = facts.name
        self.actor = facts.actor
        self.outcome = facts.outcome
        self.argv = argv
        self.cwd = cwd
        self.path_lines = path_lines
        self.sockaddr = sockaddr
        self.open_how = open_how

    @property
    def paths(self) -> list[PathFacts]:
        """All PATH records but those of parent folders."""
        return [path for path in map(read_path, self.path_lines) if path.kind != "PARENT"]

    @property
    def succeeded(self) -> bool:
        """False only where the record says so."""
        return self.outcome != "failure"


def view_syscall(seen: Observation, warnings: list[str]) -> list[View]:
    """At least one view. A syscall that failed creates nothing: it is seen as `syscall` or `file_access`."""
    build = _BUILDERS.get(seen.name)
    views = build(seen, warnings) if build is not None else []
    return views or [_view_plain(seen)]


def list_categories(seen: Observation) -> frozenset[str]:
    """All that the views of a syscall can be of; known without reading paths."""
    if seen.name in _EXEC_CALLS:
        return _STARTED if seen.succeeded else _PLAIN
    return _CATEGORIES.get(seen.name, _PLAIN)


def may_warn(seen: Observation) -> bool:
    """True where the views may have warnings: paths are relative to a folder that may not be the current one."""
    args = seen.facts.args
    for index in _AT_CALLS.get(seen.name, ()):  # noqa: SIM110 - half the time of any(), once for each event
        if args[index] not in _AT_FDCWD:
            return True
    return False


def _view_plain(seen: Observation) -> View:
    fields = describe_actor(seen.actor)
    fields["Syscall"] = seen.name
    if seen.facts.exit is not None:
        fields["ExitCode"] = seen.facts.exit
    fields["Outcome"] = seen.outcome
    if seen.argv:
        fields["CommandLine"] = " ".join(seen.argv)
    if seen.cwd is not None:
        fields["CurrentDirectory"] = seen.cwd
    if seen.path_lines:
        at = _AT_CALLS.get(seen.name, (None,))
        names = [_resolve(seen, item, at[-1] if item.kind == "CREATE" else at[0]) for item in seen.paths]
        found = tuple(name for name in names if name is not None)
        _set(fields, "TargetFilename", found or None)
    address = _read_address(seen)
    if address is not None and address.path is not None:
        fields["SocketPath"] = address.path
    return View("syscall", seen.name, seen.outcome, fields)


def _view_exec(seen: Observation, warnings: list[str]) -> list[View]:  # noqa: ARG001 - one signature for all
    if not seen.succeeded:
        return []
    fields = describe_actor(seen.actor)
    if "Image" not in fields and seen.path_lines:
        at = _AT_CALLS.get(seen.name, (None,))
        _set(fields, "Image", _resolve(seen, read_path(seen.path_lines[0]), at[0]))
    if seen.argv:
        fields["CommandLine"] = " ".join(seen.argv)
    _set(fields, "CurrentDirectory", seen.cwd)
    return [View("process_creation", "exec", seen.outcome, fields)]


def _view_open(seen: Observation, warnings: list[str]) -> list[View]:
    flags = _open_flags(seen)
    # O_PATH gives a handle that neither reads nor writes; its other flags are ignored.
    writes = bool(flags & (_O_ACCMODE | _O_TRUNC)) and not flags & _O_PATH
    views = []
    for item in seen.paths:
        fields = _describe_target(seen, item, 0 if seen.name in _AT_CALLS else None, warnings)
        created = item.kind == "CREATE" or (item.kind is None and bool(flags & _O_CREAT))
        if seen.succeeded and (created or writes):
            views.append(View("file_event", "create" if created else "write", seen.outcome, fields))
        else:
            fields["Outcome"] = seen.outcome
            views.append(View("file_access", "write" if created or writes else "read", seen.outcome, fields))
    return views


def _open_flags(seen: Observation) -> int:
    if seen.name == "creat":
        return _O_CREAT | _O_TRUNC | 1
    if seen.name == "openat2":  # flags are behind a pointer; kernels since 5.16 record them (`oflag=0102`)
        written = seen.open_how.get("oflag") if seen.open_how is not None else None
        flags = _parse_octal(written)
        return _O_ACCMODE if flags is None else flags  # without that record the worst is assumed
    register = seen.facts.args[2 if seen.name == "openat" else 1]
    if not register:  # io_uring's records have no registers: as above
        return _O_ACCMODE
    return parse_hex(register) or 0


def _parse_octal(raw: str | None) -> int | None:
    try:
        return None if raw is None else int(raw, 8)
    except ValueError:
        return None


def _view_creation(seen: Observation, warnings: list[str]) -> list[View]:
    """mkdir, mknod, link, symlink, truncate: what stands in the CREATE item, made from what else was named."""
    if not seen.succeeded:
        return []
    targets = [item for item in seen.paths if item.kind == "CREATE"]
    others = [item for item in seen.paths if item.kind != "CREATE"]
    at = _AT_CALLS.get(seen.name)
    views = []
    for item in targets or others[-1:]:
        fields = _describe_target(seen, item, at[-1] if at else None, warnings)
        if targets and others and seen.name.startswith("sym"):
            _set(fields, "SourceFilename", _resolve_link(others[0].name, fields.get("TargetFilename")))
        elif targets and others:
            _set(fields, "SourceFilename", _resolve(seen, others[0], at[0] if at else None))
        views.append(View("file_event", _ACTIONS.get(seen.name, seen.name), seen.outcome, fields))
    return views


def _view_rename(seen: Observation, warnings: list[str]) -> list[View]:
    """From is the item that went away and came back under the new name: the same inode.

    An exchange (renameat2) is two renames; the second one's new name is the old name of the first.
    """
    if not seen.succeeded:
        return []
    created = [item for item in seen.paths if item.kind == "CREATE"]
    gone = [item for item in seen.paths if item.kind == "DELETE"]
    ways = [_AT_CALLS.get(seen.name, (None, None))]
    ways.append(ways[0][::-1])
    views: list[View] = []
    for item, (source_at, target_at) in zip(created, ways, strict=False):
        source = next((old for old in gone if old.inode == item.inode), gone[0] if gone else None)
        fields = _describe_target(seen, item, target_at, warnings)
        if source is not None:
            _set(fields, "SourceFilename", _resolve(seen, source, source_at))
        views.append(View("file_event", "rename", seen.outcome, fields))
        views.append(View("file_rename", "rename", seen.outcome, fields))
    return views


def _view_delete(seen: Observation, warnings: list[str]) -> list[View]:
    if not seen.succeeded:
        return []
    gone = [item for item in seen.paths if item.kind == "DELETE"]
    gone = gone or seen.paths[-1:]
    at = 0 if seen.name in _AT_CALLS else None
    return [View("file_delete", "delete", seen.outcome, _describe_target(seen, item, at, warnings)) for item in gone]


def _view_change(seen: Observation, warnings: list[str]) -> list[View]:
    """Mode, owner, attributes or times of what is there already."""
    if not seen.succeeded:
        return []
    at = 0 if seen.name in _AT_CALLS else None
    views = []
    for item in seen.paths:
        fields = _describe_target(seen, item, at, warnings)
        if "chmod" in seen.name:
            mode = parse_hex(seen.facts.args[2 if seen.name.startswith("fchmodat") else 1])
            _set(fields, "Mode", f"{mode & 0o7777:04o}" if mode is not None else None)
        views.append(View("file_change", _ACTIONS.get(seen.name, seen.name), seen.outcome, fields))
    return views


def _view_connection(seen: Observation, warnings: list[str]) -> list[View]:  # noqa: ARG001 - one signature for all
    """A connection that was tried, or a port that was opened. Unix and netlink sockets are plain syscalls.

    As in Sysmon the destination is the side that was connected to: what `bind` names is a destination, too.
    """
    address = _read_address(seen)
    if address is None or address.family not in _IP_FAMILIES:
        return []
    initiated = seen.name in {"connect", "sendto", "sendmsg"}
    fields = describe_actor(seen.actor)
    side = "Source" if seen.name in {"accept", "accept4"} else "Destination"
    _set(fields, f"{side}Ip", unmap(address.address))
    _set(fields, f"{side}Port", address.port)
    fields["Protocol"] = "unknown"
    fields["Initiated"] = "true" if initiated else "false"
    outcome = "success" if seen.facts.exit == _EINPROGRESS else seen.outcome
    fields["Outcome"] = outcome
    return [View("network_connection", seen.name, outcome, fields)]


def _read_address(seen: Observation) -> SocketAddress | None:
    raw = seen.sockaddr.get("saddr") if seen.sockaddr is not None else None
    return decode_sockaddr(raw) if raw is not None else None


def _describe_target(seen: Observation, item: PathFacts, at: int | None, warnings: list[str]) -> FieldMap:
    fields = describe_actor(seen.actor)
    name = _resolve(seen, item, at)
    _set(fields, "TargetFilename", name)
    if name is not None and name.startswith("<fd "):
        what = "relative to an open directory" if "/" in name else "an open file"
        warnings.append(f"{name}: {what}, whose path the log does not say")
    return fields


def _kind(item: AuditLine) -> str | None:
    return item.get("nametype") or item.get("objtype")


def _set(fields: FieldMap, name: str, value: FieldValue | tuple[FieldValue, ...]) -> None:
    """What is unknown is left out: a rule's `field: null` then holds, and context may fill it in."""
    if value is not None:
        fields[name] = value


def _resolve(seen: Observation, item: PathFacts, at: int | None) -> str | None:
    """Absolute path of a PATH record; `at` is the argument that holds its directory's descriptor, None for cwd."""
    name = item.name
    if name is None:
        return None
    if name.startswith("/"):
        return normalise(name)
    if at is not None:
        descriptor = seen.facts.args[at]
        if descriptor not in _AT_FDCWD:
            return f"<fd {parse_hex(descriptor) if descriptor else '?'}>{'/' if name else ''}{name}"
    return normalise(f"{seen.cwd}/{name}") if seen.cwd is not None else name


def _resolve_link(text: str | None, link: object) -> str | None:
    """Where a symbolic link leads: what it says is relative to the folder that it lies in."""
    if text is not None and not text.startswith("/") and isinstance(link, str):
        text = f"{link.rpartition('/')[0]}/{text}"
    return normalise(text) if text is not None and text.startswith("/") else text


def normalise(path: str) -> str:
    """Without `.`, `..` and doubled slashes: `/tmp/../etc/shadow` is /etc/shadow. Links are not followed."""
    if "/." in path or "//" in path:
        return "/" + posixpath.normpath(path).lstrip("/")
    return path


_AT_CALLS: Final[dict[str, tuple[int, ...]]] = {
    **dict.fromkeys(
        (
            *("openat", "openat2", "mkdirat", "mknodat", "unlinkat", "fchmodat", "fchmodat2", "fchownat"),
            *("futimesat", "utimensat", "execveat", "faccessat", "faccessat2", "newfstatat", "fstatat64", "statx"),
            *("readlinkat", "name_to_handle_at", "open_tree", "open_tree_attr", "fspick", "mount_setattr"),
            *("setxattrat", "getxattrat", "listxattrat", "removexattrat", "file_getattr", "file_setattr"),
            "utimensat_time64",
        ),
        (0,),
    ),
    "linkat": (0, 2),
    "symlinkat": (1,),
    "renameat": (0, 2),
    "renameat2": (0, 2),
    "move_mount": (0, 2),
}
"""Arguments that hold a directory's descriptor: source first, target last."""

_ACTIONS: Final = {
    "mkdirat": "mkdir",
    "mknodat": "mknod",
    "linkat": "link",
    "symlinkat": "symlink",
    "truncate64": "truncate",
    "fchmod": "chmod",
    "fchmodat": "chmod",
    "fchmodat2": "chmod",
    "fchown": "chown",
    "fchownat": "chown",
    "lchown": "chown",
    "chown32": "chown",
    "fchown32": "chown",
    "lchown32": "chown",
    "lsetxattr": "setxattr",
    "fsetxattr": "setxattr",
    "setxattrat": "setxattr",
    "lremovexattr": "removexattr",
    "fremovexattr": "removexattr",
    "removexattrat": "removexattr",
    "file_setattr": "setattr",
    "utime": "utimes",
    "utimensat": "utimes",
    "utimensat_time64": "utimes",
    "futimesat": "utimes",
}
"""One name for each family of calls, where it is not the call's own."""

_BUILDERS: Final[dict[str, Builder]] = {
    **dict.fromkeys(("execve", "execveat"), _view_exec),
    **dict.fromkeys(("open", "openat", "openat2", "creat"), _view_open),
    **dict.fromkeys(
        ("mkdir", "mkdirat", "mknod", "mknodat", "link", "linkat", "symlink", "symlinkat", "truncate", "truncate64"),
        _view_creation,
    ),
    **dict.fromkeys(("rename", "renameat", "renameat2"), _view_rename),
    **dict.fromkeys(("unlink", "unlinkat", "rmdir"), _view_delete),
    **dict.fromkeys(
        (
            *("chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "lchown", "fchownat"),
            *("chown32", "fchown32", "lchown32", "setxattr", "lsetxattr", "fsetxattr", "setxattrat"),
            *("removexattr", "lremovexattr", "fremovexattr", "removexattrat", "file_setattr"),
            *("utime", "utimes", "utimensat", "utimensat_time64", "futimesat"),
        ),
        _view_change,
    ),
    **dict.fromkeys(("connect", "bind", "accept", "accept4", "sendto", "sendmsg"), _view_connection),
}

_PLAIN: Final = frozenset({"syscall"})
_STARTED: Final = frozenset({"process_creation"})
_EXEC_CALLS: Final = frozenset({"execve", "execveat"})
_BUILT: Final[dict[Builder, frozenset[str]]] = {
    _view_exec: _PLAIN | _STARTED,
    _view_open: _PLAIN | {"file_event", "file_access"},
    _view_creation: _PLAIN | {"file_event"},
    _view_rename: _PLAIN | {"file_event", "file_rename"},
    _view_delete: _PLAIN | {"file_delete"},
    _view_change: _PLAIN | {"file_change"},
    _view_connection: _PLAIN | {"network_connection"},
}
_CATEGORIES: Final = {name: _BUILT[build] for name, build in _BUILDERS.items()}
