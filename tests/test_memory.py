"""What the garbage collector is told."""

from __future__ import annotations

import gc
import platform
import subprocess
import sys
import weakref
from typing import TYPE_CHECKING

import pytest

from watchdogd.memory import freeze_memory

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _collect_as_before() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


class Ring:
    """Refers to itself."""

    def __init__(self) -> None:
        self.ring = self


def test_what_was_loaded_is_passed_over_until_something_else_is() -> None:
    ring = Ring()
    known = weakref.ref(ring)
    freeze_memory()
    assert gc.get_freeze_count() > 1000
    del ring
    gc.collect()
    assert known() is not None
    freeze_memory()
    assert known() is None


def test_what_a_load_left_free_is_given_back() -> None:
    """In a process of its own, with one heap as the daemon's: every second block is free, so the heap's end is not."""
    code = (
        "import asyncio, re; from watchdogd.memory import share_memory, trim_often; share_memory()\n"
        "def read_kib(): return int(re.search(r'VmRSS:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
        "async def main():\n"
        "    held = [b'x' * 100_000 for _ in range(400)]\n"
        "    held = held[::2]\n"
        "    before_kib = read_kib()\n"
        "    task = asyncio.create_task(trim_often(0.01))\n"
        "    await asyncio.sleep(0.5)\n"
        "    task.cancel()\n"
        "    print(before_kib - read_kib())\n"
        "asyncio.run(main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        assert int(done.stdout) > 10_000


def test_all_threads_share_one_heap() -> None:
    """In a process of its own, as it holds for good: what a second thread takes does not open a second heap."""
    code = (
        "import ctypes, threading; from watchdogd.memory import share_memory; share_memory()\n"
        "held = []\n"
        "thread = threading.Thread(target=lambda: held.extend(bytes(4000) for _ in range(500)))\n"
        "thread.start(); thread.join()\n"
        "print(sum('---p' in line and 0x3000000 < int(line.split('-')[1].split()[0], 16) - int(line.split('-')[0], 16)"
        " <= 0x4000000 for line in open('/proc/self/maps')))"
    )
    heaps = [
        subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True, timeout=60).stdout
        for text in (code, code.replace("; share_memory()", ""))
    ]
    assert heaps[0].strip() == "0"
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        assert heaps[1].strip() != "0"


@pytest.mark.parametrize("first", ["watchdogd.write.webhook", "watchdogd.triage.connection"])
def test_no_command_line_is_loaded_with_httpx(first: str) -> None:
    """uvicorn brings click, and rich is ours: httpx would load both, and pygments, for a program that nobody runs."""
    code = (
        f"import sys, {first}; from watchdogd.memory import load_httpx; load_httpx().AsyncClient; "
        "print([name for name in ('click', 'rich', 'pygments') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    import_plainly = "import sys, httpx; print('rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", import_plainly], capture_output=True, check=True).stdout == b"True\n"
