#!/usr/bin/env python3
"""Write watchdogd/decode/tables.json from what this machine's audit tools and kernel headers say.

    apt-get install auditd linux-libc-dev libc6-dev linux-libc-dev-arm64-cross linux-libc-dev-armhf-cross
    tools/generate_tables.py            # writes the file
    tools/generate_tables.py --check    # exit 1 where the file differs from what would be written

Sources: `ausyscall ARCH --dump`, libaudit.so.1 (names of record types, as ausearch prints them), and headers: those of
the kernel (linux/, asm-generic/, asm/), for names that it keeps to itself glibc's (bits/, sys/), and for arm's own
numbers the cross packages'.
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
ARM_INCLUDES = {"aarch64": Path("/usr/aarch64-linux-gnu/include"), "arm": Path("/usr/arm-linux-gnueabihf/include")}
ARCHITECTURES = ("x86_64", "i386", "aarch64", "arm")
FIRST_TYPE, LAST_TYPE = 1000, 2999
OPEN_FLAGS = (
    "O_WRONLY", "O_RDWR", "O_CREAT", "O_EXCL", "O_NOCTTY", "O_TRUNC", "O_APPEND", "O_NONBLOCK", "O_DSYNC", "FASYNC",
    "O_DIRECT", "O_LARGEFILE", "O_DIRECTORY", "O_NOFOLLOW", "O_NOATIME", "O_CLOEXEC", "__O_SYNC", "O_PATH",
    "__O_TMPFILE",
)  # fmt: skip


def read_header(name: str, include: Path = INCLUDE) -> str:
    """Text of a header; multiarch folders are searched too."""
    for path in (include / name, *include.glob(f"x86_64-linux-gnu/{name}")):
        if path.is_file():
            return path.read_text()
    sys.exit(f"{include / name} is missing: install what the head of {Path(__file__).name} names")


def read_headers(*names: str) -> str:
    """Text of several headers, one after the other."""
    return "\n".join(read_header(name) for name in names)


def read_defines(text: str, pattern: str) -> dict[str, int]:
    """`#define NAME NUMBER` or `(1<<BIT)` lines whose name matches; the first definition of a name counts."""
    found: dict[str, int] = {}
    line = rf"^#define[ \t]+({pattern})[ \t]+(?:(0x[0-9a-fA-F]+|\d+)(?![^ \t\n])|\(1[ ]*<<[ ]*(\d+)\))"
    for name, value, bit in re.findall(line, text, re.MULTILINE):
        found.setdefault(name, 1 << int(bit) if bit else read_number(value))
    return found


def read_number(text: str) -> int:
    """As C reads it: `0x1f`, `017` and `15`."""
    return int(text, 8) if text.startswith("0") and not text.startswith("0x") else int(text, 0)


def read_enum(text: str, pattern: str) -> dict[str, int]:
    """`NAME = NUMBER,` lines of enums whose name matches, in the order of the header."""
    found = re.findall(rf"^\s*({pattern})\s*=\s*(0x[0-9a-fA-F]+|\d+)\s*,", text, re.MULTILINE)
    return {name: read_number(value) for name, value in found}


def count_enum(text: str, name: str) -> dict[str, int]:
    """Members of an enum that counts by itself from 0, or on from a member with a number."""
    body = re.sub(
        r"/\*.*?\*/", "", text[text.index(f"enum {name} {{") :].split("{", 1)[1].split("}", 1)[0], flags=re.DOTALL
    )
    found: dict[str, int] = {}
    following = 0
    for member in filter(None, map(str.strip, body.split(","))):
        key, _, value = (part.strip() for part in member.partition("="))
        number = found[value] if value in found else int(value, 0) if value else following
        found[key] = number
        following = number + 1
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


def sort_flags(values: dict[str, int]) -> list[tuple[int, str]]:
    """Bit and name, several-bit flags first so that they win over their parts; the first name of a value counts."""
    flags = [(value, name.removeprefix("__")) for name, value in values.items() if value]
    first = dict(reversed(flags))
    return sorted(first.items(), key=lambda flag: (-flag[0].bit_count(), flag[0]))


def strip_names(numbers: dict[str, int], prefix: str) -> dict[str, str]:
    """Number to name in lower case without its prefix, as audit's tools write families and protocols."""
    return name_numbers({name.removeprefix(prefix).lower(): number for name, number in numbers.items()})


