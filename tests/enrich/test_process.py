"""The process tree: parents, images, used pids, bounds."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from watchdogd.enrich.process import ARGV_LIMIT_BYTES, ARGV_LIMIT_CHARS, ProcessTree
from watchdogd.enrich.procfs import ProcReader
from watchdogd.enrich.retention import LINEAGE_LIMIT
from watchdogd.entities import Process, ProcessKey
from watchdogd.telemetry import Counters


def make_process(pid: int, ppid: int, exe: str, *argv: str, time_ms: int = 0, auid: int = 1001) -> Process:
    return Process(
        key=ProcessKey("", pid, time_ms),
        pid=pid,
        ppid=ppid,
        exe=exe,
        comm=exe.rpartition("/")[2],
        argv=argv or (exe,),
        cwd="/",
        uid=1001,
        user=None,
        auid=auid,
        login=None,
        session="7",
        tty=None,
    )


def exec_process(tree: ProcessTree, process: Process, time_ms: int = 0) -> tuple[Process, tuple[Process, ...]]:
    return tree.place(process, time_ms, is_exec=True)


def test_lineage_is_parent_first() -> None:
    tree = ProcessTree()
    exec_process(tree, make_process(10, 1, "/usr/sbin/nginx"))
    exec_process(tree, make_process(11, 10, "/bin/sh", "sh", "-c", "id"))
    _, lineage = exec_process(tree, make_process(12, 11, "/usr/bin/id"))
    assert [ancestor.exe for ancestor in lineage] == ["/bin/sh", "/usr/sbin/nginx"]


def test_second_exec_of_one_process_keeps_its_parent_and_is_not_its_own_ancestor() -> None:
    tree = ProcessTree()
    exec_process(tree, make_process(10, 1, "/usr/sbin/sshd"))
    exec_process(tree, make_process(11, 10, "/bin/sh"), 5)
    process, lineage = exec_process(tree, make_process(11, 10, "/usr/bin/curl"), 9)
    assert process.exe == "/usr/bin/curl"
    assert [ancestor.exe for ancestor in lineage] == ["/usr/sbin/sshd"]


def test_child_keeps_the_image_that_forked_it() -> None:
    tree = ProcessTree()
    exec_process(tree, make_process(10, 1, "/bin/sh"))
    exec_process(tree, make_process(11, 10, "/usr/bin/sleep"))
    exec_process(tree, make_process(10, 1, "/usr/bin/vim"))
    _, lineage = tree.place(make_process(11, 10, "/usr/bin/sleep"), 0, is_exec=False)
    assert [ancestor.exe for ancestor in lineage] == ["/bin/sh"]


def test_other_syscall_is_completed_from_the_exec() -> None:
    tree = ProcessTree()
    exec_process(tree, make_process(10, 1, "/usr/bin/cat", "cat", "/etc/shadow"))
    seen = make_process(10, 1, "/usr/bin/cat")
    process, _ = tree.place(
        Process(**{name: getattr(seen, name) for name in seen.__struct_fields__} | {"argv": ()}), 3, is_exec=False
    )
    assert process.argv == ("cat", "/etc/shadow")


def test_pid_used_again_by_another_login_is_another_process() -> None:
    tree = ProcessTree()
    exec_process(tree, make_process(10, 1, "/usr/sbin/nginx"))
    exec_process(tree, make_process(11, 10, "/bin/sh"))
    _, lineage = tree.place(make_process(11, 99, "/usr/bin/python3", auid=1002), 60_000, is_exec=True)
    assert lineage == ()


def test_orphan_given_to_init_stays_itself() -> None:
    tree = ProcessTree()
    exec_process(tree, make_process(10, 1, "/usr/sbin/nginx"))
    exec_process(tree, make_process(11, 10, "/bin/sh"))
    process, lineage = tree.place(make_process(11, 1, "/bin/sh"), 60_000, is_exec=False)
    assert process.ppid == 1
    assert [ancestor.exe for ancestor in lineage] == ["/usr/sbin/nginx"]


def test_tree_is_bounded_and_counts_what_it_forgets() -> None:
    counters = Counters()
    tree = ProcessTree(limit=100, counters=counters)
    for pid in range(2, 302):
        exec_process(tree, make_process(pid, pid - 1, "/bin/sh"))
    assert len(tree) == 100
    assert counters.get("enrich_evicted_processes_total") == 200


def test_lineage_is_bounded() -> None:
    tree = ProcessTree()
    for pid in range(2, 200):
        _, lineage = exec_process(tree, make_process(pid, pid - 1, "/bin/sh"))
    assert len(lineage) == LINEAGE_LIMIT


def test_parents_from_before_come_from_proc() -> None:
    child = subprocess.Popen(["sleep", "30"])
    try:
        tree = ProcessTree(ProcReader())
        now_ms = time.time_ns() // 1_000_000
        process, lineage = exec_process(tree, make_process(child.pid, os.getpid(), "/usr/bin/sleep"), now_ms + 1000)
        assert process.key.boot
        assert abs(process.key.start_ms - now_ms) < 10_000
        assert lineage[0].pid == os.getpid()
        assert lineage[0].exe is not None
        assert "python" in lineage[0].exe
        assert lineage[-1].pid in {1, *(ancestor.pid for ancestor in lineage)}
    finally:
        child.kill()
        child.wait()


def test_proc_entry_younger_than_the_event_is_somebody_else() -> None:
    child = subprocess.Popen(["sleep", "30"])
    try:
        tree = ProcessTree(ProcReader())
        process, lineage = exec_process(tree, make_process(4_000_000, child.pid, "/usr/bin/x"), 1_000)
        assert process.key.boot == ""
        assert lineage == ()
    finally:
        child.kill()
        child.wait()


def test_an_argv_of_a_megabyte_is_whole_in_its_event_and_cut_in_memory() -> None:
    tree = ProcessTree()
    argv = ("sh", "-c", "x" * 1_000_000, "tail")
    process, _ = exec_process(tree, make_process(10, 1, "/bin/sh", *argv))
    assert process.argv == argv
    _, (parent,) = exec_process(tree, make_process(11, 10, "/usr/bin/id"))
    assert sum(map(len, parent.argv)) < ARGV_LIMIT_CHARS + 100
    assert parent.argv[-1].endswith("...[cut, 4 arguments in all]")


@pytest.mark.parametrize("argument", ["", "xy", "\U0001f600" * 16])
def test_argv_of_a_hundred_thousand_arguments_is_cut_in_memory_too(argument: str) -> None:
    tree = ProcessTree()
    exec_process(tree, make_process(10, 1, "/bin/sh", *[argument] * 100_000))
    _, (parent,) = exec_process(tree, make_process(11, 10, "/usr/bin/id"))
    assert sum(map(sys.getsizeof, parent.argv)) <= ARGV_LIMIT_BYTES + 200
    assert parent.argv[0] == argument
    assert parent.argv[-1].endswith("...[cut, 100000 arguments in all]")
