"""Forks, exits, pids used again, restarts of a host: stories told in audit lines, heard by decode and enrich."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.enrich.lines import BASE_MS, write_syscall
from tests.enrich.recordings import enrich_lines, make_enricher
from tests.enrich.test_procfs import FakeProc
from watchdogd.enrich.process import ProcessTree
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from pathlib import Path

    from watchdogd.entities import Event

SHELL, ID, NGINX, CURL = "/usr/bin/bash", "/usr/bin/id", "/usr/sbin/nginx", "/usr/bin/curl"


def name_lineage(event: Event) -> list[tuple[int, str | None]]:
    return [(ancestor.pid, ancestor.exe) for ancestor in event.lineage]


def tell(*story: list[str], tree: ProcessTree | None = None) -> Event:
    """The last event of the story."""
    return enrich_lines([line for lines in story for line in lines], make_enricher(tree))[-1]


@pytest.mark.parametrize("call", ["fork", "vfork", "clone", "clone3"])
def test_child_that_never_execs_is_known_by_its_fork(call: str) -> None:
    event = tell(
        write_syscall("execve", 10, 1, SHELL, argv=("bash", "-c", "(id)")),
        write_syscall(call, 10, 1, SHELL, at_ms=1, code=11),
        write_syscall("execve", 12, 11, ID, at_ms=2),
    )
    assert name_lineage(event) == [(11, SHELL), (10, SHELL)]
    child = event.lineage[0]
    assert (child.argv, child.ppid, child.session, child.auid) == (("bash", "-c", "(id)"), 10, "3", 1001)


def test_fork_fixes_the_image_that_forked() -> None:
    event = tell(
        write_syscall("execve", 10, 1, SHELL),
        write_syscall("fork", 10, 1, SHELL, at_ms=1, code=11),
        write_syscall("execve", 10, 1, CURL, at_ms=2),
        write_syscall("execve", 11, 10, ID, at_ms=3),
    )
    assert name_lineage(event) == [(10, SHELL)]


def test_vfork_that_is_logged_after_its_childs_exec_changes_nothing() -> None:
    event = tell(
        write_syscall("execve", 10, 1, SHELL),
        write_syscall("execve", 11, 10, ID, at_ms=5, argv=("id", "-u")),
        write_syscall("vfork", 10, 1, SHELL, at_ms=4, code=11),
        write_syscall("connect", 11, 10, ID, at_ms=6),
    )
    assert event.process is not None
    assert event.process.argv == ("id", "-u")
    assert name_lineage(event) == [(10, SHELL)]


def test_threads_and_failed_forks_are_no_processes() -> None:
    tree = ProcessTree()
    tell(
        write_syscall("execve", 10, 1, SHELL),
        write_syscall("clone", 10, 1, SHELL, at_ms=1, code=11, a0="3d0f00"),
        write_syscall("fork", 10, 1, SHELL, at_ms=2, code=-11),
        tree=tree,
    )
    assert len(tree) == 1


def test_clone_parent_makes_a_sibling() -> None:
    event = tell(
        write_syscall("execve", 9, 1, NGINX),
        write_syscall("execve", 10, 9, SHELL, at_ms=1),
        write_syscall("clone", 10, 9, SHELL, at_ms=2, code=11, a0="8011"),
        write_syscall("execve", 12, 11, ID, at_ms=3),
    )
    assert name_lineage(event) == [(11, SHELL), (9, NGINX)]


def test_a_pid_of_a_container_does_not_take_over_a_process_of_the_host() -> None:
    """The kernel logs what fork returned: a number of the caller's pid namespace."""
    story = [
        write_syscall("execve", 612, 1, NGINX),
        write_syscall("execve", 9000, 8000, SHELL, at_ms=1),
        write_syscall("fork", 9000, 8000, SHELL, at_ms=2, code=612),
    ]
    event = tell(*story, write_syscall("execve", 700, 612, ID, at_ms=3))
    assert name_lineage(event) == [(612, NGINX)]
    event = tell(*story, write_syscall("connect", 612, 1, NGINX, at_ms=3))
    assert event.lineage == ()


def test_a_pid_used_again_is_believed_once_it_acts_below_its_parent() -> None:
    event = tell(
        write_syscall("execve", 612, 500, NGINX, argv=("nginx",)),
        write_syscall("execve", 9000, 8000, SHELL, at_ms=1),
        write_syscall("fork", 9000, 8000, SHELL, at_ms=2, code=612),
        write_syscall("connect", 612, 9000, SHELL, at_ms=3),
    )
    assert event.process is not None
    assert event.process.argv == (SHELL,)
    assert name_lineage(event) == [(9000, SHELL)]


