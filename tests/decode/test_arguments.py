"""Arguments by the numbers of the recording host. Those of x86_64 are held against ausearch in test_ausearch."""

from __future__ import annotations

import pytest

from watchdogd.decode.arguments import describe_call, interpret_argument, name_call

X86_64, I386, AARCH64, ARM = "c000003e", "40000003", "c00000b7", "40000028"


@pytest.mark.parametrize(
    ("arch", "number", "name", "raw", "meaning"),
    [
        (X86_64, "257", "a2", "90800", "O_RDONLY|O_NONBLOCK|O_DIRECTORY|O_CLOEXEC"),
        (AARCH64, "56", "a2", "84800", "O_RDONLY|O_NONBLOCK|O_DIRECTORY|O_CLOEXEC"),
        (ARM, "322", "a2", "84800", "O_RDONLY|O_NONBLOCK|O_DIRECTORY|O_CLOEXEC"),
        (I386, "295", "a2", "98000", "O_RDONLY|O_LARGEFILE|O_DIRECTORY|O_CLOEXEC"),
        (AARCH64, "56", "a0", "ffffffffffffff9c", "AT_FDCWD"),
        (I386, "102", "a0", "3", "connect"),
        (I386, "90", "a2", "7", "0x7"),
        (I386, "192", "a2", "7", "PROT_READ|PROT_WRITE|PROT_EXEC"),
        (X86_64, "9", "a2", "7", "PROT_READ|PROT_WRITE|PROT_EXEC"),
        (AARCH64, "117", "a0", "10", "PTRACE_ATTACH"),
        (X86_64, "56", "a0", "1200011", "CLONE_CHILD_CLEARTID|CLONE_CHILD_SETTID|SIGCHLD"),
        (X86_64, "272", "a0", "10000000", "CLONE_NEWUSER"),
        (X86_64, "41", "a1", "80802", "SOCK_DGRAM|SOCK_NONBLOCK|SOCK_CLOEXEC"),
        (X86_64, "62", "a1", "0", "SIG0"),
        (X86_64, "62", "a1", "f0", "0xf0"),
        (X86_64, "105", "a0", "ffffffff", "unset"),
        (X86_64, "90", "a1", "9ed", "suid,0755"),
        (X86_64, "133", "a1", "11b6", "fifo,666"),
        (X86_64, "133", "a1", "51b6", "005,666"),
        (X86_64, "308", "a1", "a0", "CLONE_NEWTIME|0x20"),
        (X86_64, "272", "a0", "11", "0x11"),
        (X86_64, "56", "a0", "120", "CLONE_VM|0x20"),
        (X86_64, "166", "a1", "8", "UMOUNT_NOFOLLOW"),
        (X86_64, "47", "a2", "40000000", "MSG_CMSG_CLOEXEC"),
        (X86_64, "41", "a0", "c", "decnet"),
        (X86_64, "41", "a0", "2e", "0x2e"),
        (X86_64, "41", "a1", "401", "SOCK_STREAM|0x400"),
        (X86_64, "72", "a1", "400", "F_SETLEASE"),
        (X86_64, "101", "a0", "1e", "PTRACE_ARCH_PRCTL"),
        (ARM, "26", "a0", "16", "PTRACE_GET_THREAD_AREA"),
        (ARM, "26", "a0", "1a", "PTRACE_SETCRUNCHREGS"),
        (AARCH64, "117", "a0", "c", "0xc"),
        (X86_64, "135", "a0", "40000", "PER_LINUX|ADDR_NO_RANDOMIZE"),
        (X86_64, "135", "a0", "400ff", "0xff|ADDR_NO_RANDOMIZE"),
        (X86_64, "135", "a0", "ffffffff", "0xffffffff"),
        (X86_64, "144", "a1", "40000001", "SCHED_FIFO|SCHED_RESET_ON_FORK"),
        (X86_64, "144", "a1", "9", "0x9"),
        (X86_64, "16", "a1", "5412", "TIOCSTI"),
        (X86_64, "231", "a0", "1", "EXIT_FAILURE"),
        (X86_64, "231", "a0", "2", "0x2"),
        (X86_64, "29", "a2", "b80", "IPC_CREAT|SHM_HUGETLB|0600"),
        (X86_64, "64", "a2", "3b6", "IPC_CREAT|0666"),
        (X86_64, "68", "a1", "180", "0600"),
        (X86_64, "54", "a1", "1", "SOL_SOCKET"),
        (X86_64, "55", "a1", "6", "tcp"),
        (X86_64, "55", "a1", "106", "SOL_X25"),
        (I386, "213", "a0", "3e8", "1000"),
        (I386, "212", "a1", "ffffffff", "unset"),
        (ARM, "205", "a0", "f0", "0xf0"),
        (X86_64, "59", "a0", "7ffd", "0x7ffd"),
        (X86_64, "9999", "a0", "1", "0x1"),
        ("deadbeef", "2", "a1", "1", "0x1"),
        (X86_64, "62", "a1", "zz", "zz"),
    ],
)
def test_arguments(arch: str, number: str, name: str, raw: str, meaning: str) -> None:
    assert interpret_argument(name, raw, {"arch": arch, "syscall": number, name: raw}) == meaning


