"""What is remembered of a watched file, and what differs between two looks at it. Does no I/O.

Paths are bytes, as the kernel has them; `show_path` is how they are written in events.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from watchdogd.entities import FieldMap, Process  # noqa: TC001 - msgspec reads the annotations

FILE, FOLDER, LINK, FIFO, SOCKET, DEVICE = "file", "folder", "link", "fifo", "socket", "device"
SETUID: Final = 0o4000
SETGID: Final = 0o2000
EXECUTABLE: Final = 0o111

CONTENT, TARGET, TYPE = "content", "link_target", "type"
MODE, OWNER, GROUP, CAPABILITIES, XATTRS, MTIME = "mode", "owner", "group", "capabilities", "xattrs", "mtime"

_MAGIC_REVISION: Final = 0xFF000000
_EFFECTIVE: Final = 0x000001
_WORDS: Final = {0x01000000: 1, 0x02000000: 2, 0x03000000: 2}
_CAPABILITIES: Final = (
    *("chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap"),
    *("linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw", "ipc_lock", "ipc_owner"),
    *("sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct", "sys_admin", "sys_boot", "sys_nice"),
    *("sys_resource", "sys_time", "sys_tty_config", "mknod", "lease", "audit_write", "audit_control", "setfcap"),
    *("mac_override", "mac_admin", "syslog", "wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf"),
    "checkpoint_restore",
)
"""By number (linux/capability.h)."""


class FileState(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A file at one moment. `sha256` is None of what has no content, is too large, or could not be read."""

    kind: str
    mode: int
    """Permissions with setuid, setgid and sticky bit."""
    uid: int
    gid: int
    size: int
    mtime_ns: int
    ctime_ns: int
    device: int
    inode: int
    sha256: bytes | None = None
    link_target: bytes | None = None
    capabilities: bytes | None = None
    """`security.capability` as the kernel stores it."""
    xattrs: dict[str, bytes] = {}
    """Further extended attributes: name to the first 16 bytes of its value's SHA-256."""

    @property
    def is_special(self) -> bool:
        """Whether whoever runs it gets rights that are not the own."""
        if self.kind != FILE:
            return False
        return self.capabilities is not None or bool(self.mode & SETUID) or is_setgid_program(self.mode)

    def looks_like(self, other: FileState) -> bool:
        """Whether the file system says the same of both: then the content is the same, unless the disk was written.

        Nobody can set a ctime but by setting the clock. Device numbers may differ from boot to boot.
        """
        return (
            self.ctime_ns == other.ctime_ns
            and self.mtime_ns == other.mtime_ns
            and self.inode == other.inode
            and self.size == other.size
            and self.mode == other.mode
            and self.uid == other.uid
            and self.gid == other.gid
            and self.kind == other.kind
        )


class FileRow(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A path of the baseline; `state` None says that it is to be forgotten."""

    path: bytes
    state: FileState | None
    package: str | None = None
    """Which package it came from, as far as is known."""


class Deed(msgspec.Struct, frozen=True, gc=False):
    """Who acted upon a file, as an audit event said it; `fields` are those of its view that are about the process."""

    time_ms: int
    process: Process | None
    lineage: tuple[Process, ...]
    fields: FieldMap
    others: tuple[str, ...] = ()
    """Further programs that acted upon it at the same moment: then it is not sure who it was."""


def is_setgid_program(mode: int) -> bool:
    """Setgid on what group members may not run means mandatory locking, not rights."""
    return bool(mode & SETGID) and bool(mode & 0o010)


def find_differences(before: FileState, after: FileState) -> tuple[str, ...]:
    """Which attributes differ, the weightiest first; empty where only device, inode or ctime do.

    Where a content could not be read at one of the looks, size and mtime tell. A folder's size and times are no
    attributes, and a new mtime is no news beside a new content.
    """
    found = []
    if before.kind != after.kind:
        found.append(TYPE)
    elif _differs_in_content(before, after):
        found.append(CONTENT)
    if before.link_target != after.link_target:
        found.append(TARGET)
    pairs = (
        (MODE, before.mode, after.mode),
        (OWNER, before.uid, after.uid),
        (GROUP, before.gid, after.gid),
        (CAPABILITIES, before.capabilities, after.capabilities),
        (XATTRS, before.xattrs, after.xattrs),
    )
    found += [name for name, old, new in pairs if old != new]
    if not found and after.kind == FILE and before.mtime_ns != after.mtime_ns:
        found.append(MTIME)
    if TYPE in found:
        return (TYPE, *(name for name in found if name in {MODE, OWNER, GROUP}))
    return tuple(found)


def _differs_in_content(before: FileState, after: FileState) -> bool:
    if after.kind != FILE:
        return False
    if before.sha256 is not None and after.sha256 is not None:
        return before.sha256 != after.sha256
    return before.size != after.size or before.mtime_ns != after.mtime_ns


def list_gained(before: FileState | None, after: FileState | None) -> tuple[str, ...]:
    """Which rights the file gives to whoever runs it that it did not give before: setuid, setgid, capabilities."""
    if after is None or after.kind != FILE:
        return ()
    old_mode = before.mode if before is not None and before.kind == FILE else 0
    old_capabilities = before.capabilities if before is not None else None
    gained = []
    if after.mode & SETUID and not old_mode & SETUID:
        gained.append("setuid")
    if is_setgid_program(after.mode) and not is_setgid_program(old_mode):
        gained.append("setgid")
    if after.capabilities is not None and after.capabilities != old_capabilities:
        gained.append("capabilities")
    return tuple(gained)


def describe_capabilities(raw: bytes | None) -> str:
    """`cap_net_raw=ep`, as getcap(8) prints them; `unknown` where the attribute cannot be read (linux/capability.h)."""
    if raw is None:
        return ""
    try:
        (magic,) = struct.unpack_from("<I", raw)
        words = [struct.unpack_from("<II", raw, 4 + 8 * number) for number in range(_WORDS[magic & _MAGIC_REVISION])]
    except (struct.error, KeyError):
        return "unknown"
    permitted = sum(word[0] << 32 * number for number, word in enumerate(words))
    inheritable = sum(word[1] << 32 * number for number, word in enumerate(words))
    by_flags: dict[str, list[str]] = {}
    for number in range(64):
        flags = ("e" if magic & _EFFECTIVE else "") if (permitted | inheritable) >> number & 1 else ""
        flags += "i" if inheritable >> number & 1 else ""
        flags += "p" if permitted >> number & 1 else ""
        if flags:
            name = _CAPABILITIES[number] if number < len(_CAPABILITIES) else str(number)
            by_flags.setdefault(flags, []).append(f"cap_{name}")
    return " ".join(f"{','.join(names)}={flags}" for flags, names in by_flags.items())


def show_path(path: bytes) -> str:
    r"""A path as text; bytes that are not UTF-8 are written `\xNN`, as the decoder writes them."""
    return path.decode("utf-8", "backslashreplace")