def test_exited_process_stays_an_ancestor_and_its_pid_is_another_process() -> None:
    story = [
        write_syscall("execve", 10, 1, NGINX),
        write_syscall("execve", 11, 10, SHELL, at_ms=1),
        write_syscall("execve", 12, 11, CURL, at_ms=2),
        write_syscall("exit_group", 11, 10, SHELL, at_ms=3, code=None),
    ]
    child = tell(*story, write_syscall("connect", 12, 1, CURL, at_ms=60_000))
    assert name_lineage(child) == [(11, SHELL), (10, NGINX)]
    stranger = tell(*story, write_syscall("execve", 13, 11, ID, at_ms=60_000))
    assert stranger.lineage == ()
    again = tell(*story, write_syscall("connect", 11, 10, CURL, at_ms=60_000))
    assert again.process is not None
    assert (again.process.argv, again.process.key.start_ms) == ((), BASE_MS + 60_000)


def test_record_stamped_just_after_the_exit_is_still_of_the_same_process() -> None:
    event = tell(
        write_syscall("execve", 10, 1, SHELL),
        write_syscall("exit_group", 10, 1, SHELL, at_ms=3, code=None),
        write_syscall("execve", 11, 10, ID, at_ms=4),
    )
    assert name_lineage(event) == [(10, SHELL)]


def test_exit_of_a_thread_ends_nobody() -> None:
    event = tell(
        write_syscall("execve", 10, 1, SHELL),
        write_syscall("exit", 10, 1, SHELL, at_ms=3, code=None),
        write_syscall("execve", 11, 10, ID, at_ms=60_000),
    )
    assert name_lineage(event) == [(10, SHELL)]


def test_ended_processes_are_dropped_by_event_time() -> None:
    counters = Counters()
    tree = ProcessTree(counters=counters)
    story = []
    for pid in range(100, 200):
        story += [
            write_syscall("execve", pid, 1, ID, at_ms=pid * 1000),
            write_syscall("exit_group", pid, 1, ID, at_ms=pid * 1000 + 1, code=None),
        ]
    tell(*story, tree=tree)
    assert len(tree) <= 12
    assert counters.get("enrich_evicted_processes_total") == 0


def test_late_records_neither_bring_back_an_image_nor_a_process() -> None:
    story = [
        write_syscall("execve", 10, 1, NGINX),
        write_syscall("execve", 11, 10, CURL, at_ms=5),
        write_syscall("execve", 11, 10, SHELL, at_ms=9, argv=("sh",)),
    ]
    late = tell(*story, write_syscall("execve", 11, 10, CURL, at_ms=5, argv=("curl", "x")))
    assert late.process is not None
    assert (late.process.argv, name_lineage(late)) == (("curl", "x"), [(10, NGINX)])
    child = tell(
        *story,
        write_syscall("execve", 11, 10, CURL, at_ms=5, argv=("curl", "x")),
        write_syscall("execve", 12, 11, ID, at_ms=10),
    )
    assert name_lineage(child) == [(11, SHELL), (10, NGINX)]
    stranger = tell(
        *story,
        write_syscall("exit_group", 11, 10, SHELL, at_ms=20, code=None),
        write_syscall("execve", 11, 10, SHELL, at_ms=9, argv=("sh",)),
        write_syscall("execve", 12, 11, ID, at_ms=5_000),
    )
    assert stranger.lineage == ()


def test_same_parent_and_used_pid_has_its_own_command_line() -> None:
    event = tell(
        write_syscall("execve", 10, 1, SHELL),
        write_syscall("execve", 11, 10, CURL, at_ms=1, argv=("curl", "one")),
        write_syscall("execve", 11, 10, ID, at_ms=60_000, argv=("id", "two")),
    )
    assert event.process is not None
    assert event.process.argv == ("id", "two")
    assert name_lineage(event) == [(10, SHELL)]


def test_orphan_goes_to_an_ancestor_and_a_stranger_of_its_pid_does_not_inherit() -> None:
    story = [
        write_syscall("execve", 1, 0, "/usr/lib/systemd/systemd"),
        write_syscall("execve", 10, 1, NGINX, at_ms=1),
        write_syscall("execve", 11, 10, SHELL, at_ms=2),
        write_syscall("execve", 12, 11, CURL, at_ms=3),
        write_syscall("execve", 50, 1, SHELL, at_ms=4),
    ]
    orphan = tell(*story, write_syscall("execve", 12, 10, ID, at_ms=5))
    assert [pid for pid, _ in name_lineage(orphan)] == [11, 10, 1]
    stranger = tell(*story, write_syscall("execve", 12, 50, ID, at_ms=5))
    assert [pid for pid, _ in name_lineage(stranger)] == [50, 1]


