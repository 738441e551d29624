"""Argument vectors out of EXECVE records: split arguments joined, omitted ones put back."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Final

from watchdogd.decode.interpret import decode_bytes, decode_string, parse_number, split_body

if TYPE_CHECKING:
    from collections.abc import Sequence

    from watchdogd.decode.record import AuditLine

_NAME: Final = re.compile(r"a([0-9]{1,7})(?:\[([0-9]{1,7})\])?")
_LENGTH: Final = re.compile(r"a([0-9]{1,7})_len")
_MAX_PUT_BACK: Final = 1024
"""More missing arguments than this are loss, not empty strings that the kernel left out."""

_RECALLED: Final = 2048
_RECALLED_BYTES: Final = 512


def join_argv(records: Sequence[AuditLine], missing: list[str]) -> tuple[str, ...]:
    """The argument vector of an exec; what cannot be made whole is said in `missing`.

    Long arguments come as `a1_len=` and pieces `a1[0]= a1[1]=`, long vectors as several records; the length is that of
    the text as written, two digits for a byte in hex. Some kernels leave empty arguments out and count them in `argc`.
    """
    if len(records) == 1:
        simple = _read_simple(records[0])
        if simple is not None:
            return simple
    whole: dict[int, str] = {}
    pieces: dict[int, dict[int, bytes]] = {}
    lengths: dict[int, int] = {}
    written: dict[int, int] = {}
    argc = 0
    for record in records:
        for name, raw in record.pairs:
            found = _NAME.fullmatch(name)
            if found is None:
                argc = max(argc, (parse_number(raw) or 0) if name == "argc" else 0)
                long = _LENGTH.fullmatch(name)
                if long is not None:
                    lengths.setdefault(int(long[1]), parse_number(raw) or 0)
            elif found[2] is None:
                whole.setdefault(int(found[1]), decode_string(raw))
            else:
                index = int(found[1])
                pieces.setdefault(index, {}).setdefault(int(found[2]), decode_bytes(raw))
                written[index] = written.get(index, 0) + len(raw) - (2 if raw.startswith('"') else 0)
    for index in sorted(lengths.keys() | pieces):
        parts = pieces.setdefault(index, {})
        if written.get(index, 0) < lengths.get(index, 0) or len(parts) <= max(parts, default=0):
            missing.append(f"argument {index} lacks pieces")
        whole[index] = b"".join(parts[at] for at in sorted(parts)).decode("utf-8", "backslashreplace")
    return _put_back(whole, argc, missing)


def _read_simple(record: AuditLine) -> tuple[str, ...] | None:
    """The usual record: `argc` and then exactly its arguments in order. None for any other."""
    body = record.record.data[record.body_at :]
    return _recall_words(body) if len(body) <= _RECALLED_BYTES else _read_words(body)


def _read_words(body: bytes) -> tuple[str, ...] | None:
    argc, *words = split_body(body)[0].split(" ")
    if argc != f"argc={len(words)}":
        return None
    argv = []
    for index, word in enumerate(words):
        name, sign, raw = word.partition("=")
        if not sign or name != f"a{index}" or (raw[:1] == '"' and raw.find('"', 1) != len(raw) - 1):
            return None
        argv.append(decode_string(raw))
    return tuple(argv)


_recall_words: Final = functools.lru_cache(maxsize=_RECALLED)(_read_words)


def _put_back(whole: dict[int, str], argc: int, missing: list[str]) -> tuple[str, ...]:
    size = max(argc, max(whole, default=-1) + 1)
    lacking = size - len(whole)
    if lacking > _MAX_PUT_BACK:
        missing.append(f"{lacking} of {size} arguments")
        return tuple(whole[index] for index in sorted(whole))
    return tuple(whole.get(index, "") for index in range(size))
