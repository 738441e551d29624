"""Against `ausearch -i` of this machine: the recorded logs, and every number that may stand in a field.

The differences that are left are listed in docs/decoding.md; each test says which of them it passes over.
"""

from __future__ import annotations

import lzma
import os
import shutil
import struct
from itertools import count, product
from typing import TYPE_CHECKING

import pytest

from tests.decode.ausearch import compare_opinions
from tests.size import LARGE, choose_items
from watchdogd.decode import tables

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tests.decode.ausearch import Opinion, Opinions

LISTED = {
    ("SYSCALL", "a0"),  # clock_adjtime
    ("SYSCALL", "a1"),  # chown: owner
    ("SYSCALL", "a2"),  # chown: group, fchownat: owner
    ("SYSCALL", "a3"),  # openat: mode of a new file, fchownat: group
    ("PATH", "cap_fp"),
    ("PATH", "cap_fi"),
    ("OBJ_PID", "oauid"),
    ("OBJ_PID", "oses"),
}
VOLUME_BYTES = 4_000_000
FILLER = "f0f0f0"
FIRST_OF_EVENTS = 1100


@pytest.fixture(autouse=True)
def _ausearch() -> None:
    if shutil.which("ausearch") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("ausearch is missing, and CI needs it: apt-get install auditd")
        pytest.skip("ausearch is not installed (apt-get install auditd)")


@pytest.mark.sampled
@pytest.mark.slow
def test_values_are_those_of_ausearch(corpora: Path, tmp_path: Path) -> None:
    recorded = corpora / "recorded"
    log = tmp_path / "all.log"
    rotated = sorted((recorded / "rotation").glob("audit.log*"), reverse=True)
    large = [recorded / "lossy" / "lossy.log", *rotated]
    with log.open("wb") as target:  # serials go on over all recordings, so that one file can hold them
        for part in [
            *choose_items(sorted((recorded / "logs").glob("*.log")), 6),
            recorded / "mixed.log",
            *(large if LARGE else []),
        ]:
            target.write(part.read_bytes())
    result = compare_opinions(log)
    assert result.records > (75_000 if LARGE else 5_000)
    hold_to_the_list(result)


@pytest.mark.slow
def test_values_of_the_volume_log_are_those_of_ausearch(corpora: Path, tmp_path: Path) -> None:
    """Its first part; the whole of it takes too long for every run."""
    log = tmp_path / "volume.log"
    with lzma.open(corpora / "recorded" / "volume.log.xz") as whole:
        data = whole.read(VOLUME_BYTES)
    log.write_bytes(data[: data.rindex(b"\ntype=SYSCALL") + 1])
    result = compare_opinions(log)
    assert result.records > 20_000
    hold_to_the_list(result)


def hold_to_the_list(result: Opinions) -> None:
    assert not result.missing
    assert 1 - len(result.differences) / result.fields >= 0.99
    assert {(each.type, each.name) for each in result.differences} <= LISTED


def ask(tmp_path: Path, records: Iterable[tuple[str, str]]) -> list[Opinion]:
    """Differences in records of one event each, given as type and body."""
    lines = [f"type={kind} msg=audit(1700000000.000:{serial}): {body}" for serial, (kind, body) in numbered(records)]
    log = tmp_path / "made.log"
    log.write_text("\n".join(lines) + "\n")
    result = compare_opinions(log)
    assert (result.records, result.missing) == (len(lines), {})
    return [each for each in result.differences if each.raw != FILLER]


def numbered(records: Iterable[tuple[str, str]]) -> Iterable[tuple[int, tuple[str, str]]]:
    return zip(count(1), records, strict=False)


def call(arch: str, name: str, **arguments: str) -> tuple[str, str]:
    known = tables.load_tables()
    code = next(code for code, named in known.architectures.items() if named == arch)
    number = next(number for number, named in known.syscalls[arch].items() if named == name)
    values = " ".join(f"{each}={arguments.get(each, FILLER)}" for each in ("a0", "a1", "a2", "a3"))
    return "SYSCALL", (
        f"arch={code} syscall={number} success=yes exit=0 {values} items=0 ppid=1 pid=2 "
        f'auid=4294967295 uid=0 ses=4294967295 comm="x" exe="/x" key=(null)'
    )


