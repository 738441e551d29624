"""Interpreted values, as `ausearch -i` shows them. The raw value always stays beside them.

Names of users and groups come from the enriched part of the line alone: the machine that replays a log is rarely the
one that wrote it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from watchdogd.decode import tables
from watchdogd.decode.sockaddr import decode_sockaddr, describe_address

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from watchdogd.entities import FieldTriple

UNSET_ID: Final = "4294967295"
"""(uid_t)-1: no login uid, no session."""

_HEX: Final = re.compile(r"(?:[0-9A-F]{2})+")
_ARGUMENT: Final = re.compile(r"a[0-9]+(?:\[[0-9]+\])?")
_MAX_OCTAL_DIGITS: Final = 11

_IDS: Final = frozenset(
    [
        "auid",
        "uid",
        "gid",
        "euid",
        "suid",
        "fsuid",
        "egid",
        "sgid",
        "fsgid",
        "ouid",
        "ogid",
        "oauid",
        "old-auid",
        "sauid",
        "id",
        "inode_uid",
        "inode_gid",
        "new_gid",
        "obj_uid",
        "obj_gid",
        "iuid",
        "igid",
    ]
)
_SESSIONS: Final = frozenset({"ses", "oses"})
_STRINGS: Final = frozenset(
    [
        "acct",
        "apparmor",
        "cmd",
        "comm",
        "cwd",
        "denied_mask",
        "device",
        "dir",
        "exe",
        "file",
        "grp",
        "info",
        "invalid_context",
        "key",
        "name",
        "new-acct",
        "new_group",
        "new_name",
        "ocomm",
        "old_name",
        "operation",
        "path",
        "peer",
        "profile",
        "requested_mask",
        "root_dir",
        "src",
        "srcname",
        "sw",
        "target",
        "unit",
        "vm",
        "watch",
        "hook",
    ]
)
"""What the kernel or libaudit quotes, or writes in hex where quotes would not do."""

_CAPABILITY_MASKS: Final = frozenset(
    [
        "cap_fi",
        "cap_fp",
        "cap_pi",
        "cap_pp",
        "cap_pe",
        "cap_pa",
        "fp",
        "fi",
        "old_pp",
        "old_pi",
        "old_pe",
        "old_pa",
        "new_pp",
        "new_pi",
        "new_pe",
        "pp",
        "pi",
        "pe",
        "pa",
    ]
)
_FILTER_LISTS: Final = {
    "0": "user",
    "1": "task",
    "2": "entry",
    "3": "watch",
    "4": "exit",
    "5": "exclude",
    "6": "filesystem",
}
_FILE_TYPES: Final = {
    0o140000: "socket",
    0o120000: "link",
    0o100000: "file",
    0o060000: "block",
    0o040000: "dir",
    0o020000: "character",
    0o010000: "fifo",
}
_NETFILTER_FAMILIES: Final = {"2": "ipv4", "7": "bridge", "10": "ipv6"}
_SECCOMP_ACTIONS: Final = {
    "0x0": "kill",
    "0x80000000": "kill-process",
    "0x30000": "trap",
    "0x50000": "errno",
    "0x7fc00000": "user-notify",
    "0x7ff00000": "trace",
    "0x7ffc0000": "log",
    "0x7fff0000": "allow",
}
_AT_FDCWD: Final = frozenset({"ffffff9c", "ffffffffffffff9c"})


def decode_string(raw: str) -> str:
    """Text of a string field: quotes removed, hex decoded; anything else as it is."""
    if raw.startswith('"'):
        return raw[1:-1] if len(raw) > 1 and raw.endswith('"') else raw[1:]
    if _HEX.fullmatch(raw):
        return bytes.fromhex(raw).decode("utf-8", "backslashreplace")
    return raw


def decode_bytes(raw: str) -> bytes:
    """As decode_string, in bytes: pieces of one string are joined before they become text."""
    if raw.startswith('"'):
        return raw.strip('"').encode("utf-8", "surrogateescape")
    return bytes.fromhex(raw) if _HEX.fullmatch(raw) else raw.encode("utf-8", "surrogateescape")


def interpret_fields(kind: str, pairs: list[tuple[str, str]], enriched: Mapping[str, str]) -> tuple[FieldTriple, ...]:
    """Triples of one record's fields, in order. Keys that the kernel joined by 0x01 become one triple each."""
    values = dict(reversed(pairs))
    triples: list[FieldTriple] = []
    for name, raw in pairs:
        if name == "key" and "01" in raw and _HEX.fullmatch(keys := raw.rstrip('"')):
            triples += [(name, raw, part) for part in decode_string(keys).split("\x01")]
        else:
            triples.append((name, raw, interpret_value(kind, name, raw, values, enriched)))
    return tuple(triples)


