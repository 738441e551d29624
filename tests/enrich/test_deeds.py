"""Who acted upon a file lately, from audit's own lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.decode.conftest import decode_lines
from watchdogd.enrich.deeds import AFTER_MS, BEFORE_MS, KEYS, SLACK, RecentDeeds, name_inode

if TYPE_CHECKING:
    from watchdogd.entities import Event

TIME_MS = 1_700_000_000_000
SERIAL = iter(range(1, 100_000))


def act(
    path: str = "/etc/passwd",
    *,
    at_ms: int = TIME_MS,
    exe: str = "/usr/bin/vi",
    pid: int = 50,
    inode: int = 7,
    fd: str = "ffffff9c",
    kind: str = "NORMAL",
) -> Event:
    stamp = f"msg=audit({at_ms // 1000}.{at_ms % 1000:03d}:{next(SERIAL)})"
    lines = (
        (
            f"type=SYSCALL {stamp}: arch=c000003e syscall=257 success=yes exit=3 a0={fd} a1=1 a2=241 a3=1b6 items=2 "
            f"ppid=1 pid={pid} auid=1000 uid=0 gid=0 euid=0 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 tty=pts0 ses=3 "
            f'comm="x" exe="{exe}" key="x"'
        ),
        f'type=CWD {stamp}: cwd="/root"',
        f'type=PATH {stamp}: item=0 name="{path.rpartition("/")[0]}/" inode=1 dev=fe:00 nametype=PARENT',
        f'type=PATH {stamp}: item=1 name="{path}" inode={inode} dev=fe:00 mode=0100644 nametype={kind}',
    )
    (event,) = decode_lines([line.encode() for line in lines])
    return event


@pytest.fixture
def deeds() -> RecentDeeds:
    return RecentDeeds(lambda path: path.startswith(("/etc/", "/usr/bin/")))


def find_image(deeds: RecentDeeds, *keys: str, at_ms: int = TIME_MS) -> object:
    deed = deeds.find(keys, at_ms)
    return None if deed is None else deed.fields["Image"]


def test_a_deed_is_found_by_path_and_by_inode(deeds: RecentDeeds) -> None:
    deeds.note(act())
    assert find_image(deeds, "/etc/passwd") == "/usr/bin/vi"
    assert find_image(deeds, name_inode(0xFE, 0, 7)) == "/usr/bin/vi"
    assert find_image(deeds, name_inode(0xFE, 0, 1)) is None  # the folder
    assert find_image(deeds, "/etc/shadow") is None


@pytest.mark.parametrize(
    ("later_ms", "found"),
    [(0, True), (BEFORE_MS, True), (BEFORE_MS + 1, False), (-AFTER_MS, True), (-AFTER_MS - 1, False)],
)
def test_nobody_is_named_for_another_moment(deeds: RecentDeeds, later_ms: int, *, found: bool) -> None:
    deeds.note(act())
    assert (find_image(deeds, "/etc/passwd", at_ms=TIME_MS + later_ms) is not None) is found


def test_the_nearest_is_named_and_that_there_were_others(deeds: RecentDeeds) -> None:
    deeds.note(act(at_ms=TIME_MS - 900))
    deeds.note(act(at_ms=TIME_MS - 5, exe="/usr/bin/sed", pid=51))
    deed = deeds.find(["/etc/passwd"], TIME_MS)
    assert deed is not None
    assert (deed.fields["Image"], deed.others) == ("/usr/bin/sed", ("/usr/bin/vi",))


def test_one_process_is_no_other_to_itself(deeds: RecentDeeds) -> None:
    deeds.note(act(at_ms=TIME_MS - 900))
    deeds.note(act(at_ms=TIME_MS - 5))
    deed = deeds.find(["/etc/passwd", name_inode(0xFE, 0, 7)], TIME_MS)
    assert deed is not None
    assert deed.others == ()


def test_a_path_relative_to_an_open_folder_is_known_by_its_inode(deeds: RecentDeeds) -> None:
    deeds.note(act("job", fd="3", inode=99, kind="CREATE"))
    assert find_image(deeds, "/etc/cron.d/job", name_inode(0xFE, 0, 99)) == "/usr/bin/vi"


def test_an_open_file_without_a_name_is_known_by_its_inode(deeds: RecentDeeds) -> None:
    stamp = f"msg=audit({TIME_MS // 1000}.000:{next(SERIAL)})"  # as setcap and fchmod act
    lines = (
        (
            f"type=SYSCALL {stamp}: arch=c000003e syscall=190 success=yes exit=0 a0=3 a1=1 a2=2 a3=14 items=1 ppid=1 "
            "pid=50 auid=1000 uid=0 gid=0 euid=0 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 tty=pts0 ses=3 "
            'comm="setcap" exe="/usr/sbin/setcap" key="x"'
        ),
        f'type=CWD {stamp}: cwd="/root"',
        f"type=PATH {stamp}: item=0 name=(null) inode=99 dev=fe:00 mode=0100755 nametype=NORMAL",
    )
    (event,) = decode_lines([line.encode() for line in lines])
    deeds.note(event)
    assert find_image(deeds, "/usr/bin/ping", name_inode(0xFE, 0, 99)) == "/usr/sbin/setcap"


def test_merged_folders_have_two_names(deeds: RecentDeeds) -> None:
    deeds.note(act("/bin/ls"))
    assert find_image(deeds, "/usr/bin/ls") == "/usr/bin/vi"


def test_what_nobody_asks_about_is_not_remembered(deeds: RecentDeeds) -> None:
    deeds.note(act("/home/x/file"))
    assert len(deeds) == 0


def test_memory_is_bounded(deeds: RecentDeeds) -> None:
    for number in range(KEYS):
        deeds.note(act(f"/etc/{number}", inode=number + 100))
    assert KEYS <= len(deeds) <= KEYS + SLACK
    assert find_image(deeds, "/etc/0") is None
    assert find_image(deeds, f"/etc/{KEYS - 1}") == "/usr/bin/vi"
    for number in range(20):
        deeds.note(act(at_ms=TIME_MS + number))
    assert find_image(deeds, "/etc/passwd", at_ms=TIME_MS + 19) == "/usr/bin/vi"


def test_what_the_log_tells_late_does_not_push_out_what_is_newer(deeds: RecentDeeds) -> None:
    deeds.note(act(exe="/usr/bin/touch"))
    for number in range(2 * KEYS):
        deeds.note(act(f"/usr/bin/{number}", inode=number + 100, at_ms=TIME_MS - 2_000))
    assert find_image(deeds, "/etc/passwd") == "/usr/bin/touch"
    for number in range(20):
        deeds.note(act(exe="/usr/bin/dpkg", pid=number, at_ms=TIME_MS - 2_000))
    assert find_image(deeds, "/etc/passwd") == "/usr/bin/touch"


def test_how_far_audit_has_come_is_told_once(deeds: RecentDeeds) -> None:
    assert deeds.take_oldest_ms() is None
    for at_ms in (TIME_MS, TIME_MS - 3, TIME_MS + 5):
        deeds.note(act("/home/user/notes", at_ms=at_ms))
    assert deeds.take_oldest_ms() == TIME_MS - 3
    assert deeds.take_oldest_ms() is None
    deeds.note(act(at_ms=TIME_MS + 9))
    assert deeds.take_oldest_ms() == TIME_MS + 9
