from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.decode.conftest import decode_lines
from watchdogd.decode.actor import present
from watchdogd.decode.facts import _read_syscall_fields, read_path, read_syscall
from watchdogd.decode.reassemble import Reassembler
from watchdogd.entities import Event, Record, View
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from pathlib import Path

CALLS = {
    "execve": 59,
    "openat": 257,
    "open": 2,
    "rename": 82,
    "renameat": 264,
    "linkat": 265,
    "unlink": 87,
    "connect": 42,
}


def decode(*bodies: str, **syscall: str) -> Event:
    """One event: a SYSCALL record with these values changed, and other records given as `TYPE body`."""
    values = {
        "arch": "c000003e",
        "syscall": "59",
        "success": "yes",
        "exit": "0",
        **dict.fromkeys(("a0", "a1", "a2", "a3"), "0"),
        "items": "0",
        "ppid": "9",
        "pid": "10",
        "auid": "1000",
        "uid": "0",
        **dict.fromkeys("gid euid suid fsuid egid sgid fsgid".split(), "0"),  # noqa: SIM905 - easier to read
        "tty": "pts0",
        "ses": "3",
        "comm": '"sh"',
        "exe": '"/bin/sh"',
        "key": "(null)",
    }
    enriched = syscall.pop("enriched", "")
    syscall["syscall"] = str(CALLS.get(syscall.get("syscall", "execve"), syscall.get("syscall")))
    values |= syscall
    body = " ".join(f"{name}={value}" for name, value in values.items())
    lines = [f"SYSCALL {body}{enriched}", *bodies]
    stamp = "msg=audit(1700000000.123:77):"
    events = decode_lines(f"type={line.partition(' ')[0]} {stamp} {line.partition(' ')[2]}".encode() for line in lines)
    assert len(events) == 1
    return events[0]


def view(event: Event, category: str) -> View:
    return next(view for view in event.views if view.category == category)


def path(name: str, kind: str = "NORMAL", inode: int = 1) -> str:
    return f"PATH item=0 name={name} inode={inode} dev=08:01 mode=0100644 ouid=0 ogid=0 rdev=00:00 nametype={kind}"


def test_exec_gives_process_and_view() -> None:
    event = decode(
        'EXECVE argc=3 a0="sh" a1="-c" a2=6563686F2027612062270A',
        'CWD cwd="/root"',
        enriched='\x1dARCH=x86_64 SYSCALL=execve AUID="alice" UID="root" GID="root"',
    )
    assert event.views == (
        View(
            "process_creation",
            "exec",
            "success",
            {
                "Image": "/bin/sh",
                "User": "root",
                "ProcessId": 10,
                "ParentProcessId": 9,
                "LogonId": "1000",
                "TerminalSessionId": "3",
                "CommandLine": "sh -c echo 'a b'\n",
                "CurrentDirectory": "/root",
            },
        ),
    )
    process = event.process
    assert process is not None
    assert (process.key.boot, process.key.pid, process.key.start_ms) == ("", 10, 1_700_000_000_123)
    assert process.argv == ("sh", "-c", "echo 'a b'\n")
    assert (process.user, process.login, process.uid, process.auid, process.ppid) == ("root", "alice", 0, 1000, 9)
    assert (process.exe, process.comm, process.cwd, process.tty, process.session) == (
        "/bin/sh",
        "sh",
        "/root",
        "pts0",
        "3",
    )
    assert event.warnings == ()


def test_without_enrichment_nobody_has_a_name() -> None:
    event = decode('EXECVE argc=1 a0="sh"', auid="4294967295", ses="4294967295", tty="(none)")
    assert event.process is not None
    assert (event.process.user, event.process.login, event.process.auid, event.process.session, event.process.tty) == (
        None,
    ) * 5
    assert view(event, "process_creation").fields["User"] == "0"
    assert "LogonId" not in view(event, "process_creation").fields


def test_a_failed_exec_creates_no_process() -> None:
    event = decode(path('"/bin/nothing"'), success="no", exit="-2", items="1")
    assert [(each.category, each.action, each.outcome) for each in event.views] == [("syscall", "execve", "failure")]
    assert event.process is not None
    assert event.process.argv == ()