def interpret_value(  # noqa: PLR0911 - one for each kind of field
    kind: str, name: str, raw: str, values: Mapping[str, str], enriched: Mapping[str, str]
) -> str:
    """Interpreted value of one field; `values` are the record's other raw values, `enriched` what follows 0x1d."""
    if name in _IDS:
        known = enriched.get(name.upper())
        return known if known is not None else _interpret_id(raw)
    if name in _STRINGS or (kind == "EXECVE" and _ARGUMENT.fullmatch(name)):
        return decode_string(raw)
    simple = _SIMPLE.get(name)
    if simple is not None:
        return simple(raw)
    if name in _CAPABILITY_MASKS:
        return _interpret_capabilities(raw)
    if name == "syscall":
        return tables.name_syscall(values.get("arch"), raw) or raw
    if kind == "SYSCALL" and name in {"a0", "a1", "a2", "a3"}:
        return _interpret_argument(name, raw, values)
    return decode_string(raw) if raw.startswith('"') else raw


def _interpret_id(raw: str) -> str:
    return "unset" if raw in {UNSET_ID, "-1"} else raw


def _interpret_arch(raw: str) -> str:
    return tables.ARCHITECTURES.get(raw, raw)


def _interpret_exit(raw: str) -> str:
    if not raw.startswith("-"):
        return raw
    known = tables.load_tables().errno.get(raw[1:])
    return f"{known[0]}({known[1]})" if known is not None else raw


def _interpret_result(raw: str) -> str:
    return {"0": "no", "1": "yes"}.get(raw, raw)


def _interpret_sockaddr(raw: str) -> str:
    address = decode_sockaddr(raw)
    return describe_address(address) if address is not None else raw


def _interpret_proctitle(raw: str) -> str:
    return decode_string(raw).replace("\0", " ")


def _interpret_mode(raw: str) -> str:
    if not raw.isascii() or not raw.isdigit() or len(raw) > _MAX_OCTAL_DIGITS or not set(raw) <= set("01234567"):
        return raw
    value = int(raw, 8)
    kind = _FILE_TYPES.get(value & 0o170000, f"{value & 0o170000:o}")
    bits = [name for bit, name in ((0o4000, "suid"), (0o2000, "sgid"), (0o1000, "sticky")) if value & bit]
    return ",".join([kind, *bits, f"{value & 0o777:03o}"])


def _interpret_capabilities(raw: str) -> str:
    try:
        mask = int(raw, 16)
    except ValueError:
        return raw
    if not mask:
        return "none"
    names = tables.load_tables().capabilities
    return ",".join(name for bit, name in enumerate(names) if mask >> bit & 1) or raw


def _interpret_signal(raw: str) -> str:
    return tables.load_tables().signals.get(raw, raw)


_SIMPLE: Final[Mapping[str, Callable[[str], str]]] = {
    "arch": _interpret_arch,
    "exit": _interpret_exit,
    "saddr": _interpret_sockaddr,
    "proctitle": _interpret_proctitle,
    "mode": _interpret_mode,
    "res": _interpret_result,
    "sig": _interpret_signal,
    "list": lambda raw: _FILTER_LISTS.get(raw, raw),
    "family": lambda raw: _NETFILTER_FAMILIES.get(raw, raw),
    "code": lambda raw: _SECCOMP_ACTIONS.get(raw, raw),
    "data": decode_string,
    **dict.fromkeys(_SESSIONS, _interpret_id),
}


