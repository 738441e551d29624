"""Which files are watched, and the walk over them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdogd.collect.file_look import Looker
from watchdogd.collect.file_paths import is_within, list_closed_mounts, list_homes, select
from watchdogd.collect.file_walk import Walk

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from watchdogd.collect.file_paths import Selection


def walk(selection: Selection, closed: Sequence[bytes] = ()) -> Walk:
    return Walk(selection, frozenset(closed), looker=Looker(max_bytes=1 << 20))


def list_paths(root: Path, patterns: Sequence[str], exclude: Sequence[str] = ()) -> list[str]:
    selection = select([f"{root}{pattern}" for pattern in patterns], exclude)
    prefix = os.fsencode(root)
    return sorted(os.fsdecode(found.path.removeprefix(prefix)) for found in walk(selection).run())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small host; its name has no link in it."""
    root = tmp_path.resolve() / "host"
    for name in (
        "etc/passwd",
        "etc/ssh/sshd_config",
        "etc/cron.d/a",
        "etc/cron.d/b.swp",
        "home/ann/.ssh/key",
        "home/bob/x",
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return root


def test_a_pattern_is_a_file_or_a_folder_with_all_below_it(root: Path) -> None:
    assert list_paths(root, ["/etc/passwd", "/etc/cron.d"]) == [
        "/etc/cron.d",
        "/etc/cron.d/a",
        "/etc/cron.d/b.swp",
        "/etc/passwd",
    ]


def test_wildcards_match_within_a_part(root: Path) -> None:
    assert list_paths(root, ["/home/*/.ssh", "/etc/p*d"]) == ["/etc/passwd", "/home/ann/.ssh", "/home/ann/.ssh/key"]
    assert list_paths(root, ["/*/passwd"]) == ["/etc/passwd"]


def test_what_is_left_out(root: Path) -> None:
    assert list_paths(root, ["/etc"], ["*.swp", f"{root}/etc/ssh"]) == [
        "/etc",
        "/etc/cron.d",
        "/etc/cron.d/a",
        "/etc/passwd",
    ]


def test_overlapping_patterns_give_each_path_once(root: Path) -> None:
    assert list_paths(root, ["/etc", "/etc/passwd", "/etc/*"]) == list_paths(root, ["/etc"])


def test_a_pattern_through_a_link_finds_the_real_files(root: Path) -> None:
    (root / "lib").symlink_to("etc")
    assert list_paths(root, ["/lib/cron.d/a"]) == ["/etc/cron.d/a"]
    assert list_paths(root, ["/lib"])[:2] == ["/etc", "/etc/cron.d"]
    assert "/lib" in list_paths(root, ["/lib"])


def test_links_below_a_pattern_are_not_followed(root: Path) -> None:
    (root / "etc" / "cron.d" / "way").symlink_to("/")
    (root / "etc" / "cron.d" / "round").symlink_to("..")
    assert list_paths(root, ["/etc/cron.d"])[-2:] == ["/etc/cron.d/round", "/etc/cron.d/way"]


def test_home_folders_are_those_of_the_accounts(root: Path, tmp_path: Path) -> None:
    accounts = tmp_path / "passwd"
    accounts.write_text(f"ann:x:1:1::{root}/home/ann:/bin/sh\nroot:x:0:0::/:/bin/sh\nbroken\nno:x:2:2::/nonexistent:\n")
    assert list_homes(str(accounts)) == [os.fsencode(root / "home/ann")]
    assert list_homes(str(tmp_path / "none")) == []
    selection = select(["~/.ssh/key"], (), str(accounts))
    assert [found.path for found in walk(selection).run()] == [os.fsencode(root / "home/ann/.ssh/key")]


def test_a_home_whose_folder_is_a_link_leads_nowhere(root: Path, tmp_path: Path) -> None:
    """Whoever owns a home could have anything looked at by a link in it."""
    accounts = tmp_path / "passwd"
    accounts.write_text(f"bob:x:1:1::{root}/home/bob:/bin/sh\n")
    (root / "home" / "bob" / ".ssh").symlink_to("/etc")
    assert [*walk(select(["~/.ssh/passwd"], (), str(accounts))).run()] == []


def test_folders_to_watch_are_those_in_which_something_may_come_to_be(root: Path) -> None:
    selection = select([f"{root}/etc/cron.d", f"{root}/home/*/.ssh/key"], ())
    folders = {os.fsdecode(path) for path in walk(selection).list_folders()}
    expected = {"", "/etc", "/etc/cron.d", "/home", "/home/ann", "/home/ann/.ssh", "/home/bob"}
    assert {f"{root}{name}" for name in expected} <= folders
    assert f"{root}/etc/ssh" not in folders


def test_closed_mounts_are_not_entered(root: Path) -> None:
    selection = select([f"{root}/etc"], ())
    closed = [os.fsencode(root / "etc/ssh")]
    one = walk(selection, closed)
    assert not [found for found in one.run() if b"/ssh" in found.path]
    assert one.skipped_mounts == set(closed)


def test_which_mounts_are_closed(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        "22 21 0:5 / /proc rw - proc proc rw\n"
        "23 21 0:40 / /srv/my\\040share rw,relatime shared:9 - nfs4 server:/x rw\n"
        "24 21 0:41 / /mnt/s rw - fuse.sshfs a@b: rw\n"
        "25 21 0:42 / /data rw - xfs /dev/sdb rw\n"
        "broken\n"
    )
    assert list_closed_mounts(str(table)) == {b"/proc", b"/srv/my share", b"/mnt/s"}
    assert list_closed_mounts(str(table), network=True) == {b"/proc"}
    assert list_closed_mounts(str(tmp_path / "none")) == frozenset()
    assert is_within(b"/srv/my share/a/b", list_closed_mounts(str(table)))
    assert not is_within(b"/srv/my sharex", list_closed_mounts(str(table)))


def test_programs_that_give_rights_are_found_anywhere(root: Path) -> None:
    for name, mode in (("home/bob/suid", 0o4755), ("home/bob/sgid", 0o2755), ("home/bob/locked", 0o2644)):
        (root / name).write_text(name)
        (root / name).chmod(mode)
    (root / "home" / "bob" / "link").symlink_to("suid")
    found = walk(select([f"{root}/etc"], ())).find_special((os.fsencode(root),))
    assert sorted(os.path.basename(one.path) for one in found) == [b"sgid", b"suid"]  # noqa: PTH119


def test_a_folder_that_goes_during_the_walk_ends_nothing(root: Path) -> None:
    paths = walk(select([f"{root}/etc"], ())).run()
    next(paths)
    for name in ("a", "b.swp"):
        (root / "etc" / "cron.d" / name).unlink()
    (root / "etc" / "cron.d").rmdir()
    assert b"passwd" in b" ".join(found.path for found in paths)


PARTS = st.text(alphabet="ab*?[]\n", min_size=1, max_size=4)


@given(patterns=st.lists(st.lists(PARTS, min_size=1, max_size=4), max_size=4), path=st.lists(PARTS, max_size=6))
def test_what_is_watched_lies_below_what_is_watched_or_leads(patterns: list[list[str]], path: list[str]) -> None:
    selection = select(["/nowhere-at-all/" + "/".join(parts) for parts in patterns], ["b*"])
    data = [b"nowhere-at-all", *(part.encode() for part in path)]
    whole = b"/" + b"/".join(data)
    above = b"/" + b"/".join(data[:-1])
    if selection.covers(whole):
        assert selection.covers(above) or selection.leads(above)
        assert not selection.leads(whole) or selection.covers(whole)