def test_program_that_removed_itself_keeps_its_command_line() -> None:
    event = tell(
        write_syscall("execve", 10, 1, "/tmp/x", argv=("./x", "--quiet")),
        write_syscall("connect", 10, 1, "/tmp/x (deleted)", at_ms=1),
    )
    assert event.process is not None
    assert event.process.argv == ("./x", "--quiet")


def test_exec_that_was_not_audited_changes_the_image_for_the_children() -> None:
    event = tell(
        write_syscall("execve", 10, 1, SHELL),
        write_syscall("connect", 10, 1, CURL, at_ms=1),
        write_syscall("execve", 11, 10, ID, at_ms=2),
    )
    assert name_lineage(event) == [(10, CURL)]
    assert event.lineage[0].argv == ()


def test_parent_of_a_program_that_first_reported_itself_is_learned_later() -> None:
    stamp = f"msg=audit({BASE_MS // 1000}.000:999999)"
    report = (
        f'type=USER_AUTH {stamp}: pid=11 uid=0 auid=1001 ses=3 msg=\'op=PAM:authentication acct="bob" '
        'exe="/usr/bin/sudo" hostname=? addr=? terminal=pts0 res=success\''
    )
    event = tell(
        write_syscall("execve", 10, 1, SHELL),
        [report],
        write_syscall("connect", 11, 10, "/usr/bin/sudo", at_ms=5),
        write_syscall("execve", 12, 11, ID, at_ms=6),
    )
    assert name_lineage(event) == [(11, "/usr/bin/sudo"), (10, SHELL)]


@pytest.mark.parametrize(
    "boot",
    [
        "type=SYSTEM_BOOT msg=audit(1795000100.000:2): pid=400 uid=0 auid=4294967295 msg=' comm=\"x\" res=success'",
        "type=KERNEL msg=audit(1795000100.000:1): state=initialized audit_enabled=1 res=1",
    ],
)
def test_restart_of_the_host_within_a_recording_empties_the_tree(boot: str) -> None:
    event = tell(write_syscall("execve", 10, 1, NGINX), [boot], write_syscall("execve", 11, 10, ID, at_ms=200_000))
    assert event.lineage == ()


