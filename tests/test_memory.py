"""What the garbage collector is told."""

from __future__ import annotations

import gc
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
