#!/usr/bin/env python3
"""Write watchdogd/decode/tables.json from what this machine's audit tools and kernel headers say.

    apt-get install auditd linux-libc-dev libc6-dev linux-libc-dev-arm64-cross linux-libc-dev-armhf-cross
    tools/generate_tables.py            # writes the file
    tools/generate_tables.py --check    # exit 1 where the file differs from what would be written
    tools/generate_tables.py --newer FOLDER    # first read what newer headers know beyond these into newer_headers.json

Sources: `ausyscall ARCH --dump`, libaudit.so.1 (names of record types, as ausearch prints them), libauparse.so.0 (what
ausearch calls the values of a field), and headers: those of the kernel (linux/, asm-generic/, asm/), for names that it
keeps to itself glibc's (bits/, sys/), and for arm's own numbers the cross packages'. Numbers of syscalls and of
io_uring's operations that came later stand in newer_headers.json. FOLDER is where `dpkg-deb -x` put a newer
linux-libc-dev (one that holds the headers of every architecture).
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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

TARGET = Path(__file__).resolve().parent.parent / "watchdogd" / "decode" / "tables.json"
NEWER = Path(__file__).resolve().parent / "newer_headers.json"
INCLUDE = Path("/usr/include")
ARM_INCLUDES = {"aarch64": Path("/usr/aarch64-linux-gnu/include"), "arm": Path("/usr/arm-linux-gnueabihf/include")}
ARCHITECTURES = ("x86_64", "i386", "aarch64", "arm")
SYSCALL_HEADERS = {
    "x86_64": "x86/asm/unistd_64.h",
    "x32": "x86/asm/unistd_x32.h",
    "i386": "x86/asm/unistd_32.h",
    "aarch64": "arm64/asm/unistd_64.h",
    "arm": "arm/asm/unistd-eabi.h",
}
FIRST_X32 = 512
FIRST_TYPE, LAST_TYPE = 1000, 2999
X86_64_ELF = 0xC000003E
SYSCALL_RECORD = 1300
OPEN_FLAGS = (
    "O_WRONLY", "O_RDWR", "O_CREAT", "O_EXCL", "O_NOCTTY", "O_TRUNC", "O_APPEND", "O_NONBLOCK", "O_DSYNC", "O_ASYNC",
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
    line = rf"^\s*({pattern})\s*=\s*(0x[0-9a-fA-F]+|\d+)[ \t]*(?=,|\}}|/\*|$)"
    found = re.findall(line, text, re.MULTILINE)
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
    return f"audit-userspace {audit}, linux headers {read_version(INCLUDE)} (newer calls: {read_newer()['source']})"


def read_version(include: Path) -> str:
    """The kernel's, of which the headers are."""
    code = read_defines(read_header("linux/version.h", include), "LINUX_VERSION_CODE")["LINUX_VERSION_CODE"]
    return f"{code >> 16}.{code >> 8 & 255}"


def read_newer() -> dict[str, Any]:
    """What `write_newer` wrote."""
    return dict(json.loads(NEWER.read_text()))


def write_newer(folder: Path) -> None:
    """Keep what the headers below a folder know of syscalls beyond ausyscall, and of io_uring."""
    include, own = folder / "usr/include", folder / "usr/lib/linux/uapi"
    calls = {}
    for arch, header in SYSCALL_HEADERS.items():
        text = re.sub(r"\(__(?:X32_SYSCALL_BIT|NR_SYSCALL_BASE) \+ (\d+)\)", r"\1", (own / header).read_text())
        numbers = read_defines(text, r"__NR_(?!syscalls|SYSCALL)\w+")
        known = ausyscall(arch) if arch in ARCHITECTURES else {str(number): "" for number in range(FIRST_X32)}
        calls[arch] = {number: name for number, name in strip_names(numbers, "__NR_").items() if number not in known}
    operations = count_enum(read_header("linux/io_uring.h", include), "io_uring_op")
    newer = {
        "source": f"linux headers {read_version(include)}",
        "syscalls": {arch: dict(sorted(names.items(), key=lambda row: int(row[0]))) for arch, names in calls.items()},
        "io_uring": strip_names(
            {name: number for name, number in operations.items() if name != "IORING_OP_LAST"}, "IORING_OP_"
        ),
    }
    NEWER.write_text(json.dumps(newer, indent=1) + "\n")


