"""What a syscall's first four arguments mean. Which argument is what comes from the manual pages, section 2.

Numbers are written by name as `ausearch -i` writes them; what has no name, pointers and lengths stay in hex.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final

from watchdogd.decode import tables

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Values = Mapping[str, str]
    Meaning = Callable[[int, Values], str]

_AT_FDCWD: Final = frozenset({0xFFFFFF9C, 0xFFFFFFFFFFFFFF9C})
_UNSET: Final = frozenset({0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF})
_O_ACCMODE: Final = 3
_O_CREAT: Final = 0o100
_SIGNAL_BITS: Final = 0xFF
_SOCKET_TYPE_BITS: Final = 0xF
_SPECIAL_BITS: Final = ((0o4000, "suid"), (0o2000, "sgid"), (0o1000, "sticky"))

NAMES: Final = ("a0", "a1", "a2", "a3")


def parse_hex(raw: str | None) -> int | None:
    """A register as records write it, None where it is no hex."""
    if raw is None:
        return None
    try:
        return int(raw, 16)
    except ValueError:
        return None


def interpret_argument(name: str, raw: str, values: Values) -> str:
    """One of a0..a3 of a SYSCALL record; `values` are the record's raw values, of which arch and syscall are needed."""
    value = parse_hex(raw)
    if value is None:
        return raw
    meaning = _find_meanings(values.get("arch"), values.get("syscall")).get(name)
    return f"0x{raw}" if meaning is None else meaning(value, values)


def mode_waits_for_flags(values: Values) -> bool:
    """True for the syscalls whose mode means something only if their flags, another argument, say so."""
    return tables.name_syscall(values.get("arch"), values.get("syscall")) in _OPENING_CALLS


@functools.lru_cache(maxsize=256)
def _find_meanings(arch: str | None, number: str | None) -> Mapping[str, Meaning]:
    call = tables.name_syscall(arch, number) or ""
    if call == "mmap" and tables.ARCHITECTURES.get(arch or "") in _OLD_MMAP:
        return {}
    return _MEANINGS.get(call, {})


def name_mode(value: int, kind: str = "") -> str:
    """Permission bits: `0644`, `suid,0755`; with a file type in front, `file,suid,755`."""
    bits = [name for bit, name in _SPECIAL_BITS if value & bit]
    return ",".join([kind, *bits, f"{value & 0o777:03o}"] if kind else [*bits, f"0{value & 0o777:03o}"])


def name_file_mode(value: int) -> str:
    """Mode with its file type, as stat(2) has it."""
    kind = value & 0o170000
    return name_mode(value, tables.load_tables().names["file type"].get(str(kind), f"{kind:03o}"))


def name_open_flags(value: int, arch: str | None) -> str:
    """Flags of open(2) by the numbers of the recording host."""
    known = tables.load_tables().flags
    own = known.get(f"open {tables.ARCHITECTURES.get(arch or '', '')}", known["open"])
    names = tables.name_flags(own, value)
    return names if value & _O_ACCMODE else "|".join(part for part in ("O_RDONLY", names) if part)


def _flags(subject: str, none: str = "0x0") -> Meaning:
    def name(value: int, values: Values) -> str:  # noqa: ARG001 - one signature for all
        return tables.name_flags(tables.load_tables().flags[subject], value) or none

    return name


def _names(subject: str) -> Meaning:
    def name(value: int, values: Values) -> str:  # noqa: ARG001 - one signature for all
        return tables.load_tables().names[subject].get(str(value), f"0x{value:x}")

    return name


def _mode_where_created(flags: str) -> Meaning:
    """The kernel reads the mode only where the flags, another argument, ask for a new file."""

    def name(value: int, values: Values) -> str:
        creates = (parse_hex(values.get(flags)) or 0) & _O_CREAT
        return name_mode(value) if creates else f"0x{value:x}"

    return name


def _opening(value: int, values: Values) -> str:
    return name_open_flags(value, values.get("arch"))


def _mode(value: int, values: Values) -> str:  # noqa: ARG001 - one signature for all
    return name_mode(value)


def _file_mode(value: int, values: Values) -> str:  # noqa: ARG001 - one signature for all
    return name_file_mode(value)


def _signal(value: int, values: Values) -> str:  # noqa: ARG001 - one signature for all
    return name_signal(value) or f"0x{value:x}"


def name_signal(value: int) -> str | None:
    """Signal by name; 0 only asks whether the process is there."""
    return tables.load_tables().signals.get(str(value)) if value else "SIG0"


def _descriptor(value: int, values: Values) -> str:  # noqa: ARG001 - one signature for all
    return "AT_FDCWD" if value in _AT_FDCWD else f"0x{value:x}"


