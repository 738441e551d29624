"""The process tree of recorded attacks and chores: 23 as goldens, all of them by their PPID links.

`pytest --update-golden tests/enrich` writes golden/*.txt anew; golden/README.md says how they are checked.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.decode.ausearch import ask_ausearch
from tests.enrich.recordings import enrich_log, is_exec, render_tree

if TYPE_CHECKING:
    from collections.abc import Iterator

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.txt"))


def test_there_are_golden_files() -> None:
    assert len(GOLDEN) >= 20


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda path: path.stem)
def test_golden(golden: Path, corpora: Path, *, update_golden: bool) -> None:
    text = render_tree(enrich_log(corpora / "recorded" / "logs" / f"{golden.stem}.log"))
    if update_golden:
        golden.write_text(text)
    assert text == golden.read_text()


SYSCALL = re.compile(
    rb"^type=SYSCALL msg=audit\([\d.]+:(\d+)\): .*?syscall=(\d+) (?:success=(\w+) )?"
    rb".*? ppid=(\d+) pid=(\d+) .*? exe=(\S+)"
)
REPORT = re.compile(rb"^type=(?!SYSCALL)\w+ msg=audit\([\d.]+:(\d+)\): pid=(\d+) .*? exe=(\S+)")
"""What programs report themselves: it has no PPID, but it shows that the process is there."""


class Reference:
    """Who started what as the raw fields say it: a process's parent is whoever has its PPID when it first acts."""

    def __init__(self, path: Path) -> None:
        self.parents: dict[int, tuple[int, int, str | None]] = {}
        """Serial of an exec to its pid, its PPID, and the image that its parent had; None where it never acted."""
        images: dict[int, str] = {}
        first: dict[int, tuple[int, str | None]] = {}
        for serial, number, success, raw_ppid, raw_pid, exe in sorted(read_subjects(path)):
            pid = int(raw_pid)
            if raw_ppid:
                ppid = int(raw_ppid)
                if first.get(pid, (None,))[0] != ppid:
                    first[pid] = (ppid, images.get(ppid))
                if number in {b"59", b"322"} and success == b"yes":
                    self.parents[serial] = (pid, ppid, first[pid][1])
            images[pid] = decode(exe)


def read_subjects(path: Path) -> Iterator[tuple[int, bytes, bytes, bytes, bytes, bytes]]:
    for line in path.read_bytes().splitlines():
        if hit := SYSCALL.match(line):
            serial, number, success, ppid, pid, exe = hit.groups()
            yield int(serial), number, success or b"", ppid, pid, exe.partition(b"\x1d")[0]
        elif hit := REPORT.match(line):
            yield int(hit[1]), b"", b"", b"", hit[2], hit[3].partition(b"\x1d")[0]


def decode(raw: bytes) -> str:
    return (raw[1:-1] if raw[:1] == b'"' else bytes.fromhex(raw.decode())).decode()


def test_links_are_those_that_the_raw_fields_tell(corpora: Path) -> None:
    """Each exec of each log: its pid, its PPID, and its parent's image; every difference is listed."""
    count, known, differences = 0, 0, []
    for path in [*sorted((corpora / "recorded" / "logs").glob("*.log")), corpora / "recorded" / "mixed.log"]:
        reference = Reference(path).parents
        seen = set()
        for event in filter(is_exec, enrich_log(path)):
            assert event.process is not None
            parent = event.lineage[0] if event.lineage else None
            link = (event.process.pid, event.process.ppid, parent.exe if parent else None)
            seen.add(event.id.serial)
            count += 1
            known += parent is not None
            if link != reference[event.id.serial] or (parent and parent.pid != event.process.ppid):
                differences.append((path.name, event.id.serial, link, reference[event.id.serial]))
        assert seen == reference.keys(), path.name
    assert differences == []
    assert count > 3_000
    assert known > 0.6 * count


LINK = re.compile(r" success=yes .* ppid=(\d+) pid=(\d+) ")
EXECS = re.compile(r"^arch=\S+ syscall=execve(?:at)? ")


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("ausearch") is None and os.environ.get("CI") != "true",
    reason="needs ausearch (apt-get install auditd)",
)
def test_links_are_those_that_auparse_reads(corpora: Path, tmp_path: Path) -> None:
    """A second opinion on the links themselves: pid and PPID of each exec as `ausearch` (libauparse) prints them."""
    log = tmp_path / "all.log"
    parts = sorted((corpora / "recorded" / "logs").glob("*.log"))
    log.write_bytes(b"".join(part.read_bytes() for part in parts))
    theirs: dict[int, tuple[int, int]] = {}
    for (serial, kind), bodies in ask_ausearch(log).items():
        found = LINK.search(bodies[0]) if kind == "SYSCALL" and EXECS.match(bodies[0]) else None
        if found is not None:
            theirs[serial] = (int(found[2]), int(found[1]))
    ours: dict[int, tuple[int, int | None]] = {}
    for part in parts:
        for event in filter(is_exec, enrich_log(part)):
            assert event.process is not None
            ours[event.id.serial] = (event.process.pid, event.process.ppid)
            assert not event.lineage or event.lineage[0].pid == event.process.ppid
    assert ours == theirs
    assert len(ours) > 2_000
