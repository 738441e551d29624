"""Without atheris: seeds with pieces cut out and put in, as hypothesis chooses them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_EDIT = st.tuples(st.integers(0, 2000), st.integers(0, 200), st.binary(max_size=40))


def mutate(seed: bytes, edits: Sequence[tuple[int, int, bytes]]) -> bytes:
    """The seed with bytes replaced: at, how many, by what."""
    for at, cut, insert in edits:
        seed = seed[:at] + insert + seed[at + cut :]
    return seed


def run(check: Callable[[bytes], None], seeds: Sequence[bytes], seconds: float) -> int:
    """Try until the time is over; gives back how often. What the check raises passes through, made small."""
    tried = 0

    @settings(max_examples=200, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(list(seeds)), st.lists(_EDIT, max_size=6))
    def attempt(seed: bytes, edits: list[tuple[int, int, bytes]]) -> None:
        nonlocal tried
        tried += 1
        check(mutate(seed, edits))

    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        attempt()
    return tried
