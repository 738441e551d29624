"""Changes between the look that found them and their event: who did it, whose package, and what the baseline hears."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import pacman
from watchdogd.collect.file_look import Look
from watchdogd.collect.package_changes import PackageChanges
from watchdogd.enrich.deeds import name_inode
from watchdogd.file_changes import FOUND, PACKAGE_ERRORS, PACKAGED, QUIET_S, TOLD, UNKNOWN, FileChanges, Terms
from watchdogd.file_states import Deed, FileRow, FileState
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from watchdogd.entities import Event

NOW_MS = 1_700_000_000_000
PATH = b"/etc/passwd"
OLD = FileState("file", 0o644, 0, 0, 4, NOW_MS * 1_000_000, NOW_MS * 1_000_000, 1, 7, b"o" * 32)
NEW = msgspec.structs.replace(OLD, sha256=b"n" * 32, size=5, inode=8)
DEED = Deed(NOW_MS, None, (), {"Image": "/usr/bin/vi", "User": "root"})


class HandClock:
    def __init__(self) -> None:
        self.ms = NOW_MS

    def now_ms(self) -> int:
        return self.ms

    def monotonic_s(self) -> float:
        return self.ms / 1000


class Host:
    """FileChanges with everything about it in reach."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.clock = HandClock()
        self.counters = Counters()
        self.deed: Deed | None = None
        self.oldest_ms: int | None = None
        self.asked: list[tuple[Sequence[str], int]] = []
        self.changes = FileChanges(
            Terms(who_wait_s=3, package_wait_s=60),
            PackageChanges(root),
            self,
            {0: "root"}.get,
            name_inode,
            self.counters,
            self.clock,
        )

    def find(self, keys: Sequence[str], time_ms: int) -> Deed | None:
        self.asked.append((keys, time_ms))
        return self.deed

    def take_oldest_ms(self) -> int | None:
        oldest_ms, self.oldest_ms = self.oldest_ms, None
        return oldest_ms

    def take(self, after: FileState | None = NEW, before: FileState | None = OLD, path: bytes = PATH) -> bool:
        row = None if before is None else FileRow(path, before)
        look = None if after is None else Look(after, hashlib.md5(b"new").digest())
        return self.changes.take(path, row, look, NOW_MS * 1_000_000)

    def release(self, after_s: float = 0.0) -> list[Event]:
        self.clock.ms += int(after_s * 1000)
        return asyncio.run(self.changes.release())

    def fields(self, after_s: float = 0.0) -> dict[str, object]:
        (event,) = self.release(after_s)
        return dict(event.views[0].fields)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_change_waits_for_who_did_it(host: Host) -> None:
    assert host.take()
    assert host.release() == []
    host.deed = DEED
    assert host.fields(0.5)["Image"] == "/usr/bin/vi"
    assert host.asked[-1] == (["/etc/passwd", "00:01 8"], NOW_MS)
    assert host.counters.get(UNKNOWN) == 0


def deed(image: str, ms_before: int) -> Deed:
    return Deed(NOW_MS - ms_before, None, (), {"Image": image})


def test_who_acted_a_while_before_is_named_only_where_nobody_nearer_is_heard_of(host: Host) -> None:
    host.take()
    host.deed = deed("/usr/bin/dpkg", 800)
    assert host.release(0.5) == []
    host.deed = deed("/usr/bin/dash", 3)
    assert host.fields(0.5)["Image"] == "/usr/bin/dash"
    host.take(path=b"/etc/shadow")
    host.deed = deed("/usr/bin/vi", 800)
    assert host.release(2.9) == []
    assert host.fields(0.2)["Image"] == "/usr/bin/vi"


def test_who_changed_it_last_is_waited_for_anew_but_not_for_ever(host: Host) -> None:
    host.take()
    host.deed = deed("/usr/bin/dpkg", 800)
    assert host.release(2.9) == []
    host.take(msgspec.structs.replace(NEW, sha256=b"e" * 32))
    assert host.release(2.9) == []
    host.deed = deed("/usr/bin/dash", 3)
    assert host.fields()["Image"] == "/usr/bin/dash"
    host.deed = None
    for second in range(20):
        host.take(msgspec.structs.replace(NEW, sha256=bytes([second]) * 32))
        if host.release(1):
            break
    assert second == 8  # three times as long as for one change


