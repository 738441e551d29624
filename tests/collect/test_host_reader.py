from __future__ import annotations

from typing import TYPE_CHECKING

import psutil
import pytest

from watchdogd.collect.host_reader import CpuTimes, KernelFigures, Load, Memory, SystemReader, escape_bytes, read_bytes

if TYPE_CHECKING:
    from pathlib import Path

STAT = """\
cpu  1000 200 300 5000 400 10 20 30 500 60
cpu0 600 100 200 2500 200 10 20 30 500 60
cpu3 400 100 100 2500 200 0 0 0 0 0
intr 12345 1 2 3
ctxt 99
btime 1700000000
processes 4711
procs_running 3
procs_blocked 2
"""


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "pressure").mkdir()
    (tmp_path / "sys/kernel").mkdir(parents=True)
    (tmp_path / "sys/fs").mkdir()
    return tmp_path


def test_cpu_times_leave_out_guests_who_are_users_already(proc: Path) -> None:
    (proc / "stat").write_text(STAT)
    reader = SystemReader(proc)
    reader._ticks_per_s = 100
    assert reader.read_kernel() == KernelFigures(
        CpuTimes(busy_s=15.6, total_s=69.6, iowait_s=4.0, steal_s=0.3),
        {0: CpuTimes(9.6, 36.6, 2.0, 0.3), 3: CpuTimes(6.0, 33.0, 2.0, 0.0)},
        forks=4711,
        running=3,
        blocked=2,
    )


def test_load_and_threads_are_of_one_line(proc: Path) -> None:
    (proc / "loadavg").write_text("0.10 0.20 0.30 4/567 8910\n")
    assert SystemReader(proc).read_load() == Load((0.1, 0.2, 0.3), 567)


@pytest.mark.parametrize(("swap", "percent"), [("SwapTotal: 0 kB\nSwapFree: 0 kB\n", None), ("", None)])
def test_memory_without_swap(proc: Path, swap: str, percent: None) -> None:
    (proc / "meminfo").write_text(f"MemTotal:  1000 kB\nMemFree: 100 kB\nMemAvailable: 400 kB\n{swap}")
    assert SystemReader(proc).read_memory() == Memory(60.0, percent)


def test_memory_with_swap(proc: Path) -> None:
    (proc / "meminfo").write_text("MemTotal: 1000 kB\nMemAvailable: 400 kB\nSwapTotal: 200 kB\nSwapFree: 50 kB\n")
    assert SystemReader(proc).read_memory() == Memory(60.0, 75.0)


def test_pressure_is_of_the_last_ten_seconds(proc: Path) -> None:
    (proc / "pressure/io").write_text(
        "some avg10=1.50 avg60=9.00 avg300=9.00 total=1\nfull avg10=0.25 avg60=9.00 avg300=9.00 total=1\n"
    )
    (proc / "pressure/cpu").write_text("some avg10=3.00 avg60=9.00 avg300=9.00 total=1\n")
    assert SystemReader(proc).read_pressure("io") == (1.5, 0.25)
    assert SystemReader(proc).read_pressure("cpu") == (3.0, None)
    with pytest.raises(FileNotFoundError):
        SystemReader(proc).read_pressure("memory")


def test_limits_of_the_kernel(proc: Path) -> None:
    (proc / "sys/kernel/pid_max").write_text("32768\n")
    (proc / "sys/kernel/threads-max").write_text("9000\n")
    (proc / "sys/fs/file-nr").write_text("1250\t0\t2466183\n")
    assert SystemReader(proc).read_thread_limit() == 9000
    assert SystemReader(proc).read_open_files() == (1250, 2466183)


def test_a_name_that_is_no_text_is_written_out() -> None:
    assert escape_bytes("/plain-ä") == "/plain-ä"
    assert escape_bytes("/\udcffx") == "/\\xffx"


def test_a_file_is_read_up_to_a_limit(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(b"x" * 200_000)
    assert len(read_bytes(str(tmp_path / "long"))) == 200_000
    assert len(read_bytes(str(tmp_path / "long"), 70_000)) == 70_000


def test_what_is_read_here_agrees_with_psutil() -> None:
    reader = SystemReader()
    usage = reader.read_disk_usage("/")
    assert usage is not None
    assert usage.used_percent == pytest.approx(psutil.disk_usage("/").percent, abs=0.5)
    assert "/" in reader.list_mounts()
    before, after = reader.read_kernel(), reader.read_kernel()
    assert 0 <= before.cpu.busy_s <= before.cpu.total_s <= after.cpu.total_s
    assert len(before.cores) == psutil.cpu_count()
    times = psutil.cpu_times()
    assert reader.read_kernel().cpu.total_s >= times.user + times.system + times.idle
    assert reader.read_memory().used_percent == pytest.approx(psutil.virtual_memory().percent, abs=3)
    assert abs(reader.read_process_count() - len(psutil.pids())) < 50
    disks, links = reader.read_disks() or {}, reader.read_network() or {}
    assert disks.keys() <= (psutil.disk_io_counters(perdisk=True) or {}).keys()
    assert links.keys() <= psutil.net_io_counters(pernic=True).keys() - {"lo"}