def list_open_flags(arch: str) -> list[tuple[int, str]]:
    """Arm has numbers of its own for four of them: its header stands before the generic one."""
    own = read_header("asm/fcntl.h", ARM_INCLUDES[arch]) if arch in ARM_INCLUDES else ""
    values = read_defines(own + read_header("asm-generic/fcntl.h"), r"\w+")
    return sort_flags({name: values[name] for name in OPEN_FLAGS})


def list_fcntl_commands() -> dict[str, int]:
    """The generic ones, then Linux's own, which count from a base."""
    base = 1024
    own = re.findall(
        r"^#define (F_\w+)\s+\(F_LINUX_SPECIFIC_BASE ?\+ ?(\d+)\)", read_header("linux/fcntl.h"), re.MULTILINE
    )
    generic = read_defines(read_header("asm-generic/fcntl.h"), r"F_\w+")
    return generic | {name: base + int(number) for name, number in own}


def list_mmap_flags() -> dict[str, int]:
    """The kind of mapping, and the bits beside it; x86 has one more."""
    text = read_headers("linux/mman.h", "asm-generic/mman-common.h", "asm-generic/mman.h", "asm/mman.h")
    values = read_defines(text, r"MAP_(?!TYPE|FILE|HUGE_|SHARED_VALIDATE|UNINIT)\w+")
    shared_validate = read_defines(text, "MAP_SHARED_VALIDATE")
    return shared_validate | values


def list_flags() -> dict[str, list[tuple[int, str]]]:
    """Everything of which several bits may be set at once."""
    socket_text = read_header("bits/socket.h")
    mount_names = r"MS_(?!MGC|RMT|KERNMOUNT|SUBMOUNT|NOREMOTELOCK|NOSEC|BORN|ACTIVE|NOUSER|VERBOSE)\w+"
    return {
        "open": list_open_flags("x86_64"),
        "open aarch64": list_open_flags("aarch64"),
        "open arm": list_open_flags("arm"),
        "clone": sort_flags(read_defines(read_header("linux/sched.h"), r"CLONE_(?!ARGS_)\w+")),
        "protection": sort_flags(read_defines(read_header("asm-generic/mman-common.h"), r"PROT_\w+")),
        "mmap": sort_flags(list_mmap_flags()),
        "mount": sort_flags(read_defines(read_header("linux/mount.h"), mount_names)),
        "umount": sort_flags(read_enum(read_header("sys/mount.h"), r"(?:MNT|UMOUNT)_\w+")),
        "message": sort_flags(read_enum(socket_text, r"MSG_\w+")),
        "access": sort_flags(read_defines(read_header("unistd.h"), r"[RWX]_OK")),
        "resolve": sort_flags(read_defines(read_header("linux/openat2.h"), r"RESOLVE_\w+")),
        "permission": sort_flags(
            {
                name.removeprefix("AUDIT_PERM_").lower(): bit
                for name, bit in read_defines(read_header("linux/audit.h"), r"AUDIT_PERM_\w+").items()
            }
        ),
    }


def ask_library(function: str, numbers: range) -> dict[str, str]:
    """What a function of libaudit calls each of these numbers."""
    ask = getattr(ctypes.CDLL("libaudit.so.1"), function)
    ask.restype = ctypes.c_char_p
    known = {str(number): ask(number) for number in numbers}
    return {number: name.decode() for number, name in known.items() if name is not None}


def list_seccomp_actions() -> dict[str, str]:
    """In ausearch's spelling, which calls the end of the thread `kill`."""
    text = read_header("linux/seccomp.h")
    found = re.findall(r"^#define SECCOMP_RET_(\w+)\s+(0x[0-9a-f]{8})U", text, re.MULTILINE)
    names = {
        int(value, 16): name.lower().replace("_", "-")
        for name, value in found
        if "ACTION" not in name and name != "DATA"
    }
    return {str(number): name.removesuffix("-thread") for number, name in names.items()}


