"""What file views make of a real recording: names that the log can resolve, and none made up where it cannot.

golden/paths.log holds the calls of one program on Linux 6.18, one event for each call of STORY, run in /srv/w with the
folder /srv/w/sub open as descriptor 3.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.decode.conftest import decode_lines
from tests.decode.test_event import decode, path, view

if TYPE_CHECKING:
    from watchdogd.entities import Event

Row = tuple[str, str, str | None, object]
STORY: dict[str, list[Row]] = {
    "renameat2(CWD, a, CWD, b, EXCHANGE)": [
        ("file_event", "rename", "/srv/w/a", "/srv/w/b"),
        ("file_event", "rename", "/srv/w/b", "/srv/w/a"),
    ],
    "open(sub)": [("file_access", "read", None, "/srv/w/sub")],
    "renameat2(CWD, a, 3, c, EXCHANGE)": [
        ("file_event", "rename", "/srv/w/a", "<fd 3>/c"),
        ("file_event", "rename", "<fd 3>/c", "/srv/w/a"),
    ],
    "renameat2(CWD, a, 3, c2, NOREPLACE)": [("file_event", "rename", "/srv/w/a", "<fd 3>/c2")],
    "symlink(../target, sub/link)": [("file_event", "symlink", "/srv/w/target", "/srv/w/sub/link")],
    "symlinkat(rel, 3, link2)": [("file_event", "symlink", "<fd 3>/rel", "<fd 3>/link2")],
    "openat2(CWD, b, O_RDONLY)": [("file_access", "read", None, "/srv/w/b")],
    "openat2(3, new2, O_RDWR|O_CREAT)": [("file_event", "create", None, "<fd 3>/new2")],
    "openat(CWD, b, O_PATH)": [("file_access", "read", None, "/srv/w/b")],
    "openat(CWD, b, O_PATH|O_RDWR)": [("file_access", "read", None, "/srv/w/b")],
    "openat(CWD, sub, O_TMPFILE|O_RDWR)": [("file_event", "write", None, "/srv/w/sub")],
    "unlinkat(3, nonexist), whose name the kernel does not say": [("syscall", "unlinkat", None, None)],
    "unlinkat(3, c)": [("file_delete", "delete", None, "<fd 3>/c")],
    "openat(CWD, b, O_RDWR)": [("file_event", "write", None, "/srv/w/b")],
    "linkat(9, '', CWD, linked, EMPTY_PATH)": [("file_event", "link", "<fd 9>", "/srv/w/linked")],
    "linkat(3, c2, CWD, linked2)": [("file_event", "link", "<fd 3>/c2", "/srv/w/linked2")],
    "ftruncate(9), which has no PATH": [("syscall", "ftruncate", None, None)],
    "truncate(b)": [("file_event", "truncate", None, "/srv/w/b")],
    "fchmod(9), whose PATH has no name": [("file_change", "chmod", None, None)],
    "chmod(b)": [("file_change", "chmod", None, "/srv/w/b")],
    "fchmodat(3, c2)": [("file_change", "chmod", None, "<fd 3>/c2")],
    "fchownat(9, '', EMPTY_PATH)": [("file_change", "chown", None, "<fd 9>")],
    "chown(b)": [("file_change", "chown", None, "/srv/w/b")],
    "newfstatat(3, c2)": [("syscall", "newfstatat", None, ("<fd 3>/c2",))],
    "faccessat(3, nope)": [("syscall", "faccessat", None, ("<fd 3>/nope",))],
    "mkdirat(3, dir)": [("file_event", "mkdir", None, "<fd 3>/dir")],
    "unlinkat(3, dir, REMOVEDIR)": [("file_delete", "delete", None, "<fd 3>/dir")],
    "mknodat(3, fifo)": [("file_event", "mknod", None, "<fd 3>/fifo")],
    "rmdir(nodir)": [("syscall", "rmdir", None, None)],
    "rename(b, linked2), which is there": [("file_event", "rename", "/srv/w/b", "/srv/w/linked2")],
    "rename(zzz, zz2)": [("syscall", "rename", None, None)],
    "renameat(3, c2, CWD, b)": [("file_event", "rename", "<fd 3>/c2", "/srv/w/b")],
    "utimensat(CWD, b)": [("file_change", "utimes", None, "/srv/w/b")],
}


def read_story() -> list[Event]:
    log = Path(__file__).parent / "golden/paths.log"
    return decode_lines(log.read_bytes().split(b"\n"))


@pytest.mark.parametrize("call", STORY)
def test_recorded_paths(call: str) -> None:
    event = read_story()[list(STORY).index(call)]
    found = [
        (each.category, each.action, each.fields.get("SourceFilename"), each.fields.get("TargetFilename"))
        for each in event.views
        if each.category != "file_rename"
    ]
    assert found == STORY[call]


def test_the_story_is_whole() -> None:
    events = read_story()
    assert len(events) == len(STORY)
    assert [event for event in events if any("PATH records" in warning for warning in event.warnings)] == []


def test_each_rename_has_its_own_view_of_the_same_words() -> None:
    for event in read_story():
        renames = [each for each in event.views if each.action == "rename" and each.category != "syscall"]
        events = [each.fields for each in renames if each.category == "file_event"]
        assert events == [each.fields for each in renames if each.category == "file_rename"]


def test_an_openat2_without_its_own_record_is_taken_for_writing() -> None:
    """Kernels before 5.16 do not say what is behind the pointer."""
    event = decode(path('"/etc/shadow"'), syscall="437", a0="ffffff9c")
    assert [(each.category, each.action) for each in event.views] == [("file_event", "write")]
    said = decode("OPENAT2 oflag=0 mode=0 resolve=0x0", path('"/etc/shadow"'), syscall="437", a0="ffffff9c")
    assert [(each.category, each.action) for each in said.views] == [("file_access", "read")]
    torn = decode("OPENAT2 oflag=zz", path('"/etc/shadow"'), syscall="437", a0="ffffff9c")
    assert [(each.category, each.action) for each in torn.views] == [("file_event", "write")]


def uring(operation: int, *bodies: str, success: str = "yes") -> Event:
    record = (
        f"URINGOP uring_op={operation} success={success} exit=0 items={len(bodies)} ppid=1 pid=2 uid=0 gid=0 euid=0 "
        "suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 key=(null)"
    )
    (event,) = decode_lines(
        [f"type={kind} msg=audit(1.000:1): {rest}".encode() for kind, _, rest in map(_cut, (record, *bodies))]
    )
    return event


def _cut(body: str) -> tuple[str, str, str]:
    return body.partition(" ")


@pytest.mark.parametrize(
    ("operation", "paths", "wanted"),
    [
        (18, [path('"/etc/shadow"')], [("file_event", "write", "/etc/shadow")]),
        (28, [path('"/etc/shadow"')], [("file_event", "write", "/etc/shadow")]),
        (18, [path('"/etc/cron.d/x"', "CREATE")], [("file_event", "create", "/etc/cron.d/x")]),
        (36, [path('"/var/log/auth.log"', "DELETE")], [("file_delete", "delete", "/var/log/auth.log")]),
        (37, [path('"/tmp/d"', "CREATE")], [("file_event", "mkdir", "/tmp/d")]),
        (38, [path('"/etc/x"'), path('"/tmp/l"', "CREATE")], [("file_event", "symlink", "/tmp/l")]),
        (39, [path('"/etc/x"'), path('"/tmp/l"', "CREATE")], [("file_event", "link", "/tmp/l")]),
        (42, [path('"/bin/x"')], [("file_change", "setxattr", "/bin/x")]),
        (
            35,
            [path('"/etc/a"', "DELETE"), path('"/etc/b"', "CREATE")],
            [("file_event", "rename", "/etc/b"), ("file_rename", "rename", "/etc/b")],
        ),
        (18, [path('"a"')], [("file_event", "write", "<fd ?>/a")]),
    ],
)
def test_what_io_uring_does_to_files_is_seen_as_calls_are(
    operation: int, paths: list[str], wanted: list[tuple[str, str, str]]
) -> None:
    """The record tells neither flags nor folders: an open is taken for writing, as that of openat2 is."""
    event = uring(operation, 'CWD cwd="/root"', *paths)
    assert [(each.category, each.action, each.fields["TargetFilename"]) for each in event.views] == wanted


def test_io_uring_connects_and_says_what_else_it_does() -> None:
    (connection,) = uring(16, "SOCKADDR saddr=020001BB0A000001000000000000000000").views
    assert (connection.category, connection.fields["DestinationIp"]) == ("network_connection", "10.0.0.1")
    (failed,) = uring(18, path('"/etc/shadow"'), success="no").views
    assert (failed.category, failed.fields["Outcome"]) == ("file_access", "failure")
    assert [uring(number).views[0].fields["Syscall"] for number in (47, 22, 999)] == [
        "sendto", "io_uring(read)", "io_uring(999)",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("number", "action", "mode"),
    [("452", "chmod", "0755"), ("463", "setxattr", None), ("466", "removexattr", None), ("469", "setattr", None)],
)
def test_calls_that_are_newer_than_ausyscall_change_files_as_their_elders(
    number: str, action: str, mode: str | None
) -> None:
    for arch in ("c000003e", "40000003", "c00000b7", "40000028"):
        (change,) = decode('CWD cwd="/srv"', path('"x"'), arch=arch, syscall=number, a0="ffffff9c", a2="1ed").views
        assert (change.category, change.action) == ("file_change", action)
        assert (change.fields["TargetFilename"], change.fields.get("Mode")) == ("/srv/x", mode)


@pytest.mark.parametrize("number", ["212", "207", "198"])
def test_owners_are_changed_by_i386_s_wide_calls_too(number: str) -> None:
    (change,) = decode(path('"/etc/x"'), arch="40000003", syscall=number).views
    assert (change.category, change.action) == ("file_change", "chown")


def test_calls_of_x32_are_those_of_x86_64() -> None:
    """x32's numbers are marked by a bit, and some are its own."""
    (opened,) = decode(path('"/etc/x"'), syscall=str(0x40000002), a1="1").views
    assert (opened.category, opened.action) == ("file_event", "write")
    for number in (0x40000000 + 520, 520):
        started = decode('EXECVE argc=1 a0="x"', syscall=str(number))
        assert [each.category for each in started.views] == ["process_creation"]
        assert {name: text for name, _, text in started.records[0].fields}["syscall"] == "execve"
    (plain,) = decode(syscall=str(0x40000000 + 9999)).views
    assert plain.fields["Syscall"] == "syscall(1073751823)"