@pytest.mark.parametrize(
    ("records", "argv", "warned"),
    [
        (['EXECVE argc=3 a0="a" a2="c"'], ("a", "", "c"), False),
        (['EXECVE argc=2 a0="a"'], ("a", ""), False),
        (['EXECVE argc=2 a0="a" a1_len=4 a1[0]=6162 a1[1]=6364'], ("a", "abcd"), False),
        (['EXECVE argc=2 a0="a" a1_len=4 a1[0]=61C3', "EXECVE a1[1]=A962"], ("a", "aéb"), False),
        (["EXECVE a1[1]=6364", 'EXECVE argc=2 a0="a" a1_len=4 a1[0]=6162'], ("a", "abcd"), False),
        (['EXECVE argc=2 a0="a" a1_len=6 a1[0]=6162 a1[2]=6566'], ("a", "abef"), True),
        (['EXECVE argc=2 a0="a" a1_len=8 a1[0]=6162 a1[1]=6364'], ("a", "abcd"), False),
        (['EXECVE argc=2 a0="a" a1_len=8 a1[0]=6162'], ("a", "ab"), True),
        (['EXECVE argc=2 a0="a" a1_len=4 a1[0]="ab" a1[1]="cd"'], ("a", "abcd"), False),
        (['EXECVE argc=2 a0="a" a1_len=4 a1[0]="ab"'], ("a", "ab"), True),
        (['EXECVE argc=2 a0="a" a1_len=4'], ("a", ""), True),
        (['EXECVE argc=99999999 a0="a"'], ("a",), True),
        (['EXECVE argc=1 a0="argc=5"'], ("argc=5",), False),
        (["EXECVE argc=1 a0="], ("",), False),
    ],
)
def test_argument_vectors(records: list[str], argv: tuple[str, ...], warned: bool) -> None:  # noqa: FBT001 - a table
    event = decode(*records)
    assert event.process is not None
    assert event.process.argv == argv
    assert bool(event.warnings) == warned


def test_lost_execve_falls_back_to_proctitle_and_says_so() -> None:
    event = decode("PROCTITLE proctitle=6361740061")
    assert view(event, "process_creation").fields["CommandLine"] == "cat a"
    assert "no EXECVE record" in event.warnings[0]


def test_image_falls_back_to_the_path() -> None:
    event = decode('EXECVE argc=1 a0="x"', 'CWD cwd="/srv"', path('"./x"'), exe="(null)")
    assert view(event, "process_creation").fields["Image"] == "/srv/x"


@pytest.mark.parametrize(
    ("flags", "kind", "success", "expected"),
    [
        ("0", "NORMAL", "yes", ("file_access", "read")),
        ("1", "NORMAL", "yes", ("file_event", "write")),
        ("2", "NORMAL", "yes", ("file_event", "write")),
        ("200", "NORMAL", "yes", ("file_event", "write")),
        ("40", "NORMAL", "yes", ("file_access", "read")),
        ("40", "CREATE", "yes", ("file_event", "create")),
        ("241", "NORMAL", "no", ("file_access", "write")),
        ("zz", "NORMAL", "yes", ("file_access", "read")),
    ],
)
def test_opens(flags: str, kind: str, success: str, expected: tuple[str, str]) -> None:
    event = decode(
        'CWD cwd="/etc"',
        path('"/etc/"', "PARENT"),
        path('"shadow"', kind),
        syscall="openat",
        a0="ffffff9c",
        a2=flags,
        success=success,
    )
    assert [(each.category, each.action) for each in event.views] == [expected]
    assert event.views[0].fields["TargetFilename"] == "/etc/shadow"


@pytest.mark.parametrize(
    ("name", "cwd", "resolved"),
    [
        ('"/etc/shadow"', "/x", "/etc/shadow"),
        ('"shadow"', "/etc", "/etc/shadow"),
        ('"../etc//./shadow"', "/tmp", "/etc/shadow"),
        ('"/tmp/../../etc/shadow"', "/", "/etc/shadow"),
        ('"//etc/shadow"', "/", "/etc/shadow"),
        ("2F612062", "/", "/a b"),
    ],
)
def test_paths_are_made_absolute(name: str, cwd: str, resolved: str) -> None:
    event = decode(f'CWD cwd="{cwd}"', path(name), syscall="open")
    assert event.views[0].fields["TargetFilename"] == resolved


def test_a_path_below_an_open_directory_is_not_guessed() -> None:
    event = decode('CWD cwd="/root"', path('"shadow"'), syscall="openat", a0="3")
    assert event.views[0].fields["TargetFilename"] == "<fd 3>/shadow"
    assert "open directory" in event.warnings[0]


def test_rename_says_from_and_to() -> None:
    event = decode(
        'CWD cwd="/etc"',
        path('"/etc/"', "PARENT"),
        path('"/etc/"', "PARENT"),
        path('"passwd+"', "DELETE", 5),
        path('"/etc/passwd"', "DELETE", 4),
        path('"/etc/passwd"', "CREATE", 5),
        syscall="rename",
        items="5",
    )
    assert [(each.category, each.action) for each in event.views] == [
        ("file_event", "rename"),
        ("file_rename", "rename"),
    ]
    for each in event.views:
        assert (each.fields["SourceFilename"], each.fields["TargetFilename"]) == ("/etc/passwd+", "/etc/passwd")


def test_link_between_directories() -> None:
    event = decode(
        'CWD cwd="/home"',
        path('"a"', "NORMAL", 7),
        path('"b"', "CREATE", 7),
        syscall="linkat",
        a0="4",
        a2="ffffff9c",
    )
    fields = view(event, "file_event").fields
    assert (fields["SourceFilename"], fields["TargetFilename"]) == ("<fd 4>/a", "/home/b")