def list_names() -> dict[str, dict[str, str]]:
    """Everything that is one of several numbers."""
    ptrace = read_headers("linux/ptrace.h", "asm/ptrace-abi.h")
    families = read_defines(read_header("bits/socket.h"), r"PF_[A-Z0-9_]+")
    netfilter = read_header("linux/netfilter.h")
    return {
        "family": strip_names(families, "PF_"),
        "socket": name_numbers(read_enum(read_header("bits/socket_type.h"), r"SOCK_(?!CLOEXEC|NONBLOCK)\w+")),
        "protocol": strip_names(read_enum(read_header("linux/in.h"), r"IPPROTO_\w+"), "IPPROTO_"),
        "ptrace": name_numbers(read_defines(ptrace, r"PTRACE_(?!EVENT|O_|PEEKSIGINFO_|SYSCALL_INFO_)\w+")),
        "prctl": name_numbers(read_defines(read_header("linux/prctl.h"), r"PR_[A-Z]\w+")),
        "bpf": name_numbers(count_enum(read_header("linux/bpf.h"), "bpf_cmd")),
        "rlimit": name_numbers(
            read_defines(read_header("asm-generic/resource.h").replace("# define", "#define"), r"RLIMIT_\w+")
        ),
        "clock": name_numbers(read_defines(read_header("linux/time.h"), r"CLOCK_\w+")),
        "fcntl": name_numbers(list_fcntl_commands()),
        "epoll": name_numbers(read_defines(read_header("linux/eventpoll.h"), r"EPOLL_CTL_\w+")),
        "whence": name_numbers(read_defines(read_header("linux/fs.h"), r"SEEK_\w+")),
        "scheduler": name_numbers(
            read_defines(read_header("bits/sched.h").replace("# define", "#define"), r"SCHED_\w+")
        ),
        "socketcall": strip_names(read_defines(read_header("linux/net.h"), r"SYS_\w+"), "SYS_"),
        "ipc": strip_names(read_defines(read_header("linux/ipc.h"), r"(?:SEM|MSG|SHM)[A-Z]+"), ""),
        "netfilter family": strip_names(read_enum(netfilter, r"NFPROTO_[A-Z0-9]+"), "NFPROTO_"),
        "netfilter hook": name_numbers(
            {
                name.removeprefix("NF_INET_"): number
                for name, number in count_enum(netfilter, "nf_inet_hooks").items()
                if not name.endswith("NUMHOOKS")
            }
        ),
        "netfilter action": {
            str(number): name
            for number, name in enumerate(
                re.findall(r"^\s+XT_AUDIT_TYPE_([A-Z]+)", read_header("linux/netfilter/xt_AUDIT.h"), re.MULTILINE)
            )
        },
        "icmp": strip_names(read_defines(read_header("linux/icmp.h").split("NR_ICMP_TYPES")[0], r"ICMP_\w+"), "ICMP_"),
        "personality": name_numbers(read_enum(read_header("linux/personality.h"), r"PER_\w+")),
        "filter list": ask_library("audit_flag_to_name", range(16)),
        "file type": ask_library("audit_ftype_to_name", range(0, 0o200000, 0o010000)),
        "seccomp": list_seccomp_actions(),
        "fanotify": strip_names(read_defines(read_header("linux/fanotify.h"), r"FAN_(?:ALLOW|DENY)"), "FAN_"),
    }


def build_tables() -> dict[str, object]:
    """Everything that watchdogd.decode.tables.Tables declares."""
    signals = read_defines(read_header("asm-generic/signal.h"), r"SIG(?!RT|STKSZ|MINSTKSZ|UNUSED)[A-Z0-9]+")
    capabilities = read_defines(read_header("linux/capability.h"), r"CAP_[A-Z_]+")
    sizes = {name: number for name, number in capabilities.items() if name != "CAP_LAST_CAP"}
    return {
        "source": describe_source(),
        "types": list_types(),
        "syscalls": {arch: list_syscalls(arch) for arch in ARCHITECTURES},
        "errno": list_errno(),
        "signals": name_numbers(signals),
        "capabilities": [name.removeprefix("CAP_").lower() for name in sorted(sizes, key=lambda name: sizes[name])],
        "flags": list_flags(),
        "names": list_names(),
    }


def print_tables() -> str:
    """The file's text: one table a line, so that a change shows in a diff."""
    lines = []
    for name, table in build_tables().items():
        if name in {"syscalls", "flags", "names"} and isinstance(table, dict):
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