def list_architectures() -> dict[str, str]:
    """`arch` as records write it, in hex, to libaudit's name, which is the header's in lower case."""
    machines = read_defines(read_header("linux/elf-em.h"), r"EM_\w+")
    bits = {"__AUDIT_ARCH_64BIT": 0x80000000, "__AUDIT_ARCH_LE": 0x40000000}
    found: dict[str, str] = {}
    for name, value in re.findall(
        r"^#define AUDIT_ARCH_(\w+)\s+\((EM_[\w|]+)\)", read_header("linux/audit.h"), re.MULTILINE
    ):
        machine, *others = value.split("|")
        if machine in machines and all(other in bits for other in others):
            found.setdefault(f"{machines[machine] | sum(bits[other] for other in others):x}", name.lower())
    return found


def list_syscalls() -> dict[str, dict[str, str]]:
    """Number to name by architecture; x32 has its own calls alone, without the bit that marks them."""
    newer = read_newer()["syscalls"]
    return {arch: ausyscall(arch) | newer[arch] for arch in ARCHITECTURES} | {"x32": newer["x32"]}


def ausyscall(arch: str) -> dict[str, str]:
    """Number to name, from audit's own tool."""
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
    flags = [(value, name) for name, value in values.items() if value]
    first = dict(reversed(flags))
    return sorted(first.items(), key=lambda flag: (-flag[0].bit_count(), flag[0]))


def strip_names(numbers: dict[str, int], prefix: str) -> dict[str, str]:
    """Number to name in lower case without its prefix, as audit's tools write families and protocols."""
    return name_numbers({name.removeprefix(prefix).lower(): number for name, number in numbers.items()})


def list_open_flags(arch: str) -> list[tuple[int, str]]:
    """Arm has numbers of its own for four of them: its header stands before the generic one."""
    own = read_header("asm/fcntl.h", ARM_INCLUDES[arch]) if arch in ARM_INCLUDES else ""
    for_users = read_header("bits/fcntl-linux.h").replace("# define", "#define")
    values = read_defines(for_users, "O_ASYNC") | read_defines(own + read_header("asm-generic/fcntl.h"), r"\w+")
    return sort_flags({name: values[name] for name in OPEN_FLAGS})


def list_fcntl_commands() -> dict[str, int]:
    """The generic ones, then Linux's own, which count from a base."""
    base = 1024
    own = re.findall(
        r"^#define (F_\w+)\s+\(F_LINUX_SPECIFIC_BASE ?\+ ?(\d+)\)", read_header("linux/fcntl.h"), re.MULTILINE
    )
    generic = read_defines(read_header("asm-generic/fcntl.h"), r"F_(?!LINUX_)\w+")
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
        "socket": sort_flags(read_enum(read_header("bits/socket_type.h"), "SOCK_(?:CLOEXEC|NONBLOCK)")),
        "access": sort_flags(read_defines(read_header("unistd.h"), r"[RWX]_OK")),
        "personality": sort_flags(read_enum(read_header("linux/personality.h"), r"(?!PER_)[A-Z][A-Z0-9_]+")),
        "ipc": sort_flags(read_defines(read_header("linux/ipc.h"), r"IPC_(?:CREAT|EXCL)")),
        "shm": sort_flags(
            read_defines(read_headers("linux/ipc.h", "linux/shm.h"), r"IPC_(?:CREAT|EXCL)|SHM_(?:HUGETLB|NORESERVE)")
        ),
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


class Question(ctypes.Structure):
    """libauparse's `idata`: one field of a record, and what stands beside it."""

    _fields_ = (
        ("machine", ctypes.c_uint),
        ("syscall", ctypes.c_int),
        ("a0", ctypes.c_ulonglong),
        ("a1", ctypes.c_ulonglong),
        ("cwd", ctypes.c_char_p),
        ("name", ctypes.c_char_p),
        ("val", ctypes.c_char_p),
    )


