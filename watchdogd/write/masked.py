r"""The alert as it leaves the host: secrets masked in arguments, fields, texts, and the original lines.

An audit line stays one that tools read: what audit wrote as hex (arguments with blanks, `proctitle`) is decoded, masked
and written as hex again. The database keeps the alert as it was.
"""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING, Final

import msgspec

from watchdogd.masking import mask_argv, mask_secrets

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from watchdogd.entities import Alert, FieldMap, FieldValue, Process, Verdict

MOST_CHARS: Final = 65_536
MOST_LINE_CHARS: Final = 262_144

_AUDIT_LINE = re.compile(r"(?:node=\S+ )?type=(\S+) msg=audit\(([^)]*)\)")
_ITEM = re.compile(r"(?<![^\s'])([A-Za-z_][\w.-]*(?:\[\d+\])?)=(\"[^\"]*\"|'[^']*'|[^\s'\"]+)")
_ARGUMENT = re.compile(r"a\d+(?:\[\d+\])?")
_HEX = re.compile(r"(?:[0-9A-Fa-f]{2}){4,}")
_NO_TEXT = frozenset({"saddr", "arch"})


class Masker:
    """Masks alerts, each of them once for all sinks: the last few are remembered."""

    def __init__(self, remembered: int = 4) -> None:
        self._known: deque[tuple[Alert, Alert]] = deque(maxlen=remembered)

    def mask(self, alert: Alert) -> Alert:
        """As `mask_alert`."""
        for known, masked in self._known:
            if known.id == alert.id and known == alert:
                return masked
        masked = mask_alert(alert)
        self._known.append((alert, masked))
        return masked


def mask_alert(alert: Alert) -> Alert:
    """The same alert with every secret that is recognised replaced by `[masked]`.

    Looking for secrets in a megabyte takes up to half a second, and who is watched chooses how long texts are: what
    exceeds MOST_CHARS (of all lines together, MOST_LINE_CHARS) is cut, and says so.
    """
    alert = bound_alert(alert)
    process = None if alert.process is None else _mask_process(alert.process)
    lineage = tuple(_mask_process(ancestor) for ancestor in alert.lineage)
    commands = {
        " ".join(before.argv): " ".join(after.argv)
        for before, after in zip(_with(alert.process, alert.lineage), _with(process, lineage), strict=True)
        if before.argv
    }
    return msgspec.structs.replace(
        alert,
        process=process,
        lineage=lineage,
        fields=_mask_fields(alert.fields, commands),
        matched={name: _mask_text(value, commands) for name, value in alert.matched.items()},
        group_key=mask_secrets(alert.group_key),
        reasons=tuple(mask_secrets(reason) for reason in alert.reasons),
        lines=mask_lines(alert.lines),
        verdict=None if alert.verdict is None else _mask_verdict(alert.verdict),
    )


def bound_alert(alert: Alert) -> Alert:
    """The same alert; its texts no longer than MOST_CHARS each, its lines together no longer than MOST_LINE_CHARS."""

    def bound(value: FieldValue) -> FieldValue:
        return cut_words(value) if isinstance(value, str) else value

    fields = {
        name: tuple(map(bound, value)) if isinstance(value, tuple) else bound(value)
        for name, value in alert.fields.items()
    }
    return msgspec.structs.replace(
        alert,
        process=None if alert.process is None else _bound_process(alert.process),
        lineage=tuple(map(_bound_process, alert.lineage)),
        fields=fields,
        matched={name: cut_words(value) for name, value in alert.matched.items()},
        group_key=cut_words(alert.group_key),
        reasons=tuple(map(cut_words, alert.reasons)),
        lines=_bound_texts(tuple(map(cut_words, alert.lines)), MOST_LINE_CHARS, "lines"),
    )


def _bound_process(process: Process) -> Process:
    if sum(map(len, process.argv)) + len(process.argv) + len(process.exe or "") + len(process.cwd or "") <= MOST_CHARS:
        return process
    return msgspec.structs.replace(
        process,
        argv=_bound_texts(tuple(map(cut_words, process.argv)), MOST_CHARS, "arguments"),
        exe=None if process.exe is None else cut_words(process.exe),
        cwd=None if process.cwd is None else cut_words(process.cwd),
    )


def _bound_texts(texts: tuple[str, ...], most_chars: int, what: str) -> tuple[str, ...]:
    """The first of the texts that together are no longer, at least one; and how many there were."""
    left = most_chars
    for index, text in enumerate(texts):
        left -= len(text) + 1
        if left < 0 and index:
            return (*texts[:index], f"...[cut, {len(texts)} {what} in all]")
    return texts


