"""Cuts lines into pieces that come again in other lines: without pids, registers and inodes, whose values never do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from watchdogd.decode import tables
from watchdogd.decode.interpret import interpret_fields
from watchdogd.entities import VOLATILE_FIELDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from watchdogd.entities import FieldTriple

_INODE: Final = b" inode="
_CALL_FIELDS: Final = VOLATILE_FIELDS["SYSCALL"] | {"arch", "syscall", "success"}
_CARRIERS: Final = frozenset({"socketcall", "ipc"})
"""Calls of which the first argument, which is volatile, says what they do."""


def cut_path(data: bytes, body_at: int) -> tuple[bytes, ...]:
    """Pieces of a PATH record; see `entities.AuditRecord.pieces`."""
    if not data.startswith(b"type="):
        return ()
    name_end = data.find(_INODE, body_at) + len(_INODE)
    rest_at = data.find(b" ", name_end)
    if rest_at > name_end >= body_at + len(_INODE) and data[name_end:rest_at].isdigit():
        name = data[body_at:name_end]
        if name.count(b'"') == 2 and name.endswith(b'" inode='):  # noqa: PLR2004 - a pair
            return name, data[rest_at:]
    return (data[body_at:],)


def read_alone(
    kind: str, piece: bytes, pairs: list[tuple[str, str]], enriched: Mapping[str, str]
) -> tuple[FieldTriple, ...] | None:
    """Fields of a piece; None where what they mean depends on another piece."""
    if kind == "SYSCALL":
        if piece.startswith(b"auid=") and any(name in _CALL_FIELDS for name, _ in pairs):
            return None
        values = dict(pairs)
        if tables.name_syscall(values.get("arch"), values.get("syscall")) in _CARRIERS:
            return None
    return interpret_fields(kind, pairs, enriched)
