"""Cuts lines into pieces that come again in other lines: without pids, registers and inodes, whose values never do."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from watchdogd.decode.interpret import interpret_fields
from watchdogd.decode.words import look_up_fields
from watchdogd.entities import VOLATILE_FIELDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from watchdogd.entities import FieldTriple

_CALL: Final = re.compile(
    rb"(arch=[0-9a-f]++ syscall=[0-9]++ (?:per=[^ ]++ )?+(?:success=[a-z]++ exit=|a0=))(?:-?+[0-9]++ a0=)?+[0-9a-f]++ "
    rb"a1=[0-9a-f]++ a2=[0-9a-f]++ a3=[0-9a-f]++ items=[0-9]++ ppid=[0-9]++ pid=[0-9]++ (?=auid=)"
)
_INODE: Final = b" inode="
_CALL_FIELDS: Final = VOLATILE_FIELDS["SYSCALL"] | {"arch", "syscall", "success"}


def cut_line(kind: str, data: bytes, body_at: int) -> tuple[bytes, ...]:
    """See `entities.AuditRecord.pieces`."""
    if not data.startswith(b"type="):
        return ()
    if kind == "SYSCALL":
        found = _CALL.match(data, body_at)
        return (data[body_at:],) if found is None else (found[1], data[found.end() :])
    body = data[body_at:]
    if kind == "PATH":
        name, _, rest = body.partition(_INODE)
        at = rest.find(b" ")
        if at > 0 and rest[:at].isdigit() and name.endswith(b'"') and name.count(b'"') == 2:  # noqa: PLR2004 - a pair
            return name + _INODE, rest[at:]
    return (body,)


def read_alone(
    kind: str, piece: bytes, pairs: list[tuple[str, str]], enriched: Mapping[str, str]
) -> tuple[FieldTriple, ...] | None:
    """Fields of a piece; None where what they mean depends on another piece."""
    if kind == "SYSCALL":
        if piece.startswith(b"auid=") and any(name in _CALL_FIELDS for name, _ in pairs):
            return None
        return interpret_fields(kind, pairs, enriched)
    return look_up_fields(kind, piece) or interpret_fields(kind, pairs, enriched)
