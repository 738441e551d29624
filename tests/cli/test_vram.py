from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from watchdogd.cli.vram import MEBIBYTE, Memory, choose_model, measure_memory

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

GB = 1_000_000_000
ROCM = '{"card0": {"VRAM Total Memory (B)": "8573157376", "VRAM Total Used Memory (B)": "573157376"}, "system": {}}'


class Tools:
    """Tools by name, and what they print."""

    def __init__(self, **outputs: str) -> None:
        self._outputs = {name.replace("_", "-"): output for name, output in outputs.items()}

    def __call__(self, command: Sequence[str]) -> str:
        return self._outputs.get(command[0], "")


@pytest.fixture
def meminfo(tmp_path: Path) -> Path:
    path = tmp_path / "meminfo"
    path.write_text("MemTotal:       16000000 kB\nMemFree:         1000000 kB\nMemAvailable:    8000000 kB\n")
    return path


def test_gpu_with_the_most_free_memory(tmp_path: Path, meminfo: Path) -> None:
    found = measure_memory(Tools(nvidia_smi="4096, 1024\n8192, 7000\n"), tmp_path, meminfo)
    assert found == Memory("VRAM", 4096 * MEBIBYTE, 3072 * MEBIBYTE, "nvidia-smi")
    found = measure_memory(Tools(nvidia_smi="4096, 1024\n", rocm_smi=ROCM), tmp_path, meminfo)
    assert found == Memory("VRAM", 8573157376, 8 * GB, "rocm-smi")


def test_amdgpu_without_tools(tmp_path: Path, meminfo: Path) -> None:
    device = tmp_path / "card1" / "device"
    device.mkdir(parents=True)
    (device / "mem_info_vram_total").write_text("4000000000\n")
    (device / "mem_info_vram_used").write_text("1000000000\n")
    assert measure_memory(Tools(), tmp_path, meminfo) == Memory("VRAM", 4 * GB, 3 * GB, "the kernel")


@pytest.mark.parametrize("output", ["", "No devices were found\n", "4096\n", "[N/A], [N/A]\n"])
def test_without_a_gpu_it_is_ram(tmp_path: Path, meminfo: Path, output: str) -> None:
    found = measure_memory(Tools(nvidia_smi=output, rocm_smi="{"), tmp_path, meminfo)
    assert found == Memory("RAM", 16_384_000_000, 8_192_000_000, "the kernel")


@pytest.mark.parametrize(
    "error", [subprocess.CalledProcessError(9, "nvidia-smi"), subprocess.TimeoutExpired("nvidia-smi", 10), OSError()]
)
def test_tool_that_fails_tells_nothing(tmp_path: Path, meminfo: Path, error: Exception) -> None:
    def fail(_: Sequence[str]) -> str:
        raise error

    found = measure_memory(fail, tmp_path, meminfo)
    assert found is not None
    assert found.kind == "RAM"


def test_nothing_tells(tmp_path: Path) -> None:
    assert measure_memory(Tools(), tmp_path, tmp_path / "none") is None


@pytest.mark.parametrize(
    ("free_bytes", "name"),
    [(3 * GB, "llama3.2:3b"), (2 * GB, "phi3:mini"), (1_600_000_000, "llama3.2:1b"), (6 * GB, "llama3:8b"), (GB, None)],
)
def test_best_that_fits_in(free_bytes: int, name: str | None) -> None:
    chosen = choose_model(free_bytes)
    assert (chosen and chosen.name) == name


def test_model_that_passed_its_exam_goes_first() -> None:
    chosen = choose_model(3 * GB, ["phi3:mini", "llama3:8b"])
    assert chosen is not None
    assert chosen.name == "phi3:mini"
