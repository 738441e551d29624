"""How much is looked at: a sample in every run of the tests, all of it with `make differential`.

Tests that ask are marked `sampled`, which is what `make differential` goes by.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

LARGE = bool(os.environ.get("WATCHDOGD_DIFFERENTIAL"))
ItemT = TypeVar("ItemT")


def choose_examples(sample: int, *, times: int = 60) -> int:
    """Examples that hypothesis makes."""
    return sample * times if LARGE else sample


def choose_items(items: Sequence[ItemT], every: int) -> Sequence[ItemT]:
    """All of them, or each so-many-eth."""
    return items if LARGE else items[::every]
