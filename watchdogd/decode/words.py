"""Interpreted fields of records that the kernel wrote, word by word: nearly every word was seen before.

Of the millions of fields in a day's log only a few thousand differ, so a word is interpreted once and then looked up.
What is remembered is bounded, and depends on nothing but what it is looked up by.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Final

from watchdogd.decode.arguments import NAMES as ARGUMENTS
from watchdogd.decode.arguments import arguments_wait, describe_call, interpret_argument, mode_waits_for_flags
from watchdogd.decode.interpret import interpret_value, is_several_keys, read_enriched, split_body
from watchdogd.decode.tables import name_syscall

if TYPE_CHECKING:
    from watchdogd.entities import FieldTriple

_CONTEXTS: Final = 64
_WORDS: Final = 1024
_WORD_CHARS: Final = 128
_BODIES: Final = 1024
_BODY_BYTES: Final = 512
_CALL_NAMES: Final = frozenset({"arch", "syscall", "per", "success", "exit", *ARGUMENTS, "items", "ppid", "pid"})
"""What stands before the subject of a SYSCALL record; none of it is an id that the recording host resolves."""

_SUBJECT: Final = b" auid="
_PATH: Final = re.compile(rb'(item=[0-9]{1,9}+) name="([^" \x1d]*+)" inode=([0-9]*+)( [^\r\n]*+)?+')
_CALL: Final = re.compile(r"(arch=[0-9a-f]{1,8}) (syscall=[0-9]{1,6}) ")


class _Words(dict[str, "FieldTriple"]):
    """Triples by `name=value`, in one context: type of record, syscall, and what the recording host resolved."""

    def __init__(self, kind: str, call: tuple[str, ...], enriched: str) -> None:
        super().__init__()
        self._kind = kind
        self._enriched = read_enriched(enriched)
        self._values = dict(word.split("=") for word in call)
        self._needing_call = ARGUMENTS if kind == "SYSCALL" else ()
        self.is_named = name_syscall(self._values.get("arch"), self._values.get("syscall")) is not None
        self.mode_waits = mode_waits_for_flags(self._values)
        self.arguments_wait = arguments_wait(self._values)

    def __missing__(self, word: str) -> FieldTriple:
        """Interpret a new word.

        Raises LookupError where it is no field by itself: half a quoted text, several keys, what needs a syscall to
        be understood.
        """
        name, sign, raw = word.partition("=")
        if (name not in _CALL_NAMES) if self._values else (name == "syscall" or name in self._needing_call):
            raise LookupError(word)
        closed = raw[:1] != '"' or raw.find('"', 1) == len(raw) - 1
        if not sign or not name or not closed or is_several_keys(name, raw):
            raise LookupError(word)
        triple = (name, raw, interpret_value(self._kind, name, raw, self._values, self._enriched))
        if len(word) <= _WORD_CHARS:
            if len(self) >= _WORDS:
                self.clear()
            self[word] = triple
        return triple


def look_up_fields(kind: str, body: bytes) -> tuple[FieldTriple, ...] | None:
    """As `interpret_fields`, for a body of fields with one space between them; None for any other body.

    Whole bodies come again, too: folders, titles, files. Of a SYSCALL record it is what stands behind the pids.
    """
    if kind == "PATH" and (found := _PATH.fullmatch(body)) is not None:
        return _read_path(found)
    if kind != "SYSCALL":
        return _look_up(kind, body) if len(body) <= _BODY_BYTES else _read(kind, body)
    at = body.find(_SUBJECT)
    subject = body[at + 1 :]
    if at < 0 or len(subject) > _BODY_BYTES or b"\x1d" in body[:at]:
        return None
    rest = _look_up(kind, subject)
    start = _read_call(body[:at].decode("utf-8", "backslashreplace"))
    return None if start is None or rest is None else start + rest


def _read_path(found: re.Match[bytes]) -> tuple[FieldTriple, ...] | None:
    """Names and inodes are mostly new; the rest comes again."""
    item, name, inode, rest = found.groups()
    text, number = name.decode("utf-8", "backslashreplace"), inode.decode()
    start = (_recall_item(item), ("name", f'"{text}"', text), ("inode", number, number))
    if rest is None:
        return start
    more = _look_up("PATH", rest[1:]) if len(rest) <= _BODY_BYTES else _read("PATH", rest[1:])
    return None if more is None else start + more


@functools.lru_cache(maxsize=_CONTEXTS)
def _recall_item(word: bytes) -> FieldTriple:
    name, _, number = word.decode().partition("=")
    return name, number, number


def _read_call(text: str) -> tuple[FieldTriple, ...] | None:
    found = _CALL.match(text)
    if found is None:
        return None
    words = _find_words("SYSCALL", found.groups(), "")
    if not words.is_named:
        return None  # the recording host may have known its name
    try:
        triples = tuple(map(words.__getitem__, text.split(" ")))
    except LookupError:
        return None
    creates = words.mode_waits and any("O_CREAT" in interpreted for _, _, interpreted in triples[2:9])
    if creates or words.arguments_wait:
        return _complete(triples)
    return triples


def _read(kind: str, body: bytes) -> tuple[FieldTriple, ...] | None:
    text, enriched = split_body(body)
    if len(enriched) > _BODY_BYTES:
        return None
    try:
        return tuple(map(_find_words(kind, (), enriched).__getitem__, text.split(" ")))
    except LookupError:
        return None


@functools.lru_cache(maxsize=_BODIES)
def _look_up(kind: str, body: bytes) -> tuple[FieldTriple, ...] | None:
    return _read(kind, body)


def _complete(triples: tuple[FieldTriple, ...]) -> tuple[FieldTriple, ...]:
    """Interpret the arguments anew: what the mode of an open means depends on its flags."""
    values = {name: raw for name, raw, _ in reversed(triples)}
    completed: list[FieldTriple] = []
    for name, raw, interpreted in triples:
        if name in ARGUMENTS:
            completed.append((name, raw, interpret_argument(name, raw, values)))
        else:
            completed.append((name, raw, (describe_call(raw, values) or raw) if name == "syscall" else interpreted))
    return tuple(completed)


@functools.lru_cache(maxsize=_CONTEXTS)
def _find_words(kind: str, call: tuple[str, ...], enriched: str) -> _Words:
    return _Words(kind, call, enriched)
