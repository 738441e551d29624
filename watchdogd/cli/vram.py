"""How much memory a model may take on this host, and which of a few known models fit in."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

MEBIBYTE = 1 << 20
GIGABYTE = 1_000_000_000
TIMEOUT_S = 10.0
_NVIDIA = ("nvidia-smi", "--query-gpu=memory.total,memory.used", "--format=csv,noheader,nounits")
_ROCM = ("rocm-smi", "--showmeminfo", "vram", "--json")


class Memory(msgspec.Struct, frozen=True):
    """Memory for models: of the GPU with the most of it free, or, without any GPU, the host's own."""

    kind: str
    """`VRAM` or `RAM`."""
    total_bytes: int
    free_bytes: int
    told_by: str


class KnownModel(msgspec.Struct, frozen=True):
    """A model that serves triage, with what it takes while it is loaded."""

    name: str
    needs_bytes: int
    speed: str
    quality: str
    rank: int
    """Of the quality: higher is better."""


KNOWN_MODELS = (
    KnownModel("phi3:mini", 2 * GIGABYTE, "fast", "good", 2),
    KnownModel("llama3.2:1b", 3 * GIGABYTE // 2, "very fast", "acceptable", 1),
    KnownModel("llama3.2:3b", 5 * GIGABYTE // 2, "moderate", "very good", 3),
    KnownModel("llama3:8b", 5 * GIGABYTE, "slow", "very good", 4),
)


def measure_memory(
    run: Callable[[Sequence[str]], str] | None = None,
    cards: Path = Path("/sys/class/drm"),
    meminfo: Path = Path("/proc/meminfo"),
) -> Memory | None:
    """What nvidia-smi, rocm-smi or the kernel says of the GPU; else what RAM is available; None where neither does."""
    run = run or run_tool
    found = (
        *_read(lambda: parse_nvidia(run(_NVIDIA))),
        *_read(lambda: parse_rocm(run(_ROCM))),
        *_read(lambda: read_sysfs(cards)),
    )
    if found:
        return max(found, key=lambda memory: memory.free_bytes)
    return next(iter(_read(lambda: read_meminfo(meminfo))), None)


def run_tool(command: Sequence[str]) -> str:
    """Standard output of a tool; empty where it is not installed. Raises OSError or SubprocessError."""
    path = shutil.which(command[0])
    if path is None:
        return ""
    done = subprocess.run(  # noqa: S603 - fixed names, looked up in the administrator's PATH
        [path, *command[1:]], capture_output=True, text=True, timeout=TIMEOUT_S, check=True, stdin=subprocess.DEVNULL
    )
    return done.stdout


def parse_nvidia(output: str) -> list[Memory]:
    """`total, used` in MiB, one GPU a line. Raises ValueError."""
    memories = []
    for line in output.splitlines():
        total, used = (int(part) * MEBIBYTE for part in line.split(","))
        memories.append(Memory("VRAM", total, total - used, "nvidia-smi"))
    return memories


def parse_rocm(output: str) -> list[Memory]:
    """rocm-smi's JSON: `VRAM Total Memory (B)` and `VRAM Total Used Memory (B)` of each card. Raises ValueError."""
    if not output.strip():
        return []
    memories = []
    for card in msgspec.json.decode(output, type=dict[str, dict[str, str]]).values():
        if "VRAM Total Memory (B)" in card:
            total, used = int(card["VRAM Total Memory (B)"]), int(card["VRAM Total Used Memory (B)"])
            memories.append(Memory("VRAM", total, total - used, "rocm-smi"))
    return memories


def read_sysfs(cards: Path) -> list[Memory]:
    """What the amdgpu driver says in /sys/class/drm/cardN/device. Raises OSError, ValueError."""
    memories = []
    for total_file in sorted(cards.glob("card*/device/mem_info_vram_total")):
        total = int(total_file.read_text())
        used = int(total_file.with_name("mem_info_vram_used").read_text())
        memories.append(Memory("VRAM", total, total - used, "the kernel"))
    return memories


def read_meminfo(path: Path) -> list[Memory]:
    """MemTotal and MemAvailable (proc_meminfo(5)). Raises OSError, ValueError."""
    values = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
    total, free = (int(values[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    return [Memory("RAM", total, free, "the kernel")]


def choose_model(free_bytes: int, passed: Iterable[str] = ()) -> KnownModel | None:
    """The best known model that fits in; one that passed its exam goes before every other. None where none fits."""
    believed = frozenset(passed)
    fitting = [model for model in KNOWN_MODELS if model.needs_bytes <= free_bytes]
    return max(fitting, key=lambda model: (model.name in believed, model.rank), default=None)


def _read(read: Callable[[], list[Memory]]) -> list[Memory]:
    """What was read; nothing where the tool or file fails: another one may know."""
    try:
        return read()
    except (OSError, ValueError, KeyError, subprocess.SubprocessError, msgspec.MsgspecError):
        return []
