"""What was found out about a text is remembered, for texts come again: bounded in bytes.

What is remembered depends on nothing but the text it is remembered by, so that nobody's text can falsify another's.
"""

from __future__ import annotations

import sys
from typing import Any

_REMEMBERED_BYTES = 3 << 19
"""Two generations of this size are kept, of records and of each view."""
_LONGEST_BYTES = 600
_LIKENESSES = 512
"""Two generations of so many are kept; `decode` holds most of their keys, too."""
_ENTRY_BYTES = 160
"""What a remembered text takes beside its characters, about."""


class Memory:
    """Something small by text, in two generations: what is not asked for while one of them fills up is forgotten."""

    __slots__ = ("old", "young")

    def __init__(self) -> None:
        self.young: dict[Any, Any] = {}
        self.old: dict[Any, Any] = {}


class Budget:
    """Bounds the memories that share it, in bytes."""

    def __init__(self) -> None:
        self._spent = 0
        self.members: list[Memory] = []

    def keep(self, memory: Memory, key: object, value: object, key_bytes: int) -> None:
        """Remember it by a key of that size, unless that is too long."""
        if key_bytes > _LONGEST_BYTES:
            return
        self._spent += key_bytes + sys.getsizeof(value) + _ENTRY_BYTES
        if self._spent > _REMEMBERED_BYTES:
            self._spent = 0
            for member in self.members:
                member.old, member.young = member.young, {}
        memory.young[key] = value


class Recent(Memory):
    """Bounds itself, in number: for what others hold the keys of."""

    __slots__ = ()

    def find(self, key: object) -> Any:  # noqa: ANN401 - whatever was kept
        """What was kept, or None."""
        known = self.young.get(key)
        if known is None:
            known = self.old.get(key)
            if known is not None:
                self.keep(key, known)
        return known

    def keep(self, key: object, value: object) -> None:
        """Remember it."""
        if len(self.young) >= _LIKENESSES:
            self.old, self.young = self.young, {}
        self.young[key] = value
