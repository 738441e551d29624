"""Durations, sizes and moments as people write them."""

from __future__ import annotations

import pytest

from watchdogd.quantities import (
    complain_keep,
    complain_max_size,
    read_duration_ms,
    read_keep_ms,
    read_max_bytes,
    read_moment_ms,
    read_size_bytes,
    show_duration,
    show_size,
)

NOW_MS = 1_795_000_000_000


@pytest.mark.parametrize(
    ("text", "duration_ms"),
    [("90d", 90 * 86_400_000), ("1h30m", 5_400_000), ("1.5h", 5_400_000), ("2w", 1_209_600_000), ("0s", 0)],
)
def test_durations(text: str, duration_ms: int) -> None:
    assert read_duration_ms(text) == duration_ms


@pytest.mark.parametrize("text", ["", "90", "d", "-1d", "1 d", "90days", "1e9d", "٩d", "999999999w", "1h30"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        read_duration_ms(text)


@pytest.mark.parametrize(("text", "size"), [("1GiB", 1 << 30), ("500MB", 500_000_000), ("1.5 KiB", 1536), ("7B", 7)])
def test_sizes(text: str, size: int) -> None:
    assert read_size_bytes(text) == size


@pytest.mark.parametrize("text", ["", "1G", "1gib", "GiB", "-1GiB", "1  GiB", "1024"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="must be a size"):
        read_size_bytes(text)


def test_no_limit_has_a_word_and_too_little_is_refused() -> None:
    assert read_keep_ms("forever") is None
    assert read_max_bytes("unlimited") is None
    assert complain_keep("90d") is None
    assert complain_keep("59m") == "must be an hour at least"
    assert complain_keep("never") == "must be a duration like '90d', '12h' or '1h30m' (s, m, h, d, w), or 'forever'"
    assert complain_max_size("1GiB") is None
    assert complain_max_size("1MiB") == "must be 16MiB at least"
    assert "or 'unlimited'" in str(complain_max_size("much"))


def test_moments_are_from_now_or_on_the_calendar() -> None:
    assert read_moment_ms("2h", NOW_MS, ahead=True) == NOW_MS + 7_200_000
    assert read_moment_ms("2h", NOW_MS, ahead=False) == NOW_MS - 7_200_000
    assert read_moment_ms("2026-11-18T11:06:40Z", 0, ahead=True) == NOW_MS
    assert read_moment_ms("2026-11-18T12:06:40+01:00", 0, ahead=False) == NOW_MS
    for text in ("tomorrow", "", "0001-01-01", "2026-13-01"):
        with pytest.raises(ValueError, match="must be a duration"):
            read_moment_ms(text, NOW_MS, ahead=True)


def test_local_time_where_no_zone_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    import time  # noqa: PLC0415 - beside its use

    monkeypatch.setenv("TZ", "Etc/GMT-5")
    time.tzset()
    try:
        assert read_moment_ms("2026-11-18T16:06:40", 0, ahead=True) == NOW_MS
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("duration_ms", "shown"),
    [(0, "0s"), (45_000, "45s"), (7_200_000, "2h"), (90 * 86_400_000, "90d"), (183_600_000, "2d 3h"), (-5, "0s")],
)
def test_durations_are_shown_short(duration_ms: int, shown: str) -> None:
    assert show_duration(duration_ms) == shown


@pytest.mark.parametrize(("size", "shown"), [(0, "0 B"), (1 << 30, "1.0 GiB"), (12 << 20, "12 MiB"), (1536, "1.5 KiB")])
def test_sizes_are_shown_short(size: int, shown: str) -> None:
    assert show_size(size) == shown