def test_ipv4_through_an_ipv6_socket_is_ipv4() -> None:
    mapped = "0A0001BB00000000" + "00" * 10 + "FFFF0A000001" + "00000000"
    event = decode(f"SOCKADDR saddr={mapped}", syscall="42")
    assert view(event, "network_connection").fields["DestinationIp"] == "10.0.0.1"
    record = next(each for each in event.records if each.type == "SOCKADDR")
    assert "::ffff:10.0.0.1" in record.fields[0][2]


def test_execveat_below_an_open_directory_is_not_guessed() -> None:
    event = decode('EXECVE argc=1 a0="x"', 'CWD cwd="/srv"', path('"x"'), syscall="322", a0="5", exe="(null)")
    assert view(event, "process_creation").fields["Image"] == "<fd 5>/x"


def test_all_paths_are_kept_apart() -> None:
    """Records are never merged: each PATH has its own name, inode and kind."""
    event = read_story()[0]
    paths = [record for record in event.records if record.type == "PATH"]
    assert [(record.get("item"), record.get("name"), record.get("nametype")) for record in paths] == [
        ("0", '"/srv/w"', "PARENT"),
        ("1", '"/srv/w"', "PARENT"),
        ("2", '"a"', "DELETE"),
        ("3", '"b"', "DELETE"),
        ("4", '"b"', "CREATE"),
        ("5", '"a"', "CREATE"),
    ]
