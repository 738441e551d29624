"""Whether a series grows: slope after Theil (1950) and Sen (1968), and the tau of Mann (1945) and Kendall."""

from __future__ import annotations

import math
from itertools import combinations
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

_LEAST_SHARE: Final = 0.75
_MAD_TO_SIGMA: Final = 1.4826


class Trend(msgspec.Struct, frozen=True):
    """A straight line through a series, robustly."""

    rise: float
    """From the first value to the last."""
    tau: float
    """1 where each value is above all before it, -1 where each is below."""
    spread: float
    """1.4826 MAD about the line."""


def take_median(values: Sequence[float]) -> float:
    """The median; of an even number the mean of the two in the middle. Raises IndexError where there are none."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def find_trend(values: Sequence[float], block: int) -> Trend | None:
    """The trend of the medians of `block` values each; None where more than a quarter of them is missing (NaN)."""
    points = []
    for start in range(0, len(values), block):
        known = [value for value in values[start : start + block] if not math.isnan(value)]
        if known:
            points.append((start, take_median(known)))
    if len(points) < max(2, _LEAST_SHARE * len(values) / block):
        return None
    slopes = [(later - value) / (there - here) for (here, value), (there, later) in combinations(points, 2)]
    slope = take_median(slopes)
    tau = sum((one > 0) - (one < 0) for one in slopes) / len(slopes)
    rests = [value - slope * here for here, value in points]
    middle = take_median(rests)
    return Trend(slope * len(values), tau, _MAD_TO_SIGMA * take_median([abs(rest - middle) for rest in rests]))