CALLS = {
    "ptrace a0": "0 1 4 5 7 8 10 11 4200 4206 420e",
    "mmap a2": "0 1 3 5 7",
    "mmap a3": "0 1 2 22 32 812 20022",
    "mprotect a2": "0 1 3 7",
    "mount a3": "1 2 7 20 1000 100000",
    "umount2 a1": "1 2 4 8 a",
    "open a1": "0 1 2 241 441 2000 80000 101000",
    "openat a2": "0 241 2000 80000 101000",
    "openat a0": "ffffff9c 3",
    "chmod a1": "1ed 1a4 9ed 5ed",
    "mkdirat a2": "1ed 3ff",
    "mknod a1": "21b6 61b6 11b6 81a4 51b6",
    "access a1": "0 1 2 4 6",
    "kill a1": "0 1 9 f",
    "tgkill a2": "6 9",
    "rt_sigaction a0": "2 f",
    "socket a0": "1 2 a c 10 11 28",
    "socket a1": "1 2 3 5",
    "socket a2": "0 1 6 11",
    "sendto a3": "0 1 40 4000 40000000",
    "recvmsg a2": "0 2 40",
    "prctl a0": "1 4 8 f 16 26",
    "bpf a0": "0 1 5 6 8",
    "setrlimit a0": "0 4 7 8",
    "clock_settime a0": "0 1",
    "fcntl a1": "0 1 2 4 400 406",
    "epoll_ctl a1": "1 2 3",
    "lseek a2": "0 1 2",
    "personality a0": "0 8",
    "setns a1": "0 20000 40000000",
    "unshare a0": "0 20000 10000000",
    "setuid a0": "ffffffff",
    "sched_setscheduler a1": "0 1 2 5 40000001",
    "shmget a2": "0 3b6 780 9b6",
    "exit_group a0": "0 1",
    "ioctl a1": "5401 540e 5413 541b 8933 80045430 40045431 12345678",
    "setsockopt a1": "0 1 6 11 29 ff 107 10e 11a",
    "getsockopt a1": "0 1 6 11 29",
}
"""Syscall and argument: values that are asked for, in hex."""


@pytest.mark.parametrize("arch", ["x86_64", "i386", "aarch64", "arm"])
def test_arguments_are_those_of_ausearch(arch: str, tmp_path: Path) -> None:
    """But the old mmap, whose one argument is a pointer, and the name of arm, which ausearch takes for armeb."""
    known = set(tables.load_tables().syscalls[arch].values())
    asked = [
        (name, argument, value)
        for (name, argument), values in ((each.split(), values) for each, values in CALLS.items())
        for value in values.split()
        if name in known and (name != "mmap" or "mmap2" not in known)
    ]
    assert len(asked) > 90
    wrong = ask(tmp_path, [call(arch, name, **{argument: value}) for name, argument, value in asked])
    assert [each for each in wrong if (each.name, each.ours) != ("arch", "arm")] == []


def test_arguments_that_another_one_explains(tmp_path: Path) -> None:
    options = [
        call("x86_64", "setsockopt", a1=f"{level:x}", a2=f"{number:x}")
        for level, numbers in ((0, 50), (1, 68), (6, 37), (17, 1), (41, 29), (263, 3))
        for number in range(1, numbers + 1)
        if not (level == 0 and 25 < number < 32)
    ]
    others = [
        call("x86_64", "prctl", a0="17", a1="15"),
        call("x86_64", "prctl", a0="18", a1="0"),
        call("x86_64", "prctl", a0="1", a1="9"),
        call("x86_64", "prctl", a0="f", a1="9"),
        call("x86_64", "fcntl", a1="2", a2="1"),
        call("x86_64", "fcntl", a1="2", a2="0"),
        call("x86_64", "fcntl", a1="4", a2="800"),
        call("arm", "fcntl64", a1="2", a2="1"),
        *(call("i386", "socketcall", a0=f"{number:x}") for number in range(1, 21)),
        call("i386", "socketcall", a0="63"),
    ]
    wrong = ask(tmp_path, options + others)
    assert [each for each in wrong if each.name != "arch" and not each.theirs.startswith("unknown-")] == []


def test_calls_in_one_are_named(tmp_path: Path) -> None:
    """ausearch leaves the first argument of ipc in hex, though it names the call by it."""
    wrong = ask(tmp_path, [call("i386", "ipc", a0=f"{number:x}") for number in (1, 2, 3, 4, 11, 14, 21, 24, 99)])
    assert {each.name for each in wrong} == {"a0"}


@pytest.mark.parametrize("arch", ["x86_64", "i386", "aarch64", "arm"])
def test_every_syscall_has_ausearch_s_name(arch: str, tmp_path: Path) -> None:
    names = tables.load_tables().syscalls[arch].values()
    wrong = ask(tmp_path, [call(arch, name) for name in names])
    assert len(names) > 280
    newer = {each.raw for each in wrong if each.theirs == f"unknown-syscall({each.raw})"}
    assert [each for each in wrong if each.name == "syscall" and each.raw not in newer] == []
    assert len(newer) < 30


