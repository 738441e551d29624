"""The garbage collector's share of the work: small, since nearly nothing here refers to itself."""

from __future__ import annotations

import gc
from typing import Final

_THRESHOLDS: Final = (10_000, 20, 50)
"""Objects between two looks at the youngest, and so on; at most some MB of garbage wait for it."""


def freeze_memory() -> None:
    """Leave what is loaded now out of every later collection; call it again when something else was loaded instead."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
