"""Interpreted values, as `ausearch -i` shows them. The raw value always stays beside them.

Names of users and groups come from the enriched part of the line alone: the machine that replays a log is rarely the
one that wrote it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from watchdogd.decode import tables
from watchdogd.decode.arguments import NAMES as ARGUMENTS
from watchdogd.decode.arguments import (
    describe_call,
    interpret_argument,
    name_file_mode,
    name_mode,
    name_open_flags,
    name_personality,
    name_signal,
    parse_hex,
)
from watchdogd.decode.sockaddr import decode_sockaddr, describe_address

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from watchdogd.entities import FieldTriple

UNSET_ID: Final = "4294967295"
"""(uid_t)-1: no login uid, no session."""

_HEX: Final = re.compile(r"(?:[0-9A-F]{2})+")
_ENRICHED: Final = re.compile(r'(?<![^ ])([^ =]++)=("[^"]*+"|[^ ]*+)')
_ARGUMENT: Final = re.compile(r"a[0-9]+(?:\[[0-9]+\])?")
_ARGUMENT_NAMES: Final = frozenset(ARGUMENTS)
_MAX_OCTAL_DIGITS: Final = 11
_MAX_DIGITS: Final = 10
_PERMISSIONS: Final = ("read", "write", "exec", "attr")
"""auditctl's order."""

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
        "srcname",
        "sw",
        "target",
        "vm",
        "watch",
        *("cgroup", "new-chardev", "old-chardev", "new-disk", "old-disk", "new-fs", "old-fs", "new-net", "old-net"),
        *("new-rng", "old-rng"),
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
        if is_several_keys(name, raw):
            triples += [(name, raw, part) for part in decode_string(raw.rstrip('"')).split("\x01")]
        else:
            triples.append((name, raw, interpret_value(kind, name, raw, values, enriched)))
    return tuple(triples)


def is_several_keys(name: str, raw: str) -> bool:
    """True for keys that the kernel joined by 0x01."""
    return name == "key" and "01" in raw and _HEX.fullmatch(raw.rstrip('"')) is not None


def split_body(body: bytes) -> tuple[str, str]:
    r"""Body as text, and what auditd resolved on its host: `UID="root"` after byte 0x1d (log_format = ENRICHED).

    Bytes that are not UTF-8 are written `\xNN`.
    """
    text, _, enriched = body.rstrip(b"\r\n").decode("utf-8", "backslashreplace").partition("\x1d")
    return text.rstrip("\r\n"), enriched


def read_enriched(text: str) -> dict[str, str]:
    """What auditd resolved on the recording host, by upper-case name, without quotes; `text` follows byte 0x1d."""
    return {name: value.strip('"') for name, value in _ENRICHED.findall(text)}


def known_there(enriched: Mapping[str, str], name: str) -> str | None:
    """What the recording host called a number that our tables lack; None where it did not know it either."""
    value = enriched.get(name.upper())
    return None if value is None or value.startswith("unknown") else value


def interpret_value(  # noqa: PLR0911 - one for each kind of field
    kind: str, name: str, raw: str, values: Mapping[str, str], enriched: Mapping[str, str]
) -> str:
    """Interpreted value of one field; `values` are the record's other raw values, `enriched` what follows 0x1d."""
    if name in _ARGUMENT_NAMES and kind != "EXECVE":
        return interpret_argument(name, raw, values)
    if name in _IDS:
        known = enriched.get(name.upper())
        return known if known is not None else _interpret_id(raw)
    if name in _STRINGS or (kind == "EXECVE" and _ARGUMENT.fullmatch(name)):
        return decode_string(raw)
    if raw[:1] == '"':
        return decode_string(raw)
    if name == "arch":
        return tables.load_tables().architectures.get(raw) or known_there(enriched, name) or raw
    simple = _OWN[kind].get(name) if kind in _OWN else None
    simple = simple or _SIMPLE.get(name)
    if simple is not None:
        return simple(raw)
    if name in _CAPABILITY_MASKS:
        return _interpret_capabilities(raw)
    if name == "syscall":
        return describe_call(raw, values) or known_there(enriched, name) or raw
    return decode_string(raw) if kind == "TRUSTED_APP" and not raw.isdecimal() else raw


def _interpret_id(raw: str) -> str:
    return "unset" if raw in {UNSET_ID, "-1"} else raw


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
    return name_file_mode(int(raw, 8)) if _is_octal(raw) else raw


def _is_octal(raw: str) -> bool:
    return raw.isascii() and raw.isdigit() and len(raw) <= _MAX_OCTAL_DIGITS and set(raw) <= set("01234567")


