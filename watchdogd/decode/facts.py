"""What views need of the two commonest records, read by one anchored pattern each instead of field by field.

A record that is written in any other way goes through the general parser; both ways must agree (there is a test).
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Final

import msgspec

from watchdogd.decode import tables
from watchdogd.decode.actor import Actor, present, read_actor
from watchdogd.decode.arguments import MULTIPLEXED, name_call
from watchdogd.decode.interpret import known_there, parse_number

if TYPE_CHECKING:
    from watchdogd.decode.record import AuditLine

_SYSCALL: Final = re.compile(
    rb"(arch=[0-9a-f]{1,16}+ syscall=[0-9]{1,20}+) (?:per=[^ ]++ )?+(?:success=([a-z]++) exit=(-?+[0-9]++) )?+"
    rb"a0=([0-9a-f]++) a1=([0-9a-f]++) a2=([0-9a-f]++) a3=([0-9a-f]++) items=([0-9]{1,9}+) "
    rb"ppid=([0-9]{1,10}+) pid=([0-9]{1,10}+) (?=auid=)"
)
_SUBJECT: Final = re.compile(
    rb"auid=([0-9]{1,10}+) uid=([0-9]{1,10}+) gid=[0-9]++ euid=[0-9]++ "
    rb"suid=[0-9]++ fsuid=[0-9]++ egid=[0-9]++ sgid=[0-9]++ fsgid=[0-9]++ tty=([^ \r\n\x1d]++) ses=([0-9]++) "
    rb'comm=("[^"\x1d]*+"|[0-9A-F]++|\(null\)) exe=("[^"\x1d]*+"|[0-9A-F]++|\(null\))(?= |\r|\n|\x1d|$)'
)
_PATH: Final = re.compile(
    rb'item=[0-9]++ name=("[^"\x1d]*+"|[0-9A-F]++|\(null\)) (?:inode=([0-9]++) dev=[^ ]++ mode=[^ ]++ '
    rb"ouid=[^ ]++ ogid=[^ ]++ rdev=[^ ]++ )?+(?:obj=[^ ]++ )?+nametype=([A-Z]++)(?= |\r|\n|\x1d|$)"
)
_PATH_TAIL: Final = re.compile(
    rb" dev=[^ ]++ mode=[^ ]++ ouid=[^ ]++ ogid=[^ ]++ rdev=[^ ]++ (?:obj=[^ ]++ )?+"
    rb"nametype=([A-Z]++)(?= |\r|\n|\x1d|$)"
)
_PATH_PIECES: Final = 2
_NAME_END: Final = len(b'" inode=')
_ENRICHED: Final = re.compile(rb'\x1d(?:ARCH=[^ ]++ SYSCALL=[^ ]++ )?+AUID="([^"]*+)" UID="([^"]*+)"')
_UNSET: Final = b"4294967295"
_RECALLED: Final = 1024
_RECALLED_BYTES: Final = 512
_OUTCOMES: Final = {"yes": "success", "no": "failure"}
_OUTCOMES_RAW: Final = {b"yes": "success", b"no": "failure"}

_URING_CALLS: Final = {
    **{
        name: name
        for name in (
            *("openat", "openat2", "unlinkat", "renameat", "mkdirat", "symlinkat", "linkat", "setxattr", "fsetxattr"),
            *("getxattr", "fgetxattr", "statx", "connect", "accept", "bind", "listen", "socket", "sendmsg", "recvmsg"),
        )
    },
    "send": "sendto",
    "send_zc": "sendto",
    "sendmsg_zc": "sendmsg",
}
"""io_uring's operations that do what a call does."""


class SyscallFacts(msgspec.Struct, frozen=True, gc=False):
    """A SYSCALL (or URINGOP) record as views read it. What the record lacks is None."""

    name: str
    """Syscall by name, of i386's socketcall and ipc the call they carry.

    Where the tables lack the number it is what the recording host called it, or `syscall(NUMBER)`. Of io_uring it is
    the call that does the same, or `io_uring(OPERATION)`.
    """
    outcome: str
    """`success`, `failure` or `unknown`."""
    exit: str | None
    args: tuple[str, ...]
    """The four registers as written, in hex; empty where the record has none (io_uring)."""
    items: int | None
    """How many PATH records belong to the event."""
    actor: Actor


class PathFacts(msgspec.Struct, frozen=True, gc=False):
    """A PATH record as views read it."""

    name: str | None
    inode: str | None
    kind: str | None
    """`nametype` (NORMAL, PARENT, CREATE, DELETE, UNKNOWN), None where the kernel is too old to say."""


class _Subject(msgspec.Struct, frozen=True, gc=False):
    """What stands behind the pids of a SYSCALL record; the same again in every call of a program."""

    uid: int
    user: str | None
    auid: int | None
    login: str | None
    session: str | None
    tty: str | None
    comm: str | None
    exe: str | None


