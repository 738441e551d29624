from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.host.guard import skip_or_fail
from watchdogd.collect import host_upkeep, kernel_clock
from watchdogd.collect.host_upkeep import CLOCK_NAME, Gpu, SystemUpkeep, parse_nvidia
from watchdogd.collect.kernel_clock import ClockState, parse

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def upkeep(tmp_path: Path) -> SystemUpkeep:
    """A host without anything."""
    return SystemUpkeep(tmp_path / "sys", tmp_path / "proc", tmp_path / "run")


def test_the_kernels_clock_is_read_and_not_set() -> None:
    try:
        state = SystemUpkeep().read_clock()
    except PermissionError:
        skip_or_fail("a sandbox bars adjtimex here")
    assert abs(state.offset_s) <= 0.5  # the kernel's own limit
    assert 0 <= state.max_error_s <= 1000


def run_alone() -> str:
    """As the unit beside the daemon does."""
    command = [sys.executable, "-I", "-S", kernel_clock.__file__]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "PermissionError" in done.stderr:
        skip_or_fail("a sandbox bars adjtimex here")
    assert done.stderr == ""
    return done.stdout


def test_where_the_kernel_may_not_be_asked_what_was_written_lately_is_read(
    upkeep: SystemUpkeep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> ClockState:
        raise PermissionError

    monkeypatch.setattr(host_upkeep, "ask_kernel", refuse)
    with pytest.raises(FileNotFoundError):
        upkeep.read_clock()
    path = tmp_path / "run" / CLOCK_NAME
    path.parent.mkdir(parents=True)
    path.write_text(run_alone())
    assert upkeep.read_clock().max_error_s >= 0
    path.write_text("-0.25 0.001 1\n")
    assert upkeep.read_clock() == ClockState(-0.25, 0.001, is_synchronised=True)
    os.utime(path, (1, 1))
    with pytest.raises(PermissionError):
        upkeep.read_clock()


@pytest.mark.parametrize("text", ["", "1 2", "1 2 3 4", "nan 1 1", "x 1 1", "1 1 yes"])
def test_a_damaged_note_of_the_clock_is_no_state(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse(text)


def test_a_host_without_systemd_has_no_units_and_no_sessions(upkeep: SystemUpkeep) -> None:
    assert upkeep.count_failed_units() is None
    with pytest.raises(FileNotFoundError):
        upkeep.read_sessions()
    assert upkeep.read_gpus() is None


def test_temperatures_are_sensible_or_absent() -> None:
    found = SystemUpkeep().read_temperatures()
    assert found is None or all(-100 < celsius < 200 for celsius in found.values())


def test_cards_of_amd_are_read_from_sys(upkeep: SystemUpkeep, tmp_path: Path) -> None:
    device = tmp_path / "sys/class/drm/card0/device"
    (device / "hwmon/hwmon2").mkdir(parents=True)
    (device / "gpu_busy_percent").write_text("37\n")
    (device / "mem_info_vram_used").write_text("1073741824\n")
    (device / "mem_info_vram_total").write_text("4294967296\n")
    (device / "hwmon/hwmon2/temp1_input").write_text("61000\n")
    (tmp_path / "sys/class/drm/card0-DP-1").mkdir()  # a plug
    (tmp_path / "sys/class/drm/card1/device").mkdir(parents=True)  # tells nothing
    assert upkeep.read_gpus() == (Gpu("card0", 37.0, 25.0, 61.0),)


def test_cards_of_nvidia_are_asked_by_their_own_program(
    upkeep: SystemUpkeep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").touch()
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '0, 37, 1024, 4096, 61'\necho '1, [N/A], 0, 8192, 40'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert upkeep.read_gpus() == (Gpu("nvidia0", 37.0, 25.0, 61.0), Gpu("nvidia1", None, 0.0, 40.0))
    program.write_text("#!/bin/sh\necho 'no devices were found'; exit 6\n")
    with pytest.raises(OSError, match="exit status 6"):
        upkeep.read_gpus()


def test_what_a_card_does_not_tell_is_left_out() -> None:
    assert parse_nvidia("0, [N/A], [N/A], [N/A], [N/A]\n") == [Gpu("nvidia0", None, None, None)]