def test_where_audit_is_behind_who_did_it_is_waited_for_longer(host: Host) -> None:
    host.take()
    for behind_ms in range(9_000, 0, -1_000):
        host.oldest_ms = NOW_MS - behind_ms
        assert host.release(1) == []
    host.deed = DEED
    assert host.fields(1)["Image"] == "/usr/bin/vi"


def test_audit_that_stays_behind_is_not_waited_for_for_ever(host: Host) -> None:
    host.take()
    for second in range(60):
        host.oldest_ms = NOW_MS - 60_000 + second
        if host.release(1):
            break
    assert second == 38  # 30 s more than where a file changes again and again
    host.take(path=b"/etc/shadow")
    host.oldest_ms = NOW_MS + 60_000  # newer than the change: it is not behind
    assert host.release(2.9) == []
    assert "Image" not in host.fields(0.2)


def test_nobody_is_made_up(host: Host) -> None:
    host.take()
    assert host.release(2.9) == []
    fields = host.fields(0.2)
    assert "Image" not in fields
    assert "User" not in fields
    assert host.counters.get(UNKNOWN) == 1


def test_what_a_change_says(host: Host) -> None:
    host.deed = DEED
    host.take(msgspec.structs.replace(NEW, mode=0o4755, uid=1000))
    fields = host.fields()
    assert {name: fields[name] for name in ("TargetFilename", "Action", "Changed", "Gained")} == {
        "TargetFilename": "/etc/passwd",
        "Action": "modified",
        "Changed": ("content", "mode", "owner"),
        "Gained": ("setuid",),
    }
    assert (fields["PreviousMode"], fields["Mode"]) == ("0644", "4755")
    assert (fields["PreviousOwner"], fields["Owner"]) == ("root", "1000")
    assert (fields["PreviousSize"], fields["Size"]) == (4, 5)
    assert fields["Hashes"] == f"SHA256={(b'n' * 32).hex()}"


def test_an_event_has_the_same_id_when_it_is_found_again(host: Host, tmp_path: Path) -> None:
    host.take()
    (first,) = host.release(4)
    again = Host(tmp_path)
    again.clock.ms += 60_000
    again.take()
    (second,) = again.release(4)
    assert first.id == second.id
    assert first.id.text() == f"file_integrity||{NOW_MS}|0|/etc/passwd"


@pytest.mark.parametrize(
    ("before", "after", "action"),
    [(None, NEW, "created"), (OLD, None, "deleted"), (OLD, msgspec.structs.replace(OLD, mode=0o600), "attributes")],
)
def test_actions(host: Host, before: FileState | None, after: FileState | None, action: str) -> None:
    host.take(after, before)
    (event,) = host.release(4)
    assert event.views[0].action == action


def test_several_changes_of_one_moment_are_one(host: Host) -> None:
    host.take(msgspec.structs.replace(NEW, sha256=b"1" * 32))
    host.take(NEW)
    assert not host.take(NEW)
    fields = host.fields(4)
    assert (fields["PreviousHashes"], fields["Hashes"]) == (f"SHA256={'6f' * 32}", f"SHA256={'6e' * 32}")
    assert (host.counters.get(FOUND), host.counters.get(TOLD), len(host.changes)) == (1, 1, 0)


def test_what_was_changed_and_changed_back_is_still_told(host: Host) -> None:
    host.take()
    back = msgspec.structs.replace(OLD, ctime_ns=OLD.ctime_ns + 1)
    assert host.take(back)
    (event,) = host.release(4)
    assert event.views[0].fields["Reverted"] == "true"
    host.changes.settle(event)
    assert host.changes.list_ready() == (FileRow(PATH, back),)


def test_the_baseline_hears_of_what_was_judged_and_committed(host: Host) -> None:
    host.take()
    (event,) = host.release(4)
    row = FileRow(PATH, NEW)
    assert host.changes.list_ready() == ()
    assert host.changes.find_latest(PATH) == row  # a look meanwhile must not find the same change again
    host.changes.settle(event)
    assert host.changes.list_ready() == (row,)
    host.changes.forget(host.changes.list_ready())
    assert host.changes.list_ready() == ()
    assert host.changes.find_latest(PATH) is None


