"""What an outline says of views: at least all that they hold, whatever the records look like."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.decode.conftest import decode_lines
from tests.enrich.recordings import enrich_log, make_enricher
from watchdogd.decode.outline import _CALLS
from watchdogd.entities import Event, LazyViews

if TYPE_CHECKING:
    from pathlib import Path

NUMBERS = {
    "open": 2, "truncate": 76, "rename": 82, "mkdir": 83, "rmdir": 84, "creat": 85, "link": 86, "unlink": 87,
    "symlink": 88, "chmod": 90, "mknod": 133, "openat": 257, "mkdirat": 258, "unlinkat": 263, "renameat": 264,
    "linkat": 265, "renameat2": 316, "openat2": 437,
}  # fmt: skip
NAMES = st.one_of(
    st.sampled_from(
        [
            *('"/tmp/.x"', '"/etc/../etc//shadow"', '"a"', '"../b"', '"./.ssh/authorized_keys"', '""', '"/"', "(null)"),
            *("2F746D702F6120622E", "FFFE41", '"/a b"', '"/\xc5\xbf"', '"/x" inode=9 name="/y"', "/plain", '"'),
        ]
    ),
    st.text("/.abK\u212a", max_size=8).map(lambda text: f'"{text}"'),
)
TAILS = st.sampled_from(
    [
        " dev=00:2f mode=0100644 ouid=0 ogid=0 rdev=00:00 nametype={kind}",
        " dev=00:2f mode=0100644 ouid=0 ogid=0 rdev=00:00 obj=u:r:t nametype={kind} cap_fp=0",
        ' dev=00:2f mode=0100644 ouid=0 ogid=0 rdev=00:00 nametype={kind}\x1dOUID="root" OGID="nametype=PARENT"',
        " dev=00:2f mode=0100644 ouid=0 ogid=0 rdev=00:00 nametype={kind} nametype=PARENT",
        " dev=00:2f mode=0100644 ouid=0 ogid=0 rdev=00:00 objtype={kind}",
        " nametype={kind}",
        "",
    ]
)


@st.composite
def make_lines(draw: st.DrawFn) -> list[bytes]:
    stamp = "msg=audit(1700000000.001:7): "
    kinds = st.sampled_from(["NORMAL", "CREATE", "DELETE", "PARENT", "UNKNOWN"])
    paths = [
        f"item={item} name={draw(NAMES)} inode={draw(st.integers(0, 2))}{draw(TAILS).format(kind=draw(kinds))}"
        for item in range(draw(st.integers(0, 4)))
    ]
    call = (
        f"arch=c000003e syscall={draw(st.sampled_from(sorted(NUMBERS.values())))} "
        f"success={draw(st.sampled_from(['yes', 'no']))} exit=0 "
        f"a0={draw(st.sampled_from(['ffffff9c', '3']))} a1={draw(st.sampled_from(['0', '41', '1c0']))} "
        f"a2={draw(st.sampled_from(['ffffff9c', '0', '241']))} a3=1ed items={len(paths)} ppid=1 pid=2 "
        f"auid={draw(st.sampled_from(['0', '4294967295']))} uid=0 gid=0 euid=0 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 "
        f'tty=pts0 ses=3 comm="x" exe={draw(NAMES)} key=(null)'
    )
    lines = [f"type=SYSCALL {stamp}{call}"]
    if draw(st.booleans()):
        lines.append(f"type=CWD {stamp}cwd={draw(NAMES)}")
    if draw(st.integers(0, 5)) == 0:
        lines.append(f"type=SOCKADDR {stamp}saddr=01002F746D702F78")
    return [line.encode("utf-8") for line in [*lines, *(f"type=PATH {stamp}{path}" for path in paths)]]


def check(event: Event) -> bool:
    """True where there was an outline."""
    views = event.views
    outline = views.outline if isinstance(views, LazyViews) else None
    if outline is None:
        return False
    for view in views:
        for name, value in view.fields.items():
            told = outline.get(name)
            held = told if isinstance(told, tuple) else (told,)
            assert set(value if isinstance(value, tuple) else (value,)) <= set(held), (name, view)
    return True


@given(make_lines())
def test_an_outline_holds_all_that_the_views_hold(lines: list[bytes]) -> None:
    (event,) = decode_lines(lines)
    check(event)
    (event,) = decode_lines(lines)
    check(make_enricher().enrich(event))


@pytest.mark.parametrize("name", sorted(set(NUMBERS) & _CALLS))
def test_calls_that_name_files_have_one(name: str) -> None:
    stamp = "msg=audit(1700000000.001:7): "
    call = (
        f"arch=c000003e syscall={NUMBERS[name]} success=yes exit=0 a0=ffffff9c a1=41 a2=ffffff9c a3=1 items=1 ppid=1 "
        "pid=2 auid=0 uid=0 gid=0 euid=0 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 tty=pts0 ses=3 "
        'comm="x" exe="/bin/x" key=(null)'
    )
    path = 'item=0 name="b" inode=7 dev=00:2f mode=0100644 ouid=0 ogid=0 rdev=00:00 nametype=CREATE'
    lines = [f"type=SYSCALL {stamp}{call}", f'type=CWD {stamp}cwd="/a"', f"type=PATH {stamp}{path}"]
    (event,) = decode_lines(line.encode() for line in lines)
    assert isinstance(event.views, LazyViews)
    outline = event.views.outline
    assert outline is not None
    assert outline["TargetFilename"] == ("/a/b",)
    assert check(event)
    assert event.views.outline is None  # the views are made


def test_recorded_events(corpora: Path) -> None:
    outlined = sum(check(event) for event in enrich_log(corpora / "recorded" / "mixed.log"))
    assert outlined > 100
