#!/usr/bin/env python3
"""Write watchdogd/decode/tables.json from what this machine's audit tools and kernel headers say.

    apt-get install auditd linux-libc-dev libc6-dev
    tools/generate_tables.py            # writes the file
    tools/generate_tables.py --check    # exit 1 where the file differs from what would be written

Sources: `ausyscall ARCH --dump`, libaudit.so.1 (names of record types, as ausearch prints them), <linux/audit.h>
(types newer than the library), <asm-generic/errno*.h>, <asm-generic/signal.h>, <asm-generic/fcntl.h>,
<asm-generic/mman-common.h>, <linux/sched.h>, <linux/capability.h>, <bits/socket*.h>.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import subprocess
import sys
from pathlib import Path

TARGET = Path(__file__).resolve().parent.parent / "watchdogd" / "decode" / "tables.json"
INCLUDE = Path("/usr/include")
ARCHITECTURES = ("x86_64", "i386", "aarch64", "arm")
FIRST_TYPE, LAST_TYPE = 1000, 2999
OPEN_FLAGS = (
    "O_WRONLY", "O_RDWR", "O_CREAT", "O_EXCL", "O_NOCTTY", "O_TRUNC", "O_APPEND", "O_NONBLOCK", "O_DSYNC", "FASYNC",
    "O_DIRECT", "O_LARGEFILE", "O_DIRECTORY", "O_NOFOLLOW", "O_NOATIME", "O_CLOEXEC", "__O_SYNC", "O_PATH",
    "__O_TMPFILE",
)  # fmt: skip


def read_header(*names: str) -> str:
    """Text of the first header that is there; multiarch folders are searched too."""
    for name in names:
        for path in (INCLUDE / name, *INCLUDE.glob(f"*-linux-gnu/{name}")):
            if path.is_file():
                return path.read_text()
    sys.exit(f"none of {', '.join(names)} below {INCLUDE}: install linux-libc-dev and libc6-dev")


def read_defines(text: str, pattern: str) -> dict[str, int]:
    """`#define NAME NUMBER` lines whose name matches; the first definition of a name counts."""
    found: dict[str, int] = {}
    for name, value in re.findall(rf"^#define[ \t]+({pattern})[ \t]+(0x[0-9a-fA-F]+|\d+)", text, re.MULTILINE):
        octal = value.startswith("0") and not value.startswith("0x")
        found.setdefault(name, int(value, 8) if octal else int(value, 0))
    return found


def describe_source() -> str:
    """Which versions the tables come from; another version may know more."""
    audit = subprocess.run(["auditctl", "-v"], check=True, capture_output=True, text=True).stdout.split()[-1]
    code = read_defines(read_header("linux/version.h"), "LINUX_VERSION_CODE")["LINUX_VERSION_CODE"]
    return f"audit-userspace {audit}, linux headers {code >> 16}.{code >> 8 & 255}"


def list_syscalls(arch: str) -> dict[str, str]:
    """Number to name, from ausyscall."""
    done = subprocess.run(["ausyscall", arch, "--dump"], check=True, capture_output=True, text=True)
    return dict(re.findall(r"^([0-9]+)\t(\S+)$", done.stdout, re.MULTILINE))


def list_types() -> dict[str, str]:
    """Number to name of every record type that libaudit or the kernel's header knows."""
    library = ctypes.CDLL("libaudit.so.1")
    library.audit_msg_type_to_name.restype = ctypes.c_char_p
    names = {number: name for name, number in read_defines(read_header("linux/audit.h"), r"AUDIT_[A-Z0-9_]+").items()}
    types = {}
    for number in range(FIRST_TYPE, LAST_TYPE + 1):
        known = library.audit_msg_type_to_name(number)
        if known is not None:
            types[str(number)] = known.decode()
        elif number in names and not re.search(r"_(FIRST|LAST)_|_(MAX|MSG_BASE|MSG_MAX)$", names[number]):
            types[str(number)] = names[number].removeprefix("AUDIT_")
    return types