@pytest.mark.parametrize(("flags", "meaning"), [("241", "0644"), ("80000", "0x1a4"), ("zz", "0x1a4")])
def test_the_mode_of_an_open_counts_where_a_file_is_made(flags: str, meaning: str) -> None:
    values = {"arch": X86_64, "syscall": "257", "a2": flags, "a3": "1a4"}
    assert interpret_argument("a3", "1a4", values) == meaning


@pytest.mark.parametrize(
    ("arch", "number", "arguments", "name", "meaning"),
    [
        (X86_64, "54", {"a1": "1", "a2": "19"}, "a2", "SO_BINDTODEVICE"),
        (X86_64, "54", {"a1": "0", "a2": "40"}, "a2", "IPT_SO_SET_REPLACE"),
        (X86_64, "54", {"a1": "6", "a2": "1"}, "a2", "TCP_NODELAY"),
        (X86_64, "55", {"a1": "11", "a2": "64"}, "a2", "UDP_ENCAP"),
        (X86_64, "55", {"a1": "29", "a2": "1a"}, "a2", "IPV6_V6ONLY"),
        (X86_64, "55", {"a1": "107", "a2": "5"}, "a2", "PACKET_RX_RING"),
        (X86_64, "55", {"a1": "10e", "a2": "5"}, "a2", "0x5"),
        (X86_64, "55", {"a1": "zz", "a2": "5"}, "a2", "0x5"),
        (X86_64, "157", {"a0": "18", "a1": "15"}, "a1", "sys_admin"),
        (X86_64, "157", {"a0": "17", "a1": "63"}, "a1", "0x63"),
        (X86_64, "157", {"a0": "1", "a1": "9"}, "a1", "SIGKILL"),
        (X86_64, "157", {"a0": "f", "a1": "9"}, "a1", "0x9"),
        (X86_64, "72", {"a1": "2", "a2": "1"}, "a2", "FD_CLOEXEC"),
        (X86_64, "72", {"a1": "4", "a2": "1"}, "a2", "0x1"),
    ],
)
def test_arguments_that_another_one_explains(
    arch: str, number: str, arguments: dict[str, str], name: str, meaning: str
) -> None:
    values = {"arch": arch, "syscall": number, **arguments}
    assert interpret_argument(name, arguments[name], values) == meaning


@pytest.mark.parametrize(
    ("arch", "number", "first", "name", "described"),
    [
        (I386, "102", "3", "connect", "socketcall(connect)"),
        (I386, "117", "17", "shmget", "ipc(shmget)"),
        (I386, "102", "63", "socketcall", "socketcall"),
        (I386, "102", "zz", "socketcall", "socketcall"),
        (I386, "102", None, "socketcall", "socketcall"),
        (X86_64, "59", "3", "execve", "execve"),
        (X86_64, "999", "3", None, None),
    ],
)
def test_calls_in_one(arch: str, number: str, first: str | None, name: str | None, described: str | None) -> None:
    assert name_call(arch, number, first) == name
    assert describe_call(number, {"arch": arch} if first is None else {"arch": arch, "a0": first}) == described
