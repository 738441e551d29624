"""The trainer's regression finds what generated the examples, and holds what must not lower at zero."""

from __future__ import annotations

import pytest

from evaluation.logistic import Row, chance, fit


def make_rows(name: str, hits: int, misses: int) -> list[Row]:
    return [Row({name: 1.0}, wanted=True)] * hits + [Row({name: 1.0}, wanted=False)] * misses


def test_shares_of_the_examples_come_back() -> None:
    found = fit([*make_rows("a", 80, 20), *make_rows("b", 10, 90)], lambda _: 0.01, lambda _: True)
    assert chance(found.weigh({"a": 1.0})) == pytest.approx(0.8, abs=0.02)
    assert chance(found.weigh({"b": 1.0})) == pytest.approx(0.1, abs=0.02)


def test_a_strong_ridge_believes_few_examples_less() -> None:
    rows = [*make_rows("a", 3, 0), *make_rows("b", 50, 50)]
    weak = fit(rows, lambda _: 0.1, lambda _: True)
    strong = fit(rows, lambda _: 10.0, lambda _: True)
    assert 0 < strong.weights["a"] < weak.weights["a"]


def test_what_must_not_lower_stays_at_zero() -> None:
    found = fit([*make_rows("a", 10, 90), *make_rows("b", 90, 10)], lambda _: 1.0, lambda name: name == "b")
    assert found.weights["a"] == 0
    assert found.weights["b"] > 0


def test_a_share_counts_as_that_many_examples() -> None:
    many = fit(make_rows("a", 30, 10), lambda _: 1.0, lambda _: True)
    few = fit(
        [Row({"a": 1.0}, wanted=True, share=30), Row({"a": 1.0}, wanted=False, share=10)], lambda _: 1.0, lambda _: True
    )
    assert few.weights["a"] == pytest.approx(many.weights["a"], abs=1e-3)
