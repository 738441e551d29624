"""Cuts lines into pieces that come again in other lines: without pids, registers and inodes, whose values never do."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from watchdogd.decode import tables
from watchdogd.decode.interpret import interpret_fields
from watchdogd.entities import VOLATILE_FIELDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from watchdogd.entities import FieldTriple

_PATH: Final = re.compile(rb'(item=[0-9]++ name="[^" \x1d]*+" inode=)[0-9]++( .*)', re.DOTALL)
_CALL_FIELDS: Final = VOLATILE_FIELDS["SYSCALL"] | {"arch", "syscall", "success"}
_CARRIERS: Final = frozenset({"socketcall", "ipc"})
"""Calls of which the first argument, which is volatile, says what they do."""


def cut_path(data: bytes, body_at: int) -> tuple[bytes, ...]:
    """Pieces of a PATH record; see `entities.AuditRecord.pieces`."""
    if not data.startswith(b"type="):
        return ()
    found = _PATH.match(data, body_at)
    return (data[body_at:],) if found is None else found.group(1, 2)


def read_alone(
    kind: str, piece: bytes, pairs: list[tuple[str, str]], enriched: Mapping[str, str]
) -> tuple[FieldTriple, ...] | None:
    """Fields of a piece; None where what they mean depends on another piece."""
    if kind == "SYSCALL":
        if piece.startswith(b"auid="):
            if any(name in _CALL_FIELDS for name, _ in pairs):
                return None
        else:
            values = dict(pairs)
            call = tables.name_syscall(values.get("arch"), values.get("syscall"))
            if call is None or call in _CARRIERS:
                return None
    return interpret_fields(kind, pairs, enriched)