def test_what_is_no_change_is_none(host: Host) -> None:
    assert not host.take(msgspec.structs.replace(OLD, ctime_ns=5, inode=9))
    assert not host.take(None, None)
    assert host.release(10) == []


# --- packages -------------------------------------------------------------------------------------------------------


def install(host: Host, *paths: bytes, content: bytes = b"new") -> None:
    info = host.root / "var/lib/dpkg/info"
    info.mkdir(parents=True, exist_ok=True)
    md5 = hashlib.md5(content).hexdigest()
    (info / "tool.list").write_bytes(b"".join(path + b"\n" for path in paths))
    (info / "tool.md5sums").write_bytes(b"".join(b"%b  %b\n" % (md5.encode(), path[1:]) for path in paths))
    (host.root / "var/lib/dpkg/status").write_text("Package: tool\nArchitecture: all\nVersion: 1.2\n\n")
    for path in (info, info / "tool.list", host.root / "var/lib/dpkg/status"):
        os.utime(path, ns=(host.clock.ms * 1_000_000, host.clock.ms * 1_000_000))


def test_a_packages_files_are_one_event(host: Host) -> None:
    paths = [b"/usr/bin/%d" % number for number in range(300)]
    for path in paths:
        host.take(path=path)
    install(host, *paths)
    assert host.release(4) == []
    fields = host.fields(QUIET_S + 1)
    assert (fields["Action"], fields["Package"], fields["PackageCount"], fields["FileCount"]) == (
        "packages",
        ("tool 1.2",),
        1,
        300,
    )
    assert (host.counters.get(PACKAGED), host.counters.get(FOUND)) == (300, 300)


def test_the_summary_waits_for_files_that_are_still_looked_at(host: Host) -> None:
    host.take(path=b"/usr/bin/one")
    install(host, b"/usr/bin/one", b"/usr/bin/two")
    assert host.release(4) == []
    host.clock.ms += 20_000
    assert asyncio.run(host.changes.release(more_to_come=True)) == []
    host.take(path=b"/usr/bin/two")
    assert host.release(4) == []
    assert host.fields(QUIET_S + 1)["FileCount"] == 2


