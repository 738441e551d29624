from __future__ import annotations

import os
import pwd
import subprocess
import sys
import time
from pathlib import Path

import pytest

from watchdogd.collect.host_processes import MAX_PROCESSES, ProcProcesses, choose_pids, name_user

NOBODY = 2**22 + 1


@pytest.fixture
def processes() -> ProcProcesses:
    return ProcProcesses()


def test_a_process_is_described_with_its_ancestors(processes: ProcProcesses) -> None:
    fields = processes.describe(os.getpid())
    assert fields["ProcessId"] == os.getpid()
    assert fields["Image"] == str(Path("/proc/self/exe").readlink())
    assert fields["User"] == pwd.getpwuid(os.geteuid()).pw_name
    assert fields["ParentProcessId"] == os.getppid()
    assert fields["ParentImage"] == str(Path(f"/proc/{os.getppid()}/exe").readlink())
    ancestors = fields["AncestorImages"]
    assert isinstance(ancestors, tuple)
    assert ancestors[0] == fields["ParentImage"]
    told = Path("/proc/self/cmdline").read_bytes().removesuffix(b"\0").split(b"\0")
    assert [text.encode() for text in processes.read_argv(os.getpid())] == told


def test_the_first_process_has_no_parent_and_one_that_ended_is_nobody(processes: ProcProcesses) -> None:
    assert "ParentImage" not in processes.describe(1)
    assert processes.describe(NOBODY) == {}
    assert processes.read_argv(NOBODY) == ()
    assert processes.count_files(NOBODY) is None
    assert processes.walk([NOBODY]) == []


def test_a_walk_sees_what_a_process_used(processes: ProcProcesses) -> None:
    before = processes.walk([os.getpid()])[0]
    deadline_s = time.process_time() + 0.1
    while time.process_time() < deadline_s:
        pass
    after = processes.walk([os.getpid()])[0]
    assert after.cpu_s - before.cpu_s >= 0.05
    assert (before.pid, before.ppid, before.start_ticks) == (os.getpid(), os.getppid(), after.start_ticks)
    assert before.group == os.getpgrp()
    assert before.memory_bytes > 1 << 20
    assert before.io_bytes is not None
    assert not before.is_zombie


def test_children_that_ended_show_at_their_parent(processes: ProcProcesses) -> None:
    before = processes.walk([os.getpid()])[0]
    subprocess.run(["true"], check=True)
    assert processes.walk([os.getpid()])[0].children_faults > before.children_faults


def test_a_zombie_is_seen(processes: ProcProcesses) -> None:
    with subprocess.Popen(["true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert processes.walk([child.pid])[0].is_zombie


def test_a_name_with_parentheses_and_spaces_is_read(processes: ProcProcesses, tmp_path: Path) -> None:
    program = tmp_path / "x) S 1 (y"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "60"]) as child:
        try:
            deadline_s = time.monotonic() + 10
            while processes.describe(child.pid).get("ProcessName") != program.name and time.monotonic() < deadline_s:
                time.sleep(0.01)
            assert processes.walk([child.pid])[0].ppid == os.getpid()
            assert processes.describe(child.pid)["ProcessName"] == program.name
        finally:
            child.kill()


def test_the_fullest_is_who_nears_its_own_limit(processes: ProcProcesses) -> None:
    script = "import os,sys,time; fds=[os.dup(0) for _ in range(290)]; print('ready',flush=True); time.sleep(60)"

    limited = ["sh", "-c", 'ulimit -n 300; exec "$@"', "_", sys.executable, "-c", script]
    with subprocess.Popen(limited, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            pid, percent = processes.find_fullest([os.getpid(), child.pid]) or (0, 0.0)
            assert pid == child.pid
            assert percent > 95
            assert (processes.count_files(child.pid) or 0) >= 290
        finally:
            child.kill()


def test_a_walk_is_bounded_and_keeps_both_ends() -> None:
    few, many = list(range(100)), list(range(3 * MAX_PROCESSES))
    assert choose_pids(few) == few
    chosen = choose_pids(many)
    assert len(chosen) == len(set(chosen)) == MAX_PROCESSES
    assert (chosen[0], chosen[-1]) == (0, many[-1])


def test_an_account_without_a_name_is_its_number() -> None:
    assert name_user(0) == "root"
    assert name_user(3_999_999_999) == "3999999999"