def _id(value: int, values: Values) -> str:  # noqa: ARG001 - one signature for all
    return "unset" if value in _UNSET else str(value)


def _cloning(value: int, values: Values) -> str:  # noqa: ARG001 - one signature for all
    """The lowest byte is the signal that the parent gets."""
    names = tables.name_flags(tables.load_tables().flags["clone"], value & ~_SIGNAL_BITS)
    signal = tables.load_tables().signals.get(str(value & _SIGNAL_BITS))
    return "|".join(part for part in (names, signal) if part) or "0x0"


def _socket_type(value: int, values: Values) -> str:  # noqa: ARG001 - one signature for all
    """SOCK_CLOEXEC and SOCK_NONBLOCK have the numbers of O_CLOEXEC and O_NONBLOCK."""
    known = tables.load_tables()
    name = known.names["socket"].get(str(value & _SOCKET_TYPE_BITS), f"0x{value & _SOCKET_TYPE_BITS:x}")
    rest = tables.name_flags(known.flags["open"], value & ~_SOCKET_TYPE_BITS).replace("O_", "SOCK_")
    return f"{name}|{rest}" if rest else name


_OLD_MMAP: Final = frozenset({"i386", "arm"})
"""Their `mmap` has one argument, a pointer; what is called so elsewhere is their `mmap2`."""

_IN_FOLDER: Final = {"a0": _descriptor}
_ROWS: Final[tuple[tuple[str, Mapping[str, Meaning]], ...]] = (
    ("open mq_open", {"a1": _opening, "a2": _mode_where_created("a1")}),
    ("openat", {**_IN_FOLDER, "a2": _opening, "a3": _mode_where_created("a2")}),
    ("open_by_handle_at", {"a2": _opening}),
    ("creat chmod fchmod mkdir", {"a1": _mode}),
    ("mkdirat fchmodat fchmodat2", {**_IN_FOLDER, "a2": _mode}),
    ("mknod", {"a1": _file_mode}),
    ("mknodat", {**_IN_FOLDER, "a2": _file_mode}),
    ("access", {"a1": _flags("access", "F_OK")}),
    ("faccessat faccessat2", {**_IN_FOLDER, "a2": _flags("access", "F_OK")}),
    ("openat2 unlinkat newfstatat fstatat64 futimesat utimensat readlinkat statx execveat", _IN_FOLDER),
    ("name_to_handle_at", _IN_FOLDER),
    ("symlinkat", {"a1": _descriptor}),
    ("linkat renameat renameat2", {**_IN_FOLDER, "a2": _descriptor}),
    ("kill tkill", {"a1": _signal}),
    ("rt_sigaction sigaction signal", {"a0": _signal}),
    ("tgkill", {"a2": _signal}),
    ("clone unshare", {"a0": _cloning}),
    ("setns", {"a1": _cloning}),
    ("mmap mmap2", {"a2": _flags("protection", "PROT_NONE"), "a3": _flags("mmap")}),
    ("mprotect", {"a2": _flags("protection", "PROT_NONE")}),
    ("mount", {"a3": _flags("mount")}),
    ("umount2", {"a1": _flags("umount")}),
    ("ptrace", {"a0": _names("ptrace")}),
    ("prctl", {"a0": _names("prctl")}),
    ("bpf", {"a0": _names("bpf")}),
    ("personality", {"a0": _names("personality")}),
    ("getrlimit setrlimit", {"a0": _names("rlimit")}),
    ("prlimit64", {"a1": _names("rlimit")}),
    ("clock_settime clock_adjtime", {"a0": _names("clock")}),
    ("fcntl fcntl64", {"a1": _names("fcntl")}),
    ("epoll_ctl", {"a1": _names("epoll")}),
    ("lseek", {"a2": _names("whence")}),
    ("sched_setscheduler", {"a1": _names("scheduler")}),
    ("socket socketpair", {"a0": _names("family"), "a1": _socket_type, "a2": _names("protocol")}),
    ("sendmsg recvmsg", {"a2": _flags("message")}),
    ("sendto recvfrom sendmmsg recvmmsg send recv", {"a3": _flags("message")}),
    ("socketcall", {"a0": _names("socketcall")}),
    ("ipc", {"a0": _names("ipc")}),
    ("setuid setgid setfsuid setfsgid", {"a0": _id}),
    ("setreuid setregid", {"a0": _id, "a1": _id}),
    ("setresuid setresgid", {"a0": _id, "a1": _id, "a2": _id}),
    ("chown fchown lchown", {"a1": _id, "a2": _id}),
    ("fchownat", {**_IN_FOLDER, "a2": _id, "a3": _id}),
)
_MEANINGS: Final = {call: meanings for calls, meanings in _ROWS for call in calls.split()}
_OPENING_CALLS: Final = frozenset({"open", "openat", "mq_open"})
