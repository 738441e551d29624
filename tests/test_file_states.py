"""What differs between two looks at a file, and which rights it gives."""

from __future__ import annotations

import struct

import msgspec
import pytest

from watchdogd.file_states import FileState, describe_capabilities, find_differences, list_gained, show_path

PLAIN = FileState("file", 0o644, 0, 0, 10, 1_000, 2_000, 1, 7, b"a" * 32)
NET_RAW_EP = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)


def change(state: FileState, **changes: object) -> FileState:
    return msgspec.structs.replace(state, **changes)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ()),
        ({"ctime_ns": 9, "inode": 9, "device": 9}, ()),
        ({"sha256": b"b" * 32, "size": 11, "mtime_ns": 9}, ("content",)),
        ({"mtime_ns": 9}, ("mtime",)),
        ({"mode": 0o4755}, ("mode",)),
        ({"uid": 1, "gid": 1}, ("owner", "group")),
        ({"capabilities": NET_RAW_EP}, ("capabilities",)),
        ({"xattrs": {"user.note": b"x"}}, ("xattrs",)),
        ({"kind": "link", "link_target": b"/x", "sha256": None}, ("type",)),
        ({"sha256": None}, ()),
        ({"sha256": None, "size": 11}, ("content",)),
    ],
)
def test_what_differs(changes: dict[str, object], expected: tuple[str, ...]) -> None:
    assert find_differences(PLAIN, change(PLAIN, **changes)) == expected


def test_a_folders_size_and_times_are_no_attributes() -> None:
    folder = change(PLAIN, kind="folder", sha256=None)
    assert find_differences(folder, change(folder, size=99, mtime_ns=99, ctime_ns=99)) == ()
    assert find_differences(folder, change(folder, mode=0o777)) == ("mode",)


def test_a_link_that_leads_elsewhere() -> None:
    link = change(PLAIN, kind="link", sha256=None, link_target=b"/a")
    assert find_differences(link, change(link, link_target=b"/b")) == ("link_target",)


@pytest.mark.parametrize(
    ("before", "after", "gained"),
    [
        (None, PLAIN, ()),
        (None, change(PLAIN, mode=0o4755), ("setuid",)),
        (PLAIN, change(PLAIN, mode=0o6755), ("setuid", "setgid")),
        (change(PLAIN, mode=0o4755), change(PLAIN, mode=0o4711), ()),
        (PLAIN, change(PLAIN, mode=0o2644), ()),  # mandatory locking gives nobody a right
        (PLAIN, change(PLAIN, capabilities=NET_RAW_EP), ("capabilities",)),
        (change(PLAIN, capabilities=b"x"), change(PLAIN, capabilities=NET_RAW_EP), ("capabilities",)),
        (change(PLAIN, capabilities=NET_RAW_EP), PLAIN, ()),
        (PLAIN, change(PLAIN, kind="folder", mode=0o2775), ()),
        (PLAIN, None, ()),
    ],
)
def test_which_rights_are_gained(before: FileState | None, after: FileState | None, gained: tuple[str, ...]) -> None:
    assert list_gained(before, after) == gained


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (None, ""),
        (NET_RAW_EP, "cap_net_raw=ep"),
        (struct.pack("<IIIII", 0x02000000, 1 << 7 | 1 << 6, 0, 0, 0), "cap_setgid,cap_setuid=p"),
        (struct.pack("<IIIII", 0x02000001, 0, 0, 1 << (39 - 32), 0), "cap_bpf=ep"),
        (struct.pack("<IIIIII", 0x03000001, 1 << 21, 0, 0, 0, 1000), "cap_sys_admin=ep"),
        (b"", "unknown"),
        (b"\xff" * 20, "unknown"),
    ],
)
def test_capabilities_as_getcap_prints_them(raw: bytes | None, text: str) -> None:
    assert describe_capabilities(raw) == text


def test_paths_are_shown_as_the_decoder_writes_them() -> None:
    assert show_path(b"/tmp/\xff\xc3\xa9\n") == "/tmp/\\xff\u00e9\n"
