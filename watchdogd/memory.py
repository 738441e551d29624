"""What keeps memory small: how often garbage is collected, one heap, libraries without what nobody here asks for."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import importlib
import importlib.util
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from types import ModuleType

_M_ARENA_MAX: Final = -8
"""Of mallopt(3), malloc.h."""
_TRIM_EVERY_S: Final = 60.0
_THRESHOLDS: Final = (10_000, 20, 50)
"""Objects between two looks at the youngest, and so on; at most some MB of garbage wait for it."""


def share_memory() -> None:
    """One heap for all threads, before the first of them starts: heaps of their own leave holes that nobody else fills.

    Only the GNU C library has such heaps; with one thread at a time in Python, they gain nothing.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_M_ARENA_MAX, 1)


def freeze_memory() -> None:
    """Leave what is loaded now out of every later collection; call it again when something else was loaded instead.

    What compiling and loading left free goes back to the system.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
    trim_memory()


async def trim_often(every_s: float = _TRIM_EVERY_S) -> None:
    """Once a minute, for ever: what a load took and left free does not stay with us (2 ms)."""
    while True:
        await asyncio.sleep(every_s)
        trim_memory()


def trim_memory() -> None:
    """Give back to the system what is free (malloc_trim(3); other C libraries than GNU's have none)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def load_httpx() -> ModuleType:
    """httpx, 3 MB that a daemon without triage and webhooks never needs.

    Its command line would load rich, click and pygments where they are installed: 5 MB that nobody here asks for. Where
    sniffio is not installed, let that be known: httpcore looks for it on the disk several times a request (0.5 ms).
    """
    if "httpx" in sys.modules and "sniffio" in sys.modules:
        return sys.modules["httpx"]
    absent = [] if "httpx" in sys.modules else ["httpx._main"]
    if "sniffio" not in sys.modules and importlib.util.find_spec("sniffio") is None:
        absent.append("sniffio")
    # None is what the import system takes for "not there".
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]
    return importlib.import_module("httpx")