def _interpret_capabilities(raw: str) -> str:
    try:
        mask = int(raw, 16)
    except ValueError:
        return raw
    if not mask:
        return "none"
    names = tables.load_tables().capabilities
    return ",".join(name for bit, name in enumerate(names) if mask >> bit & 1) or raw


def _interpret_capability(raw: str) -> str:
    names = tables.load_tables().capabilities
    number = parse_number(raw)
    return names[number] if number is not None and number < len(names) else raw


def _interpret_signal(raw: str) -> str:
    number = parse_number(raw)
    return (name_signal(number) if number is not None else None) or raw


def _interpret_seccomp(raw: str) -> str:
    value = parse_hex(raw)
    return raw if value is None else tables.load_tables().names["seccomp"].get(str(value & 0xFFFF0000), raw)


def _interpret_yes(raw: str) -> str:
    return raw if parse_number(raw) is None else "no" if int(raw) == 0 else "yes"


def _interpret_permission(raw: str) -> str:
    """The last number decides: what a watch of no permission in particular writes is all of them."""
    number = parse_number(raw)
    if number is None:
        return raw
    names = [name for bit, name in tables.load_tables().flags["permission"] if number & bit or not number]
    return ",".join(sorted(names, key=_PERMISSIONS.index)) or raw


def _by_name(subject: str) -> Callable[[str], str]:
    return lambda raw: tables.load_tables().names[subject].get(raw, raw)


def _by_flags(subject: str, none: str | None = None) -> Callable[[str], str]:
    def name(raw: str) -> str:
        value = parse_hex(raw)
        return raw if value is None else tables.name_flags(tables.load_tables().flags[subject], value) or none or raw

    return name


def _interpret_open_flags(raw: str) -> str:
    """MQ_OPEN writes them in hex, `0x42`, OPENAT2 in octal, `0102`."""
    try:
        value = int(raw, 16 if raw.startswith("0x") else 8)
    except ValueError:
        return raw
    return name_open_flags(value, None)


def _interpret_plain_mode(raw: str) -> str:
    return name_mode(int(raw, 8)) if _is_octal(raw) else raw


def _interpret_personality(raw: str) -> str:
    value = parse_hex(raw)
    return raw if value is None else name_personality(value)


def _interpret_request(raw: str) -> str:
    value = parse_hex(raw)
    return raw if value is None else tables.load_tables().names["ioctl"].get(str(value), f"0x{value:x}")


def _interpret_ethernet(raw: str) -> str:
    value = parse_hex(raw)
    return tables.load_tables().names["ethernet"].get(str(value), raw)


def parse_number(raw: str | None) -> int | None:
    """A decimal number as records write it; None for anything else."""
    if raw is None or len(raw) > _MAX_DIGITS or not raw.isdecimal():
        return None
    return int(raw)


_SIMPLE: Final[Mapping[str, Callable[[str], str]]] = {
    "exit": _interpret_exit,
    "error_msg": lambda raw: raw.strip("'"),
    "saddr": _interpret_sockaddr,
    "proctitle": _interpret_proctitle,
    "mode": _interpret_mode,
    "res": _interpret_result,
    "result": _interpret_result,
    "capability": _interpret_capability,
    "list": _by_name("filter list"),
    "family": _by_name("netfilter family"),
    "hook": _by_name("netfilter hook"),
    "action": _by_name("netfilter action"),
    "proto": _by_name("protocol"),
    "icmptype": _by_name("icmp"),
    "resp": _by_name("fanotify"),
    "per": _interpret_personality,
    "ioctlcmd": _interpret_request,
    "macproto": _interpret_ethernet,
    "nl-mcgrp": _by_name("netlink group"),
    "code": _interpret_seccomp,
    "flags": _by_flags("mmap", "MAP_FILE"),
    "resolve": _by_flags("resolve"),
    "oflag": _interpret_open_flags,
    "data": decode_string,
    **dict.fromkeys(("sig", "sigev_signo"), _interpret_signal),
    **dict.fromkeys(("prom", "old_prom"), _interpret_yes),
    **dict.fromkeys(("perm", "perm_mask"), _interpret_permission),
    **dict.fromkeys(_SESSIONS, _interpret_id),
}
_OWN: Final[Mapping[str, Mapping[str, Callable[[str], str]]]] = {
    "MQ_OPEN": {"mode": _interpret_plain_mode},
    "CRYPTO_KEY_USER": {"fp": str},
    "AVC": {"saddr": str},
    "NETFILTER_PKT": {"saddr": str},
}
"""Names that mean something else in records of one type: a fingerprint, an address in plain text."""
