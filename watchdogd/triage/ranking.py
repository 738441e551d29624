"""How well scores put one kind before another: the area under the ROC curve, its interval, and whose is larger.

Variances after DeLong, DeLong and Clarke-Pearson (Biometrics 44, 1988), by their placement values.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

Z_95 = 1.959964
"""Of a two-sided interval of 95 %."""


class Ranking(msgspec.Struct, frozen=True):
    """Chance that a case of the one kind scores higher than one of the other; 0.5 is none at all."""

    auroc: float
    low: float
    high: float
    """Of the 95 % interval."""


def rank(above: Sequence[float], below: Sequence[float]) -> Ranking:
    """How well scores put `above` before `below`, both not empty; equal scores count half.

    Where all variance is gone (a perfect order of few cases), the interval is Wilson's for the smaller of the two.
    """
    first, second = _place(above, below)
    auroc = _mean(first)
    spread = math.sqrt(_variance(first) / len(above) + _variance(second) / len(below))
    if spread > 0:
        return Ranking(auroc, max(0.0, auroc - Z_95 * spread), min(1.0, auroc + Z_95 * spread))
    count = min(len(above), len(below))
    centre = (auroc + Z_95**2 / (2 * count)) / (1 + Z_95**2 / count)
    half = Z_95 / (1 + Z_95**2 / count) * math.sqrt(auroc * (1 - auroc) / count + Z_95**2 / (4 * count**2))
    return Ranking(auroc, max(0.0, centre - half), min(1.0, centre + half))


def compare(
    above: Sequence[float], below: Sequence[float], other_above: Sequence[float], other_below: Sequence[float]
) -> float:
    """By how many standard errors the first scores rank better than the others do the same cases, in the same order.

    Infinite where they differ and no variance is left; 0 where they do not differ at all.
    """
    first, second = _place(above, below)
    other_first, other_second = _place(other_above, other_below)
    gained = [a - b for a, b in zip(first, other_first, strict=True)]
    lost = [a - b for a, b in zip(second, other_second, strict=True)]
    difference = _mean(gained)
    spread = math.sqrt(_variance(gained) / len(above) + _variance(lost) / len(below))
    if spread > 0:
        return difference / spread
    return 0.0 if difference == 0 else math.copysign(math.inf, difference)


def _place(above: Sequence[float], below: Sequence[float]) -> tuple[list[float], list[float]]:
    """For each score, on which part of the other kind it is on the right side."""
    if not above or not below:
        raise ValueError("both kinds are needed")
    first = [_mean([_order(a, b) for b in below]) for a in above]
    second = [_mean([_order(a, b) for a in above]) for b in below]
    return first, second


def _order(above: float, below: float) -> float:
    return 0.5 if above == below else float(above > below)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _variance(values: Sequence[float]) -> float:
    if len(values) == 1:
        return 0.0
    mean = _mean(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