def list_errno() -> dict[str, tuple[str, str]]:
    """Number to name and text; the numbers are those of x86 and arm alike."""
    text = read_header("asm-generic/errno-base.h") + read_header("asm-generic/errno.h")
    found: dict[str, tuple[str, str]] = {}
    for name, number in read_defines(text, r"E[A-Z0-9]+").items():
        found.setdefault(str(number), (name, os.strerror(number)))
    return found


def name_numbers(numbers: dict[str, int]) -> dict[str, str]:
    """Number to name; the first name of a number counts."""
    found: dict[str, str] = {}
    for name, number in numbers.items():
        found.setdefault(str(number), name)
    return found


def list_flags(text: str, names: tuple[str, ...]) -> list[tuple[int, str]]:
    """Bit and name, several-bit flags first so that they win over their parts."""
    values = read_defines(text, r"\w+")
    flags = [(values[name], name.removeprefix("__")) for name in names if name in values]
    return sorted(flags, key=lambda flag: (-flag[0].bit_count(), flag[0]))


def list_socket_names(text: str, prefix: str) -> dict[str, str]:
    """Number to lower-case name of socket families."""
    numbers = read_defines(text, rf"{prefix}[A-Z0-9_]+")
    return name_numbers({name.removeprefix(prefix).lower(): number for name, number in numbers.items()})


def list_socket_types() -> dict[str, str]:
    """Number to name of socket types: an enum, so matched by itself."""
    text = read_header("bits/socket_type.h")
    return {number: name for name, number in re.findall(r"^\s*(SOCK_[A-Z]+) = (\d+),", text, re.MULTILINE)}


def build_tables() -> dict[str, object]:
    """Everything that watchdogd.decode.tables.Tables declares."""
    signals = read_defines(read_header("asm-generic/signal.h"), r"SIG(?!RT|STKSZ|MINSTKSZ|UNUSED)[A-Z0-9]+")
    capabilities = read_defines(read_header("linux/capability.h"), r"CAP_[A-Z_]+")
    clone_text = read_header("linux/sched.h")
    clone_names = tuple(read_defines(clone_text, r"CLONE_(?!ARGS_)\w+"))
    prot_text = read_header("asm-generic/mman-common.h")
    sizes = {name: number for name, number in capabilities.items() if name != "CAP_LAST_CAP"}
    return {
        "source": describe_source(),
        "types": list_types(),
        "syscalls": {arch: list_syscalls(arch) for arch in ARCHITECTURES},
        "errno": list_errno(),
        "signals": name_numbers(signals),
        "capabilities": [name.removeprefix("CAP_").lower() for name in sorted(sizes, key=lambda name: sizes[name])],
        "open_flags": list_flags(read_header("asm-generic/fcntl.h"), OPEN_FLAGS),
        "clone_flags": list_flags(clone_text, clone_names),
        "mmap_prot": list_flags(prot_text, ("PROT_READ", "PROT_WRITE", "PROT_EXEC", "PROT_SEM")),
        "socket_families": list_socket_names(read_header("bits/socket.h"), "PF_"),
        "socket_types": list_socket_types(),
    }


def print_tables() -> str:
    """The file's text: one table a line and one line for each architecture, so that a change shows in a diff."""
    lines = []
    for name, table in build_tables().items():
        if name == "syscalls" and isinstance(table, dict):
            rows = ",\n".join(
                f"{json.dumps(key)}:{json.dumps(row, separators=(',', ':'))}" for key, row in table.items()
            )
            lines.append(f"{json.dumps(name)}:{{\n{rows}\n}}")
        else:
            lines.append(f"{json.dumps(name)}:{json.dumps(table, separators=(',', ':'))}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> int:
    """Write or check the file."""
    parser = argparse.ArgumentParser(description="generate watchdogd/decode/tables.json")
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    parser.add_argument("--source", action="store_true", help="print the versions that would be read, write nothing")
    options = parser.parse_args()
    if options.source:
        print(describe_source())
        return 0
    text = print_tables()
    if not options.check:
        TARGET.write_text(text)
        return 0
    if TARGET.read_text() == text:
        return 0
    print(f"{TARGET} differs from what this machine's tools say; run tools/generate_tables.py")
    return 1


if __name__ == "__main__":
    sys.exit(main())