def cut_words(text: str) -> str:
    """The text, or its beginning with a note of what is missing: whole words where there are any, no half a secret."""
    if len(text) <= MOST_CHARS:
        return text
    kept = text[:MOST_CHARS]
    return f"{kept.rpartition(' ')[0] or kept} ...[cut, {len(text)} characters in all]"


def _with(process: Process | None, lineage: tuple[Process, ...]) -> tuple[Process, ...]:
    return lineage if process is None else (process, *lineage)


def _mask_process(process: Process) -> Process:
    return msgspec.structs.replace(
        process,
        argv=mask_argv(process.argv),
        exe=None if process.exe is None else mask_secrets(process.exe),
        cwd=None if process.cwd is None else mask_secrets(process.cwd),
    )


def _mask_verdict(verdict: Verdict) -> Verdict:
    return msgspec.structs.replace(
        verdict,
        summary=mask_secrets(cut_words(verdict.summary)),
        evidence=tuple(mask_secrets(cut_words(text)) for text in verdict.evidence),
        next_steps=tuple(mask_secrets(cut_words(step)) for step in verdict.next_steps),
    )


def _mask_text(text: str, commands: Mapping[str, str]) -> str:
    """A command line is masked argument by argument where those are known."""
    return commands[text] if text in commands else mask_secrets(text)


def _mask_fields(fields: FieldMap, commands: Mapping[str, str]) -> FieldMap:
    def mask(value: FieldValue) -> FieldValue:
        return _mask_text(value, commands) if isinstance(value, str) else value

    return {
        name: tuple(mask(item) for item in value) if isinstance(value, tuple) else mask(value)
        for name, value in fields.items()
    }


def mask_lines(lines: Sequence[str]) -> tuple[str, ...]:
    """Original lines. The arguments of one exec are masked together, over as many records as they need."""
    masked = list(lines)
    execs: dict[str, list[int]] = {}
    for index, line in enumerate(lines):
        head = _AUDIT_LINE.match(line)
        if head is None:
            masked[index] = mask_secrets(line)
        elif head[1] == "EXECVE":
            execs.setdefault(head[2], []).append(index)
        else:
            masked[index] = line[: head.end()] + _ITEM.sub(_mask_item, line[head.end() :])
    for indexes in execs.values():
        for index, line in zip(indexes, _mask_exec([lines[index] for index in indexes]), strict=True):
            masked[index] = line
    return tuple(masked)


def _mask_item(found: re.Match[str]) -> str:
    name, written = found.groups()
    if name in _NO_TEXT:
        return found[0]
    text = _read(written)
    if written[0] == "'" and "=" in text:  # a user record's own items
        shown = _ITEM.sub(_mask_item, text)
    elif "\0" in text:  # proctitle
        shown = "\0".join(mask_argv(text.split("\0")))
    else:
        shown = mask_secrets(text)
    return found[0] if shown == text else f"{name}={_write(shown, written)}"


def _mask_exec(lines: Iterable[str]) -> list[str]:
    parts = [list(_pieces(line)) for line in lines]
    values = [piece[1] for pieces in parts for piece in pieces if piece[1]]
    texts = [_read(value) for value in values]
    shown = iter(zip(values, texts, mask_argv(texts), strict=True))
    made = []
    for pieces in parts:
        out = []
        for other, value in pieces:
            out.append(other)
            if value:
                written, text, masked = next(shown)
                out.append(written if masked == text else _write(masked, written))
        made.append("".join(out))
    return made


def _pieces(line: str) -> Iterable[tuple[str, str]]:
    """What stands before each argument of an EXECVE record, and the argument as written; at last what is left."""
    end = 0
    for item in _ITEM.finditer(line):
        if _ARGUMENT.fullmatch(item[1]):
            yield line[end : item.start(2)], item[2]
            end = item.end()
    yield line[end:], ""


def _read(written: str) -> str:
    """The text that audit wrote in quotes, as hex, or as it is."""
    if written[0] in "\"'" and written[-1] == written[0] and len(written) > 1:
        return written[1:-1]
    if _HEX.fullmatch(written):
        return bytes.fromhex(written).decode("utf-8", "surrogateescape")
    return written


def _write(text: str, like: str) -> str:
    """The text in the way that `like` is written."""
    if like[0] in "\"'":
        return f"{like[0]}{text}{like[0]}"
    if _HEX.fullmatch(like):
        return text.encode("utf-8", "surrogateescape").hex().upper()
    return text