def read_syscall(line: AuditLine) -> SyscallFacts:
    """Facts of a SYSCALL or URINGOP record."""
    data = line.record.data
    found = _SYSCALL.match(data, line.body_at)
    if found is None:
        return _read_syscall_fields(line)
    rest = data[found.end() :]
    subject = _recall_subject(rest) if len(rest) <= _RECALLED_BYTES else _read_subject(rest)
    if subject is None:
        return _read_syscall_fields(line)
    call, success, code, a0, a1, a2, a3, items, ppid, pid = found.groups()
    if data.startswith(b"type="):
        line.pieces_cache = (data[line.body_at : found.start(4 if code is None else 3)], rest)
    return SyscallFacts(
        _recall_name(call) or _name_call(call, a0, line),
        _OUTCOMES_RAW.get(success, "unknown"),
        code.decode() if code is not None else None,
        (a0.decode(), a1.decode(), a2.decode(), a3.decode()),
        int(items),
        Actor(
            int(pid),
            int(ppid),
            subject.uid,
            subject.user,
            subject.auid,
            subject.login,
            subject.session,
            subject.tty,
            subject.comm,
            subject.exe,
        ),
    )


def _read_name(call: bytes) -> str | None:
    """Syscall by name; None where that needs more than its number."""
    arch, number = _split_call(call)
    name = name_call(arch, number, None)
    return None if name in MULTIPLEXED else name


def _name_call(call: bytes, first: bytes, line: AuditLine) -> str:
    arch, number = _split_call(call)
    return name_call(arch, number, first.decode()) or known_there(line.enriched, "syscall") or f"syscall({number})"


def _split_call(call: bytes) -> tuple[str, str]:
    """Of `arch=X syscall=N` X and N."""
    arch, number = call.decode().split(" ")
    return arch.partition("=")[2], number.partition("=")[2]


def read_path(line: AuditLine) -> PathFacts:
    """Facts of a PATH record."""
    body = line.record.data[line.body_at :]
    facts = _recall_path(body) if len(body) <= _RECALLED_BYTES else _read_path(body)
    if facts is not None:
        return facts
    get = line.values.get
    return PathFacts(present(get("name")), get("inode"), get("nametype") or get("objtype"))


def read_target(line: AuditLine) -> str | None:
    """The name that a PATH record gives, None where it gives none or is that of a parent folder."""
    pieces = line.pieces
    if len(pieces) == _PATH_PIECES and len(pieces[1]) <= _RECALLED_BYTES:
        start, tail = pieces
        kind = _recall_kind(tail)
        if kind is not None:
            return None if kind == b"PARENT" else _text(start[start.find(b'"') + 1 : -_NAME_END])
    path = read_path(line)
    return None if path.kind == "PARENT" else path.name


def _read_kind(tail: bytes) -> bytes | None:
    """`nametype` of a PATH record's second piece; None where that is not the usual one."""
    found = _PATH_TAIL.match(tail)
    return None if found is None else found[1]


def _read_path(body: bytes) -> PathFacts | None:
    found = _PATH.match(body)
    if found is None:
        return None
    name, inode, kind = found.groups()
    return PathFacts(_string(name), inode.decode() if inode is not None else None, kind.decode())


def _read_subject(rest: bytes) -> _Subject | None:
    found = _SUBJECT.match(rest)
    if found is None:
        return None
    auid, uid, tty, ses, comm, exe = found.groups()
    login = user = None
    if rest.find(b"\x1d", found.end()) >= 0:
        names = _ENRICHED.search(rest, found.end())
        if names is None:
            return None
        login, user = _text(names[1]), _text(names[2])
    return _Subject(
        int(uid),
        user,
        int(auid) if auid != _UNSET else None,
        login if auid != _UNSET else None,
        ses.decode() if ses != _UNSET else None,
        None if tty == b"(none)" else _text(tty),
        _string(comm),
        _string(exe),
    )


_recall_name: Final = functools.lru_cache(maxsize=_RECALLED)(_read_name)
_recall_kind: Final = functools.lru_cache(maxsize=_RECALLED)(_read_kind)
_recall_path: Final = functools.lru_cache(maxsize=_RECALLED)(_read_path)
_recall_subject: Final = functools.lru_cache(maxsize=_RECALLED)(_read_subject)


def _read_syscall_fields(line: AuditLine) -> SyscallFacts:
    get = line.values.get
    number = get("syscall")
    operation = get("uring_op")
    name = name_call(get("arch"), number, get("a0")) if operation is None else _name_operation(operation)
    return SyscallFacts(
        name=name or known_there(line.enriched, "syscall") or f"syscall({number or '?'})",
        outcome=_OUTCOMES.get(get("success") or "", "unknown"),
        exit=get("exit"),
        args=tuple(get(name) or "" for name in ("a0", "a1", "a2", "a3")),
        items=parse_number(get("items")),
        actor=read_actor(line),
    )


def _name_operation(number: str) -> str:
    """The call that an operation of io_uring stands for; of those that no call is like, `io_uring(NAME)`."""
    name = tables.name_operation(number) or number
    return _URING_CALLS.get(name, f"io_uring({name})")


def _string(raw: bytes) -> str | None:
    if raw[:1] == b'"':
        return _text(raw[1:-1])
    if raw == b"(null)":
        return None
    return present(raw.decode())


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