# --- with /proc ---------------------------------------------------------------------------------------------------


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    proc = FakeProc(tmp_path, boot_s=BASE_MS // 1000 - 1000)
    proc.add(1, 0, "/usr/lib/systemd/systemd", start_s=0)
    return proc


def test_what_was_before_this_boot_is_not_believed_after_it(proc: FakeProc) -> None:
    tree = ProcessTree(proc.reader)
    before = tell(
        write_syscall("execve", 10, 1, NGINX, at_ms=BASE_MS - 2_000_000),
        write_syscall("execve", 11, 10, SHELL, at_ms=BASE_MS - 1_900_000),
        tree=tree,
    )
    assert name_lineage(before) == [(10, NGINX)]
    assert before.lineage[0].key.boot == ""
    after = tell(write_syscall("execve", 12, 10, ID, at_ms=5), tree=tree)
    assert after.lineage == ()
    assert after.process is not None
    assert after.process.key.boot == "boot-a"


def test_live_pid_used_again_is_told_by_its_start(proc: FakeProc) -> None:
    tree = ProcessTree(proc.reader)
    tell(write_syscall("execve", 11, 1, NGINX, at_ms=0), tree=tree)
    proc.add(11, 1, SHELL, start_s=1060, argv=("bash", "-i"))
    event = tell(write_syscall("execve", 12, 11, ID, at_ms=61_000), tree=tree)
    assert name_lineage(event) == [(11, SHELL), (1, "/usr/lib/systemd/systemd")]
    assert event.lineage[0].argv == ("bash", "-i")


def test_live_pid_that_is_used_again_after_the_event_is_still_the_old_one(proc: FakeProc) -> None:
    tree = ProcessTree(proc.reader)
    tell(write_syscall("execve", 11, 1, NGINX, at_ms=0), tree=tree)
    proc.add(11, 1, SHELL, start_s=1060)
    event = tell(write_syscall("execve", 12, 11, ID, at_ms=5_000), tree=tree)
    assert name_lineage(event) == [(11, NGINX), (1, "/usr/lib/systemd/systemd")]


def test_live_fork_is_checked_against_proc(proc: FakeProc) -> None:
    proc.add(10, 1, SHELL, start_s=900)
    proc.add(612, 1, NGINX, start_s=10)
    proc.add(20, 10, SHELL, start_s=1000)
    tree = ProcessTree(proc.reader)
    tell(
        write_syscall("connect", 10, 1, SHELL),
        write_syscall("fork", 10, 1, SHELL, at_ms=1, code=612),
        write_syscall("fork", 10, 1, SHELL, at_ms=2, code=20),
        tree=tree,
    )
    wrong = tell(write_syscall("execve", 700, 612, ID, at_ms=3), tree=tree)
    assert [pid for pid, _ in name_lineage(wrong)] == [612, 1]
    right = tell(write_syscall("execve", 701, 20, ID, at_ms=4), tree=tree)
    assert [pid for pid, _ in name_lineage(right)] == [20, 10, 1]
    assert right.lineage[0].key.start_ms == BASE_MS


def test_live_thread_that_clone3_made_is_no_process(proc: FakeProc) -> None:
    """clone3's flags are behind a pointer; /proc shows a thread under its own number, with its process's parent."""
    tree = ProcessTree(proc.reader)
    proc.add(10, 1, SHELL, start_s=5)
    for child, owner in ((11, 10), (12, 12)):
        proc.add(child, 1, SHELL, start_s=1000)
        (proc.root / str(child) / "status").write_text(f"Name:\tx\nTgid:\t{owner}\nPid:\t{child}\nUid:\t0\t0\t0\t0\n")
    story = [
        write_syscall("clone3", 10, 1, SHELL, at_ms=1, code=11),
        write_syscall("clone3", 10, 1, SHELL, at_ms=2, code=12),
    ]
    event = tell(*story, tree=tree)
    assert event.process is not None
    assert sorted(tree._nodes) == [1, 10, 12]


def test_container_and_unit_reach_children_that_are_gone_before_they_are_looked_at(proc: FakeProc) -> None:
    container = "c" * 64
    proc.add(10, 1, SHELL, start_s=900, cgroup=f"0::/system.slice/docker-{container}.scope\n", session=3)
    tree = ProcessTree(proc.reader)
    story = [
        write_syscall("execve", 11, 10, SHELL, at_ms=1),
        write_syscall("execve", 12, 11, ID, at_ms=2),
    ]
    event = tell(*story, tree=tree)
    assert event.process is not None
    assert event.process.container == container
    assert event.process.unit == f"docker-{container}.scope"
    forked = tell(
        write_syscall("fork", 10, 1, SHELL, at_ms=3, code=7), write_syscall("execve", 13, 7, ID, at_ms=4), tree=tree
    )
    assert forked.lineage == ()  # 7 is a number of the container's own: nobody on the host


def test_children_of_a_manager_do_not_inherit_its_unit(proc: FakeProc) -> None:
    proc.add(5, 1, "/usr/sbin/sshd", start_s=10, cgroup="0::/system.slice/ssh.service\n", session=3)
    event = tell(write_syscall("execve", 6, 5, SHELL), tree=ProcessTree(proc.reader))
    assert event.process is not None
    assert event.process.unit is None


def test_io_uring_s_records_lack_program_and_login_which_the_process_keeps() -> None:
    stamp = f"msg=audit({BASE_MS // 1000}.005:900)"
    ids = "ppid=1 pid=10 uid=0 gid=0 euid=0 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0"
    operation = [
        f"type=URINGOP {stamp}: uring_op=18 success=yes exit=5 items=1 {ids} key=(null)",
        f'type=PATH {stamp}: item=0 name="/etc/x" inode=1 dev=08:01 mode=0100644 rdev=00:00 nametype=CREATE',
        f"type=EOE {stamp}: ",
    ]
    story = (write_syscall("execve", 10, 1, CURL, argv=("curl", "x")), operation)
    opened = tell(*story)
    (view,) = opened.views
    wanted = {"Image": CURL, "CommandLine": "curl x", "LogonId": "1001", "TerminalSessionId": "3", "User": "0"}
    assert {name: view.fields.get(name) for name in wanted} == wanted
    child = tell(*story, write_syscall("execve", 11, 10, ID, at_ms=9))
    assert [(parent.uid, parent.auid, parent.session) for parent in child.lineage] == [(0, 1001, "3")]
