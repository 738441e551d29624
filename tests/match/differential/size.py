"""How much is compared: a sample in every run of the tests, all of it with `make differential`."""

from __future__ import annotations

import os

LARGE = bool(os.environ.get("WATCHDOGD_DIFFERENTIAL"))


def choose_examples(sample: int, *, times: int = 60) -> int:
    """Examples that hypothesis makes."""
    return sample * times if LARGE else sample