def ask_ausearch(
    field: str, numbers: Iterable[int], *, form: str = "x", call: str = "read", a1: int = 0
) -> dict[str, str]:
    """What ausearch -i calls these numbers in a field of a SYSCALL record; `form` is how records write them."""
    audit, auparse = ctypes.CDLL("libaudit.so.1"), ctypes.CDLL("libauparse.so.0")
    auparse.auparse_do_interpretation.restype = ctypes.c_char_p
    machine = audit.audit_elf_to_machine(ctypes.c_uint(X86_64_ELF))
    syscall = audit.audit_name_to_syscall(call.encode(), machine)
    found: dict[str, str] = {}
    for number in numbers:
        text = format(number, form).encode()
        kind = auparse.auparse_interp_adjust_type(SYSCALL_RECORD, field.encode(), text)
        question = Question(machine, syscall, 0, a1, None, field.encode(), text)
        name = auparse.auparse_do_interpretation(kind, ctypes.byref(question), 0).decode()
        if not name.lower().startswith(("unknown", "0x")):
            found[str(number)] = name
    return found


def list_socket_options() -> dict[str, dict[str, str]]:
    """By level. The headers know some that ausearch does not; IPT_SO_ and SOL_ names of ausearch win."""
    ask_from = 255
    socket = read_header("asm-generic/socket.h")
    inet, inet6 = read_header("linux/in.h"), read_header("linux/in6.h")
    level_names = read_defines(read_header("bits/socket.h"), r"SOL_\w+")
    protocols = strip_names(read_enum(inet, r"IPPROTO_\w+"), "IPPROTO_")
    protocols = {number: name for number, name in protocols.items() if int(number) < ask_from}
    levels = protocols | name_numbers(level_names) | name_numbers(read_defines(socket, "SOL_SOCKET"))
    tcp = read_defines(read_header("linux/tcp.h"), r"TCP_(?!MSS|NLA|RTO|FLAG|CM_|CA_|MAX_|INFINITE|REPAIR_O)[A-Z0-9_]+")
    packet = read_defines(
        read_header("linux/if_packet.h"),
        r"PACKET_(?!OUTGOING|HOST|BROADCAST|MULTICAST|MR_|FANOUT_|USER|KERNEL|OTHER)\w+",
    )
    by_level = {
        "SOL_SOCKET": (1, read_defines(socket, r"SO_\w+")),
        "ip": (0, read_defines(inet, r"(?:IP|MCAST)_(?!PMTUDISC|DEFAULT|MAX)\w+")),
        "tcp": (6, tcp),
        "udp": (17, read_defines(read_header("linux/udp.h"), r"UDP_(?!ENCAP_|V4|V6)\w+")),
        "ipv6": (41, read_defines(inet6, r"(?:IPV6|MCAST)_(?!PMTUDISC|FL_|FLOWINFO_|TLV|PREFER|PRIORITY)[A-Z0-9_]+")),
        "SOL_PACKET": (263, packet),
    }
    options = {
        f"option {number}": name_numbers(known) | ask_ausearch("a2", range(256), call="setsockopt", a1=number)
        for number, known in by_level.values()
    }
    asked = ask_ausearch("a1", range(ask_from, 300), call="setsockopt")
    return {"socket level": asked | levels, **options}


def list_terminal_requests() -> dict[str, str]:
    """Plain numbers of ioctl(2): terminals, files, sockets; names of ausearch win."""
    text = read_headers("asm-generic/ioctls.h", "asm-generic/sockios.h", "linux/sockios.h")
    names = name_numbers(read_defines(text, r"(?!TIOCPKT|TIOCSER_)(?:T[CI]|FIO|SIOC)\w+"))
    return names | ask_ausearch("ioctlcmd", [*range(0x1_0000), *ask_made_requests()])