def test_every_number_in_a_field(tmp_path: Path) -> None:
    """Exit codes, signals, capabilities, modes, permissions and the like, in the type of record that carries them."""
    masks = ("cap_pi", "cap_pp", "cap_pe", "cap_pa", "fp", "fi", "old_pp", "old_pi", "old_pe", "pp", "pi", "pe", "pa")
    named = [
        *(("URINGOP", f"uring_op=1 success=no exit=-{number}") for number in map(int, tables.load_tables().errno)),
        *(("ANOM_ABEND", f"sig={number}") for number in range(32) if number != 30),
        *(("AVC", f"avc: denied {{ x }} for capability={number} tclass=capability") for number in range(41)),
        *(("BPRM_FCAPS", f"{name}={1 << bit:016x}") for name in masks for bit in range(41)),
        *(("CAPSET", f"cap_pp={mask}") for mask in ("0", "00000000a80425fb", "000001ffffffffff", "3fffffffff")),
        *(("PATH", f"mode={kind:o}{bits}") for kind in range(0o20) for bits in ("0000", "4755", "2644", "1777")),
        *(("IPC_SET_PERM", f"mode={mode}") for mode in ("0600", "0666", "01777")),
        *(("MQ_OPEN", f"oflag={flags} mode={mode}") for flags in ("0x42", "0x800") for mode in ("0600", "04755")),
        *(("CONFIG_CHANGE", f"list={number} res={result}") for number in (0, 1, 4, 5, 6) for result in (0, 1)),
        *(("CONFIG_CHANGE", f"perm={number}") for number in range(16)),
        *(("MMAP", f"fd=3 flags={flags}") for flags in ("0x0", "0x2", "0x22", "0x812", "0x20022")),
        *(("ANOM_PROMISCUOUS", f"prom={number} old_prom=0") for number in (0, 256)),
        *(("SECCOMP", f"code=0x{code:08x}") for code in (0, 0x30000, 0x50001, 0x7FC00000, 0x7FF00000, 0x7FFC0000)),
        *(("URINGOP", f"uring_op=1 per={value}") for value in ("8", "400000", "c")),
        *(("NETFILTER_CFG", f"family={number}") for number in (0, 1, 2, 3, 7, 10, 12)),
        *(("NETFILTER_PKT", f"hook={number} action={number % 3}") for number in range(5)),
        *(("NETFILTER_PKT", f"proto=1 icmptype={number}") for number in (0, 3, 4, 5, 8, 11, 12, 13, 14, 17, 18)),
        *(
            ("NETFILTER_PKT", f"macproto={kind} saddr=10.0.0.1 proto={proto}")
            for kind, proto in (("0x0800", 6), ("0x0806", 17))
        ),
        *(("FANOTIFY", f"resp={number}") for number in (1, 2)),
        *(("EVENT_LISTENER", f"nl-mcgrp={number}") for number in (0, 1)),
        *(
            ("AVC", f"avc: denied {{ ioctl }} for ioctlcmd={code} tclass=file")
            for code in ("0x5401", "0x5413", "0x1234")
        ),
        *(("OPENAT2", f"oflag=0 mode=0 resolve=0x{bit:x}") for bit in (1, 2, 4, 8, 16, 32, 63)),
        ("SOCKETCALL", "nargs=3 a0=2 a1=1 a2=10"),
        ("CRYPTO_KEY_USER", "op=destroy fp=c0ffee"),
        ("KERN_MODULE", "name=6576696C20"),
        ("SERVICE_START", "unit=CAFE"),
        ("TRUSTED_APP", "command=6C73202D6C version=12"),
        ("LOGIN", "old-auid=4294967295 auid=4294967295 ses=4294967295"),
    ]
    wrong = ask(tmp_path, named)
    listed = {("URINGOP", "per", "400000")} | {
        ("AVC", name, raw) for name, raw in product(("seresult", "seperms"), ("denied", "x", "ioctl"))
    }
    assert [each for each in wrong if (each.type, each.name, each.raw) not in listed] == []


