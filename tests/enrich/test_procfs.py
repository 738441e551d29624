"""/proc as a source, against the real one and against nasty made-up ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdogd.enrich.procfs import ProcReader, read_cgroup

A, B = "a1" * 32, "b2" * 32
POD = "kubepods-burstable-pod27e0d5b1_3e7a_11ee_be56_0242ac120002.slice"


def test_own_process() -> None:
    process = ProcReader().read(os.getpid())
    assert process is not None
    assert process.ppid == os.getppid()
    assert process.uid == os.getuid()
    assert process.cwd == str(Path.cwd())


def test_gone_process() -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    assert ProcReader().read(child.pid) is None


def write_proc(root: Path, comm: str, cmdline: bytes = b"a\0\0b\0") -> ProcReader:
    folder = root / "42"
    folder.mkdir()
    (root / "stat").write_text("cpu 1\nbtime 1000\n")
    tail = " ".join(str(number) for number in range(23, 52))
    (folder / "stat").write_bytes(f"42 ({comm}) S 7 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 500 {tail}\n".encode())
    (folder / "cmdline").write_bytes(cmdline)
    (folder / "status").write_text("Name:\tx\nUid:\t33\t33\t33\t33\n")
    (folder / "cgroup").write_text("0::/system.slice/nginx.service\n")
    (folder / "loginuid").write_text("4294967295")
    return ProcReader(root, ticks_per_s=100)


class FakeProc:
    """A /proc of our own, to which processes can be added; `start_s` counts from the boot."""

    def __init__(self, root: Path, *, boot_s: int, boot_id: str = "boot-a") -> None:
        self.root = root
        (root / "stat").write_text(f"cpu 1\nbtime {boot_s}\n")
        (root / "sys" / "kernel" / "random").mkdir(parents=True)
        (root / "sys" / "kernel" / "random" / "boot_id").write_text(f"{boot_id}\n")
        self.reader = ProcReader(root, ticks_per_s=100)

    def add(
        self,
        pid: int,
        ppid: int,
        exe: str,
        *,
        start_s: int,
        argv: tuple[str, ...] = (),
        cgroup: str = "0::/\n",
        session: int = 4294967295,
    ) -> None:
        folder = self.root / str(pid)
        folder.mkdir()
        comm = exe.rpartition("/")[2]
        (folder / "stat").write_text(f"{pid} ({comm}) S {ppid}{' 0' * 17} {start_s * 100} 0 0\n")
        (folder / "exe").symlink_to(exe)
        (folder / "cmdline").write_text("".join(f"{argument}\0" for argument in argv or (exe,)))
        (folder / "status").write_text("Uid:\t0\t0\t0\t0\n")
        (folder / "cgroup").write_text(cgroup)
        (folder / "loginuid").write_text("4294967295")
        (folder / "sessionid").write_text(str(session))


@pytest.mark.parametrize("comm", ["x", "a b", "evil) S 1 (", ") (", "\x1b[31m"])
def test_comm_cannot_forge_fields(tmp_path: Path, comm: str) -> None:
    process = write_proc(tmp_path, comm).read(42)
    assert process is not None
    assert process.ppid == 7
    assert process.comm == comm
    assert process.key.start_ms == 1_000_000 + 5_000
    assert process.auid is None
    assert process.unit == "nginx.service"


def test_empty_arguments_stay(tmp_path: Path) -> None:
    process = write_proc(tmp_path, "x").read(42)
    assert process is not None
    assert process.argv == ("a", "", "b")


def test_bytes_that_are_no_text_are_escaped(tmp_path: Path) -> None:
    process = write_proc(tmp_path, "x", b"\xff\xfe\0").read(42)
    assert process is not None
    assert process.argv == ("\\xff\\xfe",)


@pytest.mark.parametrize(
    ("text", "unit", "container"),
    [
        ("0::/system.slice/cron.service\n", "cron.service", None),
        ("0::/user.slice/user-1000.slice/session-3.scope\n", "session-3.scope", None),
        (f"0::/system.slice/docker-{A}.scope\n", f"docker-{A}.scope", A),
        (f"12:pids:/docker/{A}\n0::/\n", None, A),
        (
            f"11:pids:/docker/{A}\n1:name=systemd:/docker/{A}\n0::/system.slice/containerd.service\n",
            "containerd.service",
            A,
        ),
        (f"0::/system.slice/docker-{A}.scope/init.scope\n", f"docker-{A}.scope", A),
        (f"0::/docker/{A}/docker/{B}\n", None, A),
        (f"0::/machine.slice/libpod-{A}.scope/container\n", f"libpod-{A}.scope", A),
        (f"0::/machine.slice/libpod-conmon-{A}.scope\n", f"libpod-conmon-{A}.scope", None),
        (
            f"0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{A}.scope/container\n",
            "user@1000.service",
            A,
        ),
        (f"0::/libpod_parent/libpod-{A}\n", None, A),
        (f"0::/system.slice/web.service/libpod-payload-{A}\n", "web.service", A),
        (
            f"0::/kubepods.slice/kubepods-burstable.slice/{POD}/cri-containerd-{A}.scope\n",
            f"cri-containerd-{A}.scope",
            A,
        ),
        (f"0::/kubepods.slice/kubepods-besteffort.slice/{POD}/crio-{A}.scope\n", f"crio-{A}.scope", A),
        (f"0::/kubepods.slice/{POD}/crio-conmon-{A}.scope\n", f"crio-conmon-{A}.scope", None),
        (f"9:cpu,cpuacct:/kubepods/burstable/pod27e0d5b1-3e7a-11ee-be56-0242ac120002/{A}\n", None, A),
        (f"1:name=systemd:/system.slice/containerd.service/{POD}:cri-containerd:{A}\n", "containerd.service", A),
        (f"0::/system.slice/nerdctl-{A}.scope\n", f"nerdctl-{A}.scope", A),
        (f"0::/ecs/0ab1c2/{A}\n", None, A),
        ("0::/lxc/web01\n", None, "web01"),
        ("0::/lxc.payload.web01/system.slice/nginx.service\n", "nginx.service", "web01"),
        ("0::/lxc.payload/web01\n", None, "web01"),
        ("0::/lxc.monitor.web01\n", None, None),
        (
            "0::/machine.slice/systemd-nspawn@web01.service/payload/system.slice/nginx.service\n",
            "systemd-nspawn@web01.service",
            "web01",
        ),
        ("0::/machine.slice/systemd-nspawn@web01.service/supervisor\n", "systemd-nspawn@web01.service", None),
        ("0::/machine.slice/machine-deb\\x2d12.scope/payload\n", "machine-deb\\x2d12.scope", "deb-12"),
        ("0::/machine.slice/machine-qemu\\x2d1\\x2dvm.scope\n", "machine-qemu\\x2d1\\x2dvm.scope", None),
        ("5:devices:/user.slice\n1:name=systemd:/user.slice/user-0.slice/session-1.scope\n", "session-1.scope", None),
        ("0::/user.slice/user-1000.slice/user@1000.service/ssh.service\n", "user@1000.service", None),
        (f"0::/system.slice/x{A}.service\n", f"x{A}.service", None),
        ("0::/system.slice/docker.service\n", "docker.service", None),
        ("0::/\n", None, None),
        ("nonsense\n0::\n:::\n", None, None),
        ("", None, None),
    ],
)
def test_cgroup(text: str, unit: str | None, container: str | None) -> None:
    assert read_cgroup(text) == (unit, container)


@given(st.text())
def test_cgroup_takes_any_text(text: str) -> None:
    read_cgroup(text)
    read_cgroup(f"0::/{text}\n")


def test_the_short_readings_say_the_same_as_the_long_one() -> None:
    reader = ProcReader()
    process, place = reader.read(os.getpid()), reader.locate(os.getpid())
    assert process is not None
    assert place == (process.key.start_ms, process.ppid, process.unit, process.container)
    assert reader.read_start_ms(os.getpid()) == process.key.start_ms
    assert reader.locate(2**22 + 1) is None
    assert reader.read_start_ms(2**22 + 1) is None
