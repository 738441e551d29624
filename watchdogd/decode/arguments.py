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
_PERSONALITY_BITS: Final = 0xFF
_PERMISSION_BITS: Final = 0o777
_RESET_ON_FORK: Final = 0x40000000
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


def arguments_wait(values: Values) -> bool:
    """True for the other syscalls of which one argument says what another one, or the call itself, means."""
    return tables.name_syscall(values.get("arch"), values.get("syscall")) in _WAITING_CALLS


def name_call(arch: str | None, number: str | None, first: str | None) -> str | None:
    """Syscall by name; of socketcall and ipc, which are many calls in one, the one that their first argument names."""
    name = tables.name_syscall(arch, number)
    return _name_part(name, first) or name if name in MULTIPLEXED else name


def describe_call(raw: str, values: Values) -> str | None:
    """A `syscall` value as `ausearch -i` shows it: `socketcall(connect)`, `execve`; None where it is unknown."""
    name = tables.name_syscall(values.get("arch"), raw)
    part = _name_part(name, values.get("a0")) if name in MULTIPLEXED else None
    return f"{name}({part})" if part is not None else name


def _name_part(name: str, first: str | None) -> str | None:
    value = parse_hex(first)
    return tables.load_tables().names[name].get(str(value)) if value is not None else None


@functools.lru_cache(maxsize=256)
def _find_meanings(arch: str | None, number: str | None) -> Mapping[str, Meaning]:
    call = tables.name_syscall(arch, number) or ""
    if call == "mmap" and tables.name_architecture(arch) in _OLD_MMAP:
        return {}
    return _MEANINGS.get(call, {})


def name_mode(value: int, kind: str = "") -> str:
    """Permission bits: `0644`, `suid,0755`; with a file type in front, `file,suid,755`."""
    bits = [name for bit, name in _SPECIAL_BITS if value & bit]
    return ",".join([kind, *bits, f"{value & 0o777:03o}"] if kind else [*bits, f"0{value & 0o777:03o}"])


def name_file_mode(value: int) -> str:
    """Mode with its file type, as stat(2) has it."""
    kind = value & 0o170000
    return name_mode(value, tables.load_tables().names["file type"].get(str(kind), f"{kind >> 12:03o}"))


def name_open_flags(value: int, arch: str | None) -> str:
    """Flags of open(2) by the numbers of the recording host."""
    known = tables.load_tables().flags
    own = known.get(f"open {tables.name_architecture(arch)}", known["open"])
    names = tables.name_flags(own, value)
    return names if value & _O_ACCMODE else "|".join(part for part in ("O_RDONLY", names) if part)


def _flags(subject: str, none: str = "0x0") -> Meaning:
    def name(value: int, values: Values) -> str:  # noqa: ARG001 - one signature for all
        return tables.name_flags(tables.load_tables().flags[subject], value) or none

    return name


def _names(subject: str) -> Meaning:
    """By the numbers of the recording host, where its architecture has its own."""

    def name(value: int, values: Values) -> str:
        known = tables.load_tables().names
        own = known.get(f"{subject} {tables.name_architecture(values.get('arch'))}", known[subject])
        return own.get(str(value), f"0x{value:x}")

    return name


def _option(value: int, values: Values) -> str:
    """The level, another argument, says whose option it is."""
    known = tables.load_tables().names.get(f"option {parse_hex(values.get('a1'))}", {})
    return known.get(str(value), f"0x{value:x}")


def name_personality(value: int) -> str:
    """The kind of personality, and what it changes beside that."""
    known = tables.load_tables()
    changes = tables.name_flags(known.flags["personality"], value & ~_PERSONALITY_BITS)
    kind = known.names["personality"].get(str(value & _PERSONALITY_BITS), f"0x{value & _PERSONALITY_BITS:x}")
    return f"{kind}|{changes}" if changes else kind


def _personality(value: int, values: Values) -> str:  # noqa: ARG001 - one signature for all
    """All bits set only ask for what it is."""
    return f"0x{value:x}" if value in _UNSET else name_personality(value)


def _scheduler(value: int, values: Values) -> str:  # noqa: ARG001 - one signature for all
    known = tables.load_tables().names["scheduler"]
    policy = known.get(str(value & ~_RESET_ON_FORK), f"0x{value & ~_RESET_ON_FORK:x}")
    return f"{policy}|SCHED_RESET_ON_FORK" if value & _RESET_ON_FORK else policy


def _capability(value: int, values: Values) -> str:  # noqa: ARG001 - one signature for all
    names = tables.load_tables().capabilities
    return names[value] if value < len(names) else f"0x{value:x}"


def _prctl_argument(value: int, values: Values) -> str:
    option = tables.load_tables().names["prctl"].get(str(parse_hex(values.get("a0"))))
    if option in {"PR_CAPBSET_READ", "PR_CAPBSET_DROP"}:
        return _capability(value, values)
    return _signal(value, values) if option == "PR_SET_PDEATHSIG" else f"0x{value:x}"


