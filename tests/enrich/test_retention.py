"""Who is forgotten when there are too many: bounds whatever happens, and storms that push out only their own kind."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.enrich.test_process import exec_process, make_process
from watchdogd.enrich.process import ProcessTree
from watchdogd.enrich.retention import LINEAGE_LIMIT, Node, Shelf

if TYPE_CHECKING:
    from watchdogd.entities import Process

SYSTEMD, SSHD, SHELL, IDLE = 1, 100, 101, 102


def settle(tree: ProcessTree) -> None:
    """An init, a daemon, its shell; and a shell beside it that had a child once and has been idle since."""
    exec_process(tree, make_process(SYSTEMD, 0, "/usr/lib/systemd/systemd"))
    exec_process(tree, make_process(SSHD, SYSTEMD, "/usr/sbin/sshd"))
    exec_process(tree, make_process(SHELL, SSHD, "/usr/bin/bash"))
    exec_process(tree, make_process(IDLE, SSHD, "/usr/bin/zsh"))
    exec_process(tree, make_process(IDLE + 1, IDLE, "/usr/bin/ls"))


def name_lineage(tree: ProcessTree, process: Process, time_ms: int = 10) -> list[str | None]:
    return [ancestor.exe for ancestor in exec_process(tree, process, time_ms)[1]]


def test_storm_of_short_processes_leaves_ancestors_and_idle_shells() -> None:
    tree = ProcessTree()
    settle(tree)
    for pid in range(1_000, 31_000):
        _, lineage = exec_process(tree, make_process(pid, SHELL, "/usr/bin/true"), 5)
        assert len(lineage) == 3
    assert len(tree) == 4_096
    assert name_lineage(tree, make_process(900, IDLE, "/usr/bin/id"))[0] == "/usr/bin/zsh"
    assert len(name_lineage(tree, make_process(901, SSHD, "/usr/bin/dash"))) == 2


def test_storm_of_forks_without_exec_leaves_them_too() -> None:
    tree = ProcessTree()
    settle(tree)
    for pid in range(1_000, 31_000):
        tree.fork(SHELL, pid, 5)
    assert len(tree) <= 4_096
    assert len(name_lineage(tree, make_process(900, IDLE, "/usr/bin/id"))) == 3


def test_process_that_replaces_itself_by_its_child_for_ever_leaves_them_too() -> None:
    tree = ProcessTree()
    settle(tree)
    parent = SHELL
    for pid in range(1_000, 31_000):
        _, lineage = exec_process(tree, make_process(pid, parent, "/usr/bin/perl"), 5)
        exec_process(tree, make_process(pid, parent, "/usr/bin/perl", "again"), 5)
        parent = pid
    assert len(lineage) == LINEAGE_LIMIT
    assert len(tree) == 4_096
    assert len(name_lineage(tree, make_process(900, IDLE, "/usr/bin/id"))) == 3


def test_nothing_keeps_what_was_forgotten_alive() -> None:
    tree = ProcessTree(limit=64)
    parent = SHELL
    for pid in range(1_000, 6_000):
        exec_process(tree, make_process(pid, parent, "/usr/bin/perl"), 5)
        tree.fork(pid, pid + 1, 5)
        exec_process(tree, make_process(pid, parent, "/usr/bin/perl", "again"), 5)
        parent = pid
    gc.collect()
    assert sum(type(thing) is Node for thing in gc.get_objects()) <= 2 * 64 + 1


PIDS = st.integers(1, 12)
STEPS = st.lists(
    st.tuples(st.sampled_from(["exec", "exec", "act", "fork", "clone", "end"]), PIDS, PIDS, st.integers(0, 30_000)),
    max_size=60,
)


@given(steps=STEPS, limit=st.integers(2, 8))
def test_bound_and_truth_hold_whatever_happens(steps: list[tuple[str, int, int, int]], limit: int) -> None:
    tree = ProcessTree(limit=limit)
    for step, pid, other, time_ms in steps:
        if step == "end":
            tree.end(pid, time_ms)
        elif step in {"fork", "clone"}:
            tree.fork(pid, other, time_ms, sibling=step == "clone")
        else:
            seen = make_process(pid, other, f"/bin/{pid}.{other}", time_ms=time_ms)
            process, lineage = tree.place(replace(seen, argv=("x",)), time_ms, is_exec=step == "exec")
            assert (process.pid, process.ppid, process.exe) == (pid, other, seen.exe)
            assert len(lineage) <= LINEAGE_LIMIT
        assert len(tree) <= limit


@given(steps=STEPS)
def test_same_story_same_tree(steps: list[tuple[str, int, int, int]]) -> None:
    def run() -> list[object]:
        tree = ProcessTree(limit=6)
        told: list[object] = []
        for step, pid, other, time_ms in steps:
            if step == "end":
                tree.end(pid, time_ms)
            elif step in {"fork", "clone"}:
                tree.fork(pid, other, time_ms)
            else:
                seen = make_process(pid, other, f"/bin/{other}", time_ms=time_ms)
                told.append(tree.place(seen, time_ms, is_exec=step == "exec"))
        return told

    assert run() == run()


@given(st.lists(st.tuples(st.sampled_from(["add", "add", "add", "retire", "end", "drop"]), st.integers(0, 99))))
def test_shelf_knows_who_hangs_below_whom(steps: list[tuple[str, int]]) -> None:
    shelf, nodes = Shelf(12), list[Node]()
    for number, (step, choice) in enumerate(steps):
        here = [node for node in nodes if node.queue is not None and node.current]
        chosen = here[choice % len(here)] if here else None
        if step == "add" or chosen is None:
            node = Node(make_process(number, 0, "/bin/x"), chosen if choice % 3 else None, 0)
            nodes.append(node)
            shelf.add(node)
        elif step == "retire":
            shelf.retire(chosen)
        elif step == "end":
            chosen.ended_ms = number
            shelf.end(chosen)
        else:
            shelf.drop(chosen)
        while shelf.evict() is not None:
            pass
        kept = [node for node in nodes if node.queue is not None]
        assert len(kept) == len(shelf) <= 12
        for node in kept:
            assert node.kept == sum(other.parent is node for other in kept)
            assert node.kept or node.current