def ask_made_requests() -> list[int]:
    """Requests that the headers compute: direction, size, letter, number (asm-generic/ioctl.h)."""
    sizes = (0, 1, 2, 4, 8, 16, 24, 28, 32, 64)
    heads = [(way << 30) | (size << 16) | (ord(letter) << 8) for way in (1, 2, 3) for size in sizes for letter in "Td"]
    return [head | number for head in heads for number in range(256)]


def list_personalities() -> dict[str, str]:
    """The kind, in the lowest byte; the first name of a kind counts."""
    found = re.findall(r"^\s*(PER_(?!MASK)\w+) =\s+(0x[0-9a-f]+)", read_header("linux/personality.h"), re.MULTILINE)
    return name_numbers({name: int(value, 16) for name, value in found})


def list_seccomp_actions() -> dict[str, str]:
    """In ausearch's spelling, which calls the end of the thread `kill`."""
    text = read_header("linux/seccomp.h")
    found = re.findall(r"^#define SECCOMP_RET_(\w+)\s+(0x[0-9a-f]{8})U", text, re.MULTILINE)
    names = {
        int(value, 16): name.lower().replace("_", "-")
        for name, value in found
        if "ACTION" not in name and name != "DATA"
    }
    known = {str(number): name.removesuffix("-thread") for number, name in names.items()}
    return known | ask_ausearch("code", [number for number in names if number < 1 << 31])


def list_ptrace_requests(arch: str) -> dict[str, str]:
    """The kernel's own names; each architecture has some requests of its own."""
    own = read_header("asm/ptrace.h", ARM_INCLUDES[arch]) if arch in ARM_INCLUDES else read_header("asm/ptrace-abi.h")
    text = (read_header("linux/ptrace.h") + own).replace("# define", "#define")
    unwanted = "EVENT|O_|PEEKSIGINFO_|SYSCALL_INFO_|GETFDPIC_"
    return name_numbers(read_defines(text, rf"PTRACE_(?!{unwanted})\w+"))


def list_names() -> dict[str, dict[str, str]]:
    """Everything that is one of several numbers."""
    families = read_defines(read_header("bits/socket.h"), r"PF_(?!MAX)\w+")
    return {
        "family": strip_names(families, "PF_"),
        "socket": name_numbers(read_enum(read_header("bits/socket_type.h"), r"SOCK_(?!CLOEXEC|NONBLOCK)\w+")),
        "protocol": strip_names(read_enum(read_header("linux/in.h"), r"IPPROTO_\w+"), "IPPROTO_"),
        "ptrace": list_ptrace_requests("x86_64"),
        "ptrace aarch64": list_ptrace_requests("aarch64"),
        "ptrace arm": list_ptrace_requests("arm"),
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
        "netfilter family": ask_ausearch("family", range(256), form="d"),
        "netfilter hook": ask_ausearch("hook", range(16)),
        "netfilter action": ask_ausearch("action", range(16)),
        "icmp": ask_ausearch("icmptype", range(256), form="d"),
        "ethernet": ask_ausearch("macproto", range(0x600, 0x10000)),
        "netlink group": ask_ausearch("nl-mcgrp", range(2)),
        "ioctl": list_terminal_requests(),
        "descriptor flags": name_numbers(read_defines(read_header("asm-generic/fcntl.h"), "FD_CLOEXEC")),
        "exit code": name_numbers(read_defines(read_header("stdlib.h"), r"EXIT_\w+")),
        **list_socket_options(),
        "personality": list_personalities(),
        "filter list": ask_library("audit_flag_to_name", range(16)),
        "file type": ask_library("audit_ftype_to_name", range(0, 0o200000, 0o010000)),
        "seccomp": list_seccomp_actions(),
        "io_uring": read_newer()["io_uring"],
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
        "architectures": list_architectures(),
        "syscalls": list_syscalls(),
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
    parser.add_argument("--newer", type=Path, metavar="FOLDER", help="read newer headers before")
    options = parser.parse_args()
    if options.newer is not None:
        write_newer(options.newer)
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
