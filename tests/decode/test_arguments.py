"""Arguments by the numbers of the recording host. Those of x86_64 are held against ausearch in test_ausearch."""

from __future__ import annotations

import pytest

from watchdogd.decode.arguments import interpret_argument

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
