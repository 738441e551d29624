"""Values as SQLite's columns take them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Collection

INT64_MAX: Final = (1 << 63) - 1


def clamp(number: int) -> int:
    """The nearest number that a column holds: a garbled time in a log must not stop a commit."""
    return max(-INT64_MAX, min(INT64_MAX, number))


def as_json(values: Collection[int] | Collection[str]) -> str:
    """A list as `json_each` takes it: SQL has none."""
    return msgspec.json.encode(list(values)).decode()