def test_files_of_packages_take_no_room_from_those_that_wait(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a large upgrade would fill the room, and while files are left to look at no summary makes any."""
    paths = [b"/usr/bin/%d" % number for number in range(600)]
    for path in paths:
        host.take(path=path)
    install(host, *paths)
    host.clock.ms += 4_000
    assert host.changes.count_waiting() == 600
    assert asyncio.run(host.changes.release(more_to_come=True)) == []
    assert (host.changes.count_waiting(), len(host.changes)) == (88, 600)
    monkeypatch.setattr("watchdogd.file_changes.SUMMARY_FILES", 600)
    host.clock.ms += 1_000
    (event,) = asyncio.run(host.changes.release(more_to_come=True))
    assert event.views[0].fields["FileCount"] == 600
    assert len(host.changes) == 0
    host.take(path=b"/usr/bin/last")
    install(host, b"/usr/bin/last")
    assert host.release(4) == []
    (other,) = host.release(QUIET_S + 1)
    assert (other.id.time_ms, other.id == event.id) == (event.id.time_ms, False)  # else one of them would be dropped


def test_a_file_that_is_not_its_packages_is_told_by_itself(host: Host) -> None:
    good, bad = b"/usr/bin/good", b"/usr/bin/bad"
    host.take(path=good)
    host.take(path=bad)
    install(host, good)
    events = host.release(4) + host.release(QUIET_S + 1)
    assert [event.views[0].fields.get("TargetFilename") for event in events] == ["/usr/bin/bad", None]


def test_a_package_manager_at_work_is_waited_for_but_not_for_ever(host: Host) -> None:
    host.take(path=b"/usr/bin/mine")
    install(host, b"/usr/bin/other")
    waited_s = 0
    while not (events := host.release(1)):
        install(host, b"/usr/bin/other")  # still at it
        waited_s += 1
    assert 55 <= waited_s <= 62
    assert events[0].views[0].fields["TargetFilename"] == "/usr/bin/mine"


def test_a_packages_file_that_is_changed_again_is_no_packages(host: Host) -> None:
    path = b"/usr/bin/tool"
    host.take(path=path)
    install(host, path)
    assert host.release(4) == []
    evil = msgspec.structs.replace(NEW, sha256=b"e" * 32, inode=9)
    look = Look(evil, hashlib.md5(b"evil").digest())
    assert host.changes.take(path, FileRow(path, OLD), look, host.clock.ms * 1_000_000)
    events = host.release() + host.release(10)
    assert [event.views[0].fields["Action"] for event in events] == ["packages", "modified"]
    assert events[1].views[0].fields["PreviousHashes"] == f"SHA256={'6e' * 32}"


def test_new_rights_that_a_package_brought_are_told_by_themselves(host: Host) -> None:
    path = b"/usr/bin/sudo"
    host.take(msgspec.structs.replace(NEW, mode=0o4755), before=None, path=path)
    install(host, path)
    fields = host.fields(4)
    assert (fields["Gained"], fields["PackageIntact"], fields["Package"]) == (("setuid",), "true", "tool")


STEPS = st.lists(st.sampled_from(["change", "look", "release", "judge", "commit", "crash", "wait"]), max_size=40)


class Story:
    """One file, its baseline, and lives of the daemon that end by crashes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = Host(folder)
        self.known = self.now = OLD
        self.numbers = iter(range(1, 256))
        self.open: list[Event] = []
        self.told: dict[str, set[object]] = {}

    def change(self) -> None:
        number = next(self.numbers)
        ctime_ns = self.host.clock.ms * 1_000_000 + number
        self.now = msgspec.structs.replace(OLD, sha256=bytes([number]) * 32, ctime_ns=ctime_ns, inode=number)

    def look(self) -> None:
        row = self.host.changes.find_latest(PATH) or FileRow(PATH, self.known)
        self.host.changes.take(PATH, row, Look(self.now), self.host.clock.ms * 1_000_000 + 1000)

    def wait(self) -> None:
        self.host.clock.ms += 4_000

    def release(self) -> None:
        for event in self.host.release():
            self.told.setdefault(str(event.views[0].fields["Hashes"]), set()).add(event.id)
            self.open.append(event)

    def judge(self) -> None:
        while self.open:
            self.host.changes.settle(self.open.pop(0))

    def commit(self) -> None:
        rows = self.host.changes.list_ready()
        for row in rows:
            assert row.state is not None
            self.known = row.state
        self.host.changes.forget(rows)

    def crash(self) -> None:
        clock, self.host = self.host.clock, Host(self.folder)
        self.host.clock = self.host.changes._clock = clock
        self.open.clear()


@settings(deadline=None, max_examples=50)
@given(steps=STEPS)
def test_whatever_happens_in_between_the_baseline_ends_where_the_file_does(
    steps: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Looks, events, commits and crashes in any order: what the file is at last is told, and nothing under two ids."""
    story = Story(tmp_path_factory.getbasetemp())
    for step in (*steps, "look", "wait", "release", "judge", "commit"):
        getattr(story, step)()
    assert story.known.sha256 == story.now.sha256
    assert all(len(ids) == 1 for ids in story.told.values())
    assert story.now is OLD or f"SHA256={(story.now.sha256 or b'').hex()}" in story.told
    assert len(story.host.changes) == 0


def test_one_damaged_package_of_pacmans_is_counted(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    pacman.install(host.root, "bad-1-1", b"no gzip", files="etc/passwd\n")
    host.clock.ms = time.time_ns() // 1_000_000
    changed = msgspec.structs.replace(NEW, ctime_ns=time.time_ns())
    host.changes.take(PATH, FileRow(PATH, OLD), Look(changed), time.time_ns())
    assert [event.views[0].fields["Action"] for event in host.release(61)] == ["modified"]
    assert host.counters.get(PACKAGE_ERRORS) == 1
    assert "bad: mtree: " in caplog.text