def parse_hex(raw: str | None) -> int | None:
    """A register as records write it, None where it is no hex."""
    if raw is None:
        return None
    try:
        return int(raw, 16)
    except ValueError:
        return None


def _interpret_argument(name: str, raw: str, values: Mapping[str, str]) -> str:
    """A syscall's first four arguments: known flags by name, everything else as hex."""
    value = parse_hex(raw)
    if value is None:
        return raw
    meaning = _ARGUMENTS.get((tables.name_syscall(values.get("arch"), values.get("syscall")) or "", name))
    return meaning(value, values) if meaning is not None else f"0x{raw}"


def _name_open_flags(value: int, values: Mapping[str, str]) -> str:  # noqa: ARG001 - one signature for all
    if not value & 3:
        rest = tables.name_flags(tables.load_tables().open_flags, value)
        return f"O_RDONLY|{rest}" if rest else "O_RDONLY"
    return tables.name_flags(tables.load_tables().open_flags, value)


def _name_signal(value: int, values: Mapping[str, str]) -> str:  # noqa: ARG001 - one signature for all
    return tables.load_tables().signals.get(str(value), f"0x{value:x}")


def _name_mode(value: int, values: Mapping[str, str]) -> str:  # noqa: ARG001 - one signature for all
    return f"0{value & 0o7777:o}"


def _name_family(value: int, values: Mapping[str, str]) -> str:  # noqa: ARG001 - one signature for all
    return tables.load_tables().socket_families.get(str(value), f"0x{value:x}")


def _name_descriptor(value: int, values: Mapping[str, str]) -> str:  # noqa: ARG001 - one signature for all
    return "AT_FDCWD" if f"{value:x}" in _AT_FDCWD else f"0x{value:x}"


def _name_clone_flags(value: int, values: Mapping[str, str]) -> str:  # noqa: ARG001 - one signature for all
    names = tables.name_flags(tables.load_tables().clone_flags, value & ~0xFF)
    signal = tables.load_tables().signals.get(str(value & 0xFF))
    return "|".join(part for part in (names, signal) if part) or "0x0"


def _name_protection(value: int, values: Mapping[str, str]) -> str:  # noqa: ARG001 - one signature for all
    return tables.name_flags(tables.load_tables().mmap_prot, value) or "PROT_NONE"


def _name_open_mode(at: str) -> Callable[[int, Mapping[str, str]], str]:
    def name(value: int, values: Mapping[str, str]) -> str:
        creates = (parse_hex(values.get(at)) or 0) & 0o100
        return f"0{value & 0o7777:o}" if creates else f"0x{value:x}"

    return name


_ARGUMENTS: Final[Mapping[tuple[str, str], Callable[[int, Mapping[str, str]], str]]] = {
    ("open", "a1"): _name_open_flags,
    ("open", "a2"): _name_open_mode("a1"),
    ("openat", "a0"): _name_descriptor,
    ("openat", "a2"): _name_open_flags,
    ("openat", "a3"): _name_open_mode("a2"),
    ("creat", "a1"): _name_mode,
    ("chmod", "a1"): _name_mode,
    ("fchmod", "a1"): _name_mode,
    ("mkdir", "a1"): _name_mode,
    ("fchmodat", "a0"): _name_descriptor,
    ("fchmodat", "a2"): _name_mode,
    ("mkdirat", "a0"): _name_descriptor,
    ("unlinkat", "a0"): _name_descriptor,
    ("fchownat", "a0"): _name_descriptor,
    ("newfstatat", "a0"): _name_descriptor,
    ("faccessat", "a0"): _name_descriptor,
    ("kill", "a1"): _name_signal,
    ("tkill", "a1"): _name_signal,
    ("tgkill", "a2"): _name_signal,
    ("rt_sigaction", "a0"): _name_signal,
    ("socket", "a0"): _name_family,
    ("clone", "a0"): _name_clone_flags,
    ("mmap", "a2"): _name_protection,
    ("mprotect", "a2"): _name_protection,
}
