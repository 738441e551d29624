"""The garbage collector's share of the work: small, since nearly nothing here refers to itself."""

from __future__ import annotations

import ctypes
import gc
from typing import Final

_M_ARENA_MAX: Final = -8
"""Of mallopt(3), malloc.h."""
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

    What compiling and loading left free goes back to the system (malloc_trim(3); other C libraries have none).
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