def test_addresses_are_those_of_ausearch(tmp_path: Path) -> None:
    """But abstract sockets, which have an @ here, and families that ausearch is too old to know."""
    full = bytes(range(1, 31)).hex().upper()
    known = [family for family in range(45) if family not in {27, 28}]
    local = [f"01002F746D702F{name}" for name in ("61", "6100", "612062", "C3A900")]
    named = [
        *(f"{struct.pack('<H', family).hex().upper()}{full}" for family in known if family != 10),
        *(f"{struct.pack('<H', family).hex().upper()}00" for family in known if family not in {1, 3, 8}),
        *local,
        "020000507F0000010000000000000000",
        "0A00001600000000" + "20010DB8" + "0" * 23 + "1" + "00000000",
        "0A00001600000000" + "0" * 20 + "FFFF0A000001" + "00000000",
        "0A00001600000000" + "0" * 32 + "00000000",
        "10000000D2040000FFFFFFFF",
    ]
    assert ask(tmp_path, [("SOCKADDR", f"saddr={raw}") for raw in named]) == []


def test_bodies_are_taken_apart_as_ausearch_does(tmp_path: Path) -> None:
    """Nested messages, brackets, quotes and words between the fields, in every kind of record that has them."""
    tail = 'exe="/usr/sbin/x" hostname=? addr=? terminal=? res=success'
    head = "pid=5 uid=0 auid=4294967295 ses=4294967295"
    bodies = [
        ("USER_LOGIN", f"user pid=55 uid=0 auid=4294967295 ses=4294967295 msg='op=login acct=28756E29 {tail}'"),
        ("USER_CMD", f"{head} msg='cwd=\"/root\" cmd=6C73202D6C terminal=pts/0 res=failed'"),
        ("VIRT_CONTROL", f"{head} msg='virt=kvm op=start reason=booted vm=\"my vm\" uuid=5-5 vm-pid=9  {tail}'"),
        (
            "VIRT_RESOURCE",
            f'{head} msg=\'virt=kvm resrc=disk reason=start vm="a" old-disk="?" new-disk=2F6120 {tail}\'',
        ),
        ("CRYPTO_SESSION", f"{head} msg='op=start direction=from-server cipher=aes ksize=256 mac=<implicit> {tail}'"),
        ("MAC_IPSEC_EVENT", "op=SAD-delete auid=4294967295 src=10.0.0.1 dst=10.0.0.2 spi=5(0x5) res=1"),
        ("MAC_STATUS", "enforcing=0 old_enforcing=1 auid=4294967295 ses=4294967295 lsm=selinux res=1"),
        ("MAC_UNLBL_STCADD", "netlabel: auid=4294967295 ses=1 netif=lo src=10.0.0.0 src_prefixlen=8 sec_obj=a res=1"),
        ("INTEGRITY_DATA", f'{head} op=appraise_data cause=invalid-hash comm="x" name="/a b" ino=5 res=0 errno=0'),
        ("ANOM_ABEND", 'auid=4294967295 uid=0 ses=1 subj=u:r:t pid=5 comm="x y" exe="/x" sig=11 res=1'),
        ("SELINUX_ERR", "op=security_compute_sid invalid_context=753A723A74 scontext=a:b:c tclass=process"),
        ("BPF", "prog-id=5 op=LOAD"),
        ("TIME_INJOFFSET", "sec=1 nsec=5"),
        ("FEATURE_CHANGE", f"{head} feature=loginuid_immutable old=0 new=1 old_lock=0 new_lock=1 res=1"),
        ("URINGOP", 'uring_op=18 success=no exit=-13 items=1 ppid=1 pid=2 uid=0 key="a b"'),
        ("USER_DEVICE", f"{head} msg='op=changed-authorization-state-for device=2F6120 target=allow {tail}'"),
        ("UNKNOWN[1999]", "a=1 e=2F61"),
    ]
    assert [each for each in ask(tmp_path, bodies) if each.name not in {"uid", "auid"}] == []


def test_types_have_ausearch_s_names(tmp_path: Path) -> None:
    names = [
        name for number, name in tables.load_tables().types.items() if int(number) >= FIRST_OF_EVENTS and name != "EOE"
    ]
    log = tmp_path / "types.log"
    lines = [f"type={name} msg=audit(1700000000.000:{serial}): a=1" for serial, name in enumerate(names, 1)]
    log.write_text("\n".join(lines) + "\n")
    result = compare_opinions(log)
    assert result.records == len(names) > 150
    assert set(result.missing) <= NEWER_TYPES | NEEDS_MORE


NEWER_TYPES: set[str] = set()
NEEDS_MORE = {"SYSCALL", "AVC", "SECCOMP", "INTEGRITY_DATA"}
"""ausearch takes a record of these for broken that lacks what it looks for first."""