def _fcntl_argument(value: int, values: Values) -> str:
    command = tables.load_tables().names["fcntl"].get(str(parse_hex(values.get("a1"))))
    names = tables.load_tables().names["descriptor flags"] if command == "F_SETFD" else {}
    return names.get(str(value), f"0x{value:x}")


def _permissions_and(subject: str) -> Meaning:
    """What shmget and its kin are asked for: flags, and the mode of what they make."""

    def name(value: int, values: Values) -> str:  # noqa: ARG001 - one signature for all
        flags = tables.name_flags(tables.load_tables().flags[subject], value & ~_PERMISSION_BITS)
        mode = name_mode(value & _PERMISSION_BITS)
        return f"{flags}|{mode}" if flags else mode

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
    signal = value & _SIGNAL_BITS
    last = tables.load_tables().signals.get(str(signal), f"0x{signal:x}") if signal else ""
    return "|".join(part for part in (names, last) if part) or "0x0"


def _socket_type(value: int, values: Values) -> str:  # noqa: ARG001 - one signature for all
    known = tables.load_tables()
    name = known.names["socket"].get(str(value & _SOCKET_TYPE_BITS), f"0x{value & _SOCKET_TYPE_BITS:x}")
    rest = tables.name_flags(known.flags["socket"], value & ~_SOCKET_TYPE_BITS)
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
    ("name_to_handle_at setxattrat getxattrat listxattrat removexattrat file_getattr file_setattr", _IN_FOLDER),
    ("symlinkat", {"a1": _descriptor}),
    ("linkat renameat renameat2", {**_IN_FOLDER, "a2": _descriptor}),
    ("kill tkill", {"a1": _signal}),
    ("rt_sigaction sigaction signal", {"a0": _signal}),
    ("tgkill", {"a2": _signal}),
    ("clone", {"a0": _cloning}),
    ("unshare", {"a0": _flags("clone")}),
    ("setns", {"a1": _flags("clone")}),
    ("mmap mmap2", {"a2": _flags("protection", "PROT_NONE"), "a3": _flags("mmap", "MAP_FILE")}),
    ("mprotect", {"a2": _flags("protection", "PROT_NONE")}),
    ("mount", {"a3": _flags("mount")}),
    ("umount2", {"a1": _flags("umount")}),
    ("ptrace", {"a0": _names("ptrace")}),
    ("prctl", {"a0": _names("prctl"), "a1": _prctl_argument}),
    ("bpf", {"a0": _names("bpf")}),
    ("personality", {"a0": _personality}),
    ("getrlimit setrlimit", {"a0": _names("rlimit")}),
    ("prlimit64", {"a1": _names("rlimit")}),
    ("clock_settime clock_adjtime", {"a0": _names("clock")}),
    ("fcntl fcntl64", {"a1": _names("fcntl"), "a2": _fcntl_argument}),
    ("ioctl", {"a1": _names("ioctl")}),
    ("exit exit_group", {"a0": _names("exit code")}),
    ("epoll_ctl", {"a1": _names("epoll")}),
    ("lseek", {"a2": _names("whence")}),
    ("sched_setscheduler", {"a1": _scheduler}),
    ("shmget", {"a2": _permissions_and("shm")}),
    ("semget", {"a2": _permissions_and("ipc")}),
    ("msgget", {"a1": _permissions_and("ipc")}),
    ("socket socketpair", {"a0": _names("family"), "a1": _socket_type, "a2": _names("protocol")}),
    ("setsockopt getsockopt", {"a1": _names("socket level"), "a2": _option}),
    ("sendmsg recvmsg", {"a2": _flags("message")}),
    ("sendto recvfrom sendmmsg recvmmsg send recv", {"a3": _flags("message")}),
    ("socketcall", {"a0": _names("socketcall")}),
    ("ipc", {"a0": _names("ipc")}),
    ("setuid setgid setfsuid setfsgid setuid32 setgid32 setfsuid32 setfsgid32", {"a0": _id}),
    ("setreuid setregid setreuid32 setregid32", {"a0": _id, "a1": _id}),
    ("setresuid setresgid setresuid32 setresgid32", {"a0": _id, "a1": _id, "a2": _id}),
    ("chown fchown lchown chown32 fchown32 lchown32", {"a1": _id, "a2": _id}),
    ("fchownat", {**_IN_FOLDER, "a2": _id, "a3": _id}),
)
_MEANINGS: Final = {call: meanings for calls, meanings in _ROWS for call in calls.split()}
_OPENING_CALLS: Final = frozenset({"open", "openat", "mq_open"})
MULTIPLEXED: Final = frozenset({"socketcall", "ipc"})
_WAITING_CALLS: Final = frozenset({"prctl", "fcntl", "fcntl64", "setsockopt", "getsockopt", *MULTIPLEXED})
