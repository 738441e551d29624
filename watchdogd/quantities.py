"""Durations, sizes and moments as people write them: `90d`, `1h30m`, `1GiB`, `2026-12-01T10:00`."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}
_UNITS_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS_BYTES |= {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_DURATION = re.compile(r"(?:\d{1,9}(?:\.\d{1,6})?[smhdw])+", re.ASCII)
_PART = re.compile(r"([\d.]+)([smhdw])", re.ASCII)
_SIZE = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)\s?([KMGT]i?B|B)", re.ASCII)
_MOST_MS = 100 * 366 * 86_400_000

FOREVER = "forever"
UNLIMITED = "unlimited"
LEAST_KEEP_MS = 3_600_000
LEAST_SIZE_BYTES = 16 << 20


def read_duration_ms(text: str) -> int:
    """Milliseconds of `90d`, `12h`, `1h30m`. Raises ValueError with what is expected."""
    if not _DURATION.fullmatch(text):
        raise ValueError("must be a duration like '90d', '12h' or '1h30m' (s, m, h, d, w)")
    total_ms = sum(float(number) * _UNITS_MS[unit] for number, unit in _PART.findall(text))
    if total_ms > _MOST_MS:
        raise ValueError("must not be longer than a hundred years")
    return round(total_ms)


def read_size_bytes(text: str) -> int:
    """Bytes of `1GiB`, `500MB`. Raises ValueError with what is expected."""
    found = _SIZE.fullmatch(text)
    if found is None:
        raise ValueError("must be a size like '1GiB' or '500MB' (B, KB, MB, GB, TB, KiB, MiB, GiB, TiB)")
    return round(float(found[1]) * _UNITS_BYTES[found[2]])


def read_keep_ms(text: str) -> int | None:
    """As `read_duration_ms`, an hour at least; None for `forever`."""
    if text == FOREVER:
        return None
    try:
        keep_ms = read_duration_ms(text)
    except ValueError as error:
        raise ValueError(f"{error}, or {FOREVER!r}") from None
    if keep_ms < LEAST_KEEP_MS:
        raise ValueError("must be an hour at least")
    return keep_ms


def read_max_bytes(text: str) -> int | None:
    """As `read_size_bytes`, 16 MiB at least; None for `unlimited`."""
    if text == UNLIMITED:
        return None
    try:
        size = read_size_bytes(text)
    except ValueError as error:
        raise ValueError(f"{error}, or {UNLIMITED!r}") from None
    if size < LEAST_SIZE_BYTES:
        raise ValueError("must be 16MiB at least")
    return size


def complain_keep(value: str) -> str | None:
    """What is wrong with `store.keep`, None where nothing is."""
    try:
        read_keep_ms(value)
    except ValueError as error:
        return str(error)
    return None


def complain_max_size(value: str) -> str | None:
    """What is wrong with `store.max_size`, None where nothing is."""
    try:
        read_max_bytes(value)
    except ValueError as error:
        return str(error)
    return None


def read_moment_ms(text: str, now_ms: int, *, ahead: bool) -> int:
    """A moment in ms since the epoch: a duration from now on (`ahead`) or ago, else a date with or without time.

    Without a zone it is local time. Raises ValueError with what is expected.
    """
    if _DURATION.fullmatch(text):
        return now_ms + (read_duration_ms(text) if ahead else -read_duration_ms(text))
    try:
        moment = datetime.fromisoformat(text)
        return int(moment.astimezone(UTC).timestamp() * 1000)
    except (ValueError, OverflowError, OSError):
        raise ValueError("must be a duration ('2h', '7d') or a moment ('2026-12-01', '2026-12-01T10:00Z')") from None


def show_duration(duration_ms: int) -> str:
    """A duration in its two largest units: `2d 3h`, `45s`."""
    rest_s = max(0, duration_ms) // 1000
    parts: list[str] = []
    for unit in ("d", "h", "m", "s"):
        count, rest_s = divmod(rest_s, _UNITS_MS[unit] // 1000)
        if count or parts:
            parts.append(f"{count}{unit}")
    return " ".join(part for part in parts[:2] if not part.startswith("0")) or "0s"


def show_size(size: int) -> str:
    """Bytes in a unit that suits: `1.5 GiB`, `12 MiB`."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size >= _UNITS_BYTES[unit]:
            number = size / _UNITS_BYTES[unit]
            return f"{number:.1f} {unit}" if number < 10 else f"{number:.0f} {unit}"  # noqa: PLR2004 - two digits
    return f"{size} B"