@pytest.mark.parametrize(
    ("success", "code", "outcome"), [("yes", "0", "success"), ("no", "-115", "success"), ("no", "-111", "failure")]
)
def test_connections(success: str, code: str, outcome: str) -> None:
    event = decode("SOCKADDR saddr=0200115C7F0000010000000000000000", syscall="connect", success=success, exit=code)
    found = view(event, "network_connection")
    assert (found.outcome, found.fields["DestinationIp"], found.fields["DestinationPort"]) == (
        outcome,
        "127.0.0.1",
        4444,
    )
    assert found.fields["Initiated"] == "true"


def test_connections_of_i386_programs_pass_through_one_call() -> None:
    event = decode(
        "SOCKETCALL nargs=3 a0=3 a1=ffd0 a2=10",
        "SOCKADDR saddr=0200115C7F0000010000000000000000",
        arch="40000003",
        syscall="102",
        a0="3",
    )
    found = view(event, "network_connection")
    assert (found.fields["DestinationIp"], found.fields["DestinationPort"]) == ("127.0.0.1", 4444)


def test_a_syscall_that_only_the_recording_host_knows() -> None:
    event = decode(syscall="999", enriched='\x1dARCH=x86_64 SYSCALL=newcall AUID="alice" UID="root"')
    assert view(event, "syscall").fields["Syscall"] == "newcall"
    event = decode(
        'EXECVE argc=1 a0="sh"',
        arch="c00000f3",
        syscall="221",
        enriched='\x1dARCH=riscv64 SYSCALL=execve AUID="a" UID="r"',
    )
    assert view(event, "process_creation").fields["CommandLine"] == "sh"


def test_other_sockets_are_plain_syscalls() -> None:
    event = decode("SOCKADDR saddr=01002F72756E2F646F636B65722E736F636B00", syscall="connect")
    assert view(event, "syscall").fields["SocketPath"] == "/run/docker.sock"


def test_missing_records_are_named_and_counted() -> None:
    counters = Counters()
    line = b'type=PATH msg=audit(1.000:1): item=0 name="/x" nametype=NORMAL'
    event = decode_lines([line], counters)[0]
    assert event.warnings == ("no SYSCALL record: who did it is unknown",)
    assert event.process is None
    assert event.views[0].category == "audit_record"
    assert decode(path('"/x"'), syscall="open", items="2").warnings == ("1 of 2 PATH records",)
    assert counters.get("decode_incomplete_events_total") == 1


def test_the_volume_log_is_whole_and_the_lossy_one_is_not(corpora: Path) -> None:
    counters = Counters()
    events = decode_lines((corpora / "recorded/lossy/lossy.log").read_bytes().split(b"\n")[:-1], counters)
    assert counters.get("decode_incomplete_events_total") == sum(bool(event.warnings) for event in events) > 100
    counters = Counters()
    decode_lines((corpora / "recorded/mixed.log").read_bytes().split(b"\n")[:-1], counters)
    assert counters.get("decode_incomplete_events_total") == 0


def test_both_ways_of_reading_agree_on_every_recorded_record(corpora: Path) -> None:
    """The anchored patterns against the general parser."""
    compared = 0
    for log in [corpora / "recorded/mixed.log", *sorted((corpora / "recorded/logs").glob("d[bm]0*.log"))[::4]]:
        reassembler = Reassembler(live=False)
        lines = [Record("x", None, line) for line in log.read_bytes().split(b"\n")]
        for opened in [*reassembler.feed(lines, 0), *reassembler.drain()]:
            for line in opened.records:
                if line.type == "SYSCALL":
                    assert read_syscall(line) == _read_syscall_fields(line)
                    compared += 1
                elif line.type == "PATH":
                    facts = read_path(line)
                    assert facts.name == present(line.get("name"))
                    assert (facts.inode, facts.kind) == (line.get("inode"), line.get("nametype"))
                    compared += 1
    assert compared > 5000


RECORDS = st.lists(
    st.tuples(
        st.sampled_from(
            b"SYSCALL EXECVE PATH CWD SOCKADDR PROCTITLE EOE USER_CMD LOGIN AVC URINGOP "
            b"CONFIG_CHANGE UNKNOWN[9]".split()
        ),
        st.one_of(
            st.binary(max_size=80),
            st.lists(
                st.sampled_from(
                    b"arch=c000003e syscall=59 syscall=257 syscall=82 syscall=42 success=yes success=no exit=-1 "
                    b'a0=ff a1=zz argc=3 argc=99999999999 a1[0]=4142 a9999999="x" name="x" name=41 nametype=CREATE '
                    b"nametype=DELETE pid=1 pid=-1 uid=99999999999 items=9 saddr=0200 saddr=0A00 saddr=01 saddr=zz "
                    b"proctitle=00 cwd= "
                    b'msg=\' op=a acct="\x1d UID="r" auid=4294967295 uring_op=1 { } avc: inode= =5 "'.split()
                ),
                max_size=12,
            ).map(b" ".join),
        ),
    ),
    max_size=6,
)


@settings(max_examples=300)
@given(RECORDS)
def test_nothing_that_records_hold_crashes(records: list[tuple[bytes, bytes]]) -> None:
    lines = [b"type=" + kind + b" msg=audit(1.000:1): " + body for kind, body in records]
    for event in decode_lines(lines):
        assert event.views
        assert all(record.fields is not None for record in event.records)
