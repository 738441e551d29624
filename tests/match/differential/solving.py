"""Raw audit lines that satisfy a rule, worked out from the rule itself.

Each way to satisfy the condition is a choice of detections that hold; each of these is a choice of field values. What
must *not* hold is not worked at: whoever asks tries the ways in turn until the rule says that one is right.
"""

from __future__ import annotations

import ipaddress
import itertools
import json
import random
import re
from typing import TYPE_CHECKING

import msgspec
from hypothesis import Phase, find, settings
from hypothesis import strategies as st

from watchdogd.decode.tables import load_tables
from watchdogd.match import syntax
from watchdogd.match.logsources import SERVICES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from watchdogd.match.syntax import Condition, Detection, Test, Value

Wish = tuple[str | None, str, str]
"""Field (None: anywhere in a line), how (`is`, `starts`, `ends`, `holds`), text."""

PATHS: dict[str | None, str] = {
    "Image": "/usr/bin", "ParentImage": "/usr/bin", "CurrentDirectory": "/srv", "TargetFilename": "/srv/x",
}  # fmt: skip
"""Fields of paths, and the folder where no rule names one."""
WAYS = 400
STAMP = "msg=audit(1700000000.{serial:03}:{serial}):"
CALLS = "x86_64"
_BARE = re.compile(r"[!#-~]+")


class ImpossibleError(Exception):
    """No audit line says that."""


def solve(
    condition: Condition, detections: dict[str, Detection], *, holds: bool = True
) -> Iterator[tuple[tuple[Wish, ...], ...]]:
    """Ways to satisfy a condition: for each, the wishes of every detection that must hold."""
    if isinstance(condition, syntax.Not):
        yield from solve(condition.item, detections, holds=not holds)
    elif isinstance(condition, syntax.Named):
        if holds:
            yield from ((wishes,) for wishes in satisfy(detections[condition.name]))
        else:
            yield ()
    elif condition.every is holds:
        for chosen in itertools.product(
            *(list(itertools.islice(solve(item, detections, holds=holds), WAYS)) for item in condition.items)
        ):
            yield tuple(itertools.chain.from_iterable(chosen))
    else:
        for item in condition.items:
            yield from solve(item, detections, holds=holds)


def satisfy(detection: Detection) -> Iterator[tuple[Wish, ...]]:
    """Ways to satisfy one detection."""
    if isinstance(detection, syntax.Test):
        yield from _satisfy_test(detection)
    elif detection.every:
        for chosen in itertools.product(*(list(itertools.islice(satisfy(item), WAYS)) for item in detection.items)):
            yield tuple(itertools.chain.from_iterable(chosen))
    else:
        for item in detection.items:
            yield from satisfy(item)


def _satisfy_test(test: Test) -> Iterator[tuple[Wish, ...]]:
    if test.negated:
        yield ()
    elif test.every:
        yield tuple((test.field, *_describe(value)) for value in test.values)
    else:
        for value in test.values:
            yield ((test.field, *_describe(value)),)


def _describe(value: Value) -> tuple[str, str]:
    """A text that the value matches, and where in the field it may stand."""
    match value:
        case syntax.AnyOf():
            return _describe(value.values[0])
        case syntax.Text():
            starts, ends = value.parts[:1] == (syntax.MANY,), value.parts[-1:] == (syntax.MANY,)
            text = "".join(part if isinstance(part, str) else "x" * part for part in value.parts)  # ONE is 1, MANY is 0
            return {(True, True): "holds", (True, False): "ends", (False, True): "starts", (False, False): "is"}[
                starts, ends
            ], text
        case syntax.Number():
            return "is", str(value.number)
        case syntax.Truth():
            return "is", "true" if value.value else "false"
        case syntax.Network():
            return "is", str(next(iter(ipaddress.ip_network(value.network).hosts())))
        case syntax.Pattern():
            return _find_example(value.pattern)
    raise ImpossibleError(f"a value of the kind {type(value).__name__}")


def _find_example(pattern: str) -> tuple[str, str]:
    """A text for a pattern, and where it may stand."""
    made = st.from_regex(pattern, fullmatch=True, alphabet=st.characters(min_codepoint=32, max_codepoint=126))
    once = settings(phases=[Phase.generate], database=None)
    text = find(made, lambda _: True, settings=once, random=random.Random(0))
    bare = re.sub(r"^\(\?[ims]+\)", "", pattern)
    return {(True, True): "is", (True, False): "starts", (False, True): "ends", (False, False): "holds"}[
        bare.startswith("^"), bare.endswith("$")
    ], text


def join(wishes: Sequence[tuple[str, str]], glue: str = " ") -> str:
    """One text that fulfils them all."""
    exact = [text for how, text in wishes if how == "is"]
    if exact:
        return exact[0]
    starts = max((text for how, text in wishes if how == "starts"), key=len, default="")
    ends = max((text for how, text in wishes if how == "ends"), key=len, default="")
    inside = [text for how, text in wishes if how == "holds" and text not in starts and text not in ends]
    return glue.join(text for text in (starts, *dict.fromkeys(inside), ends) if text)


def join_path(wishes: Sequence[tuple[str, str]], folder: str) -> str:
    """One absolute path that fulfils them all."""
    text = join(wishes, "")
    if not any(how in ("is", "starts") for how, _ in wishes):
        text = f"{folder}/{text}".replace("//", "/")
    return f"{text}x" if text.endswith("/") else text


def build_lines(body: syntax.RuleBody, wishes: Sequence[tuple[Wish, ...]]) -> list[bytes]:
    """Audit lines of an event as it should be for the rule. Raises ImpossibleError."""
    if body.view == syntax.RECORDS:
        return _build_records(wishes)
    fields: dict[str | None, list[tuple[str, str]]] = {}
    for field, how, text in itertools.chain.from_iterable(wishes):
        fields.setdefault(field, []).append((how, text))
    texts = {
        field: join_path(found, PATHS[field]) if field in PATHS else join(found) for field, found in fields.items()
    }
    if body.view in SERVICES:
        texts[None] = join([("holds", text) for _, text in fields.get(None, ())])  # keywords: anywhere in the line
        return [_build_entry(body.view, texts)]
    if body.view == "process_creation":
        return _build_exec(texts)
    if body.view == "file_event":
        return _build_file(texts)
    return _build_connection(texts)


def _build_entry(service: str, texts: dict[str | None, str]) -> bytes:
    """An entry of the journal, as journalctl exports it; sudo's own fields stand in its message."""
    message = texts.get(None, "")
    pairs = [f"{name}={texts[name]}" for name in ("USER", "COMMAND") if name in texts]
    if pairs:
        message = " ; ".join([f"carol : TTY=pts/1 ; PWD={message or '/'}", *pairs])
    document = {
        "__CURSOR": "s=1;i=1",
        "__REALTIME_TIMESTAMP": "1700000000000000",
        "SYSLOG_IDENTIFIER": service,
        "SYSLOG_FACILITY": "10",
        "MESSAGE": message,
    }
    return json.dumps(document).encode()


def encode(text: str) -> str:
    """A string as the kernel writes it: in quotes, or in hex where it holds more than plain characters."""
    return f'"{text}"' if _BARE.fullmatch(text) else text.encode().hex().upper()


def write_call(serial: int, call: str, fields: dict[str, str], *, pids: tuple[int, int] = (700, 600)) -> str:
    """A SYSCALL record; `pids` are the process's own and its parent's, the field `more` is what auditd resolved."""
    found = {f"a{place}": f"7f0{place}" for place in range(4)}
    found |= dict.fromkeys(("auid", "uid", "euid"), "1000") | {
        "comm": '"run"',
        "exe": '"/usr/bin/run"',
        "key": "(null)",
    }
    found |= {"exit": "0", "more": ""} | fields
    number = next((number for number, name in load_tables().syscalls[CALLS].items() if name == call), None)
    if number is None:
        raise ImpossibleError(f"no call {call!r}")
    told = (
        "arch=c000003e syscall={number} success=yes exit={exit} a0={a0} a1={a1} a2={a2} a3={a3} items=1 ppid={ppid} "
        "pid={pid} auid={auid} uid={uid} gid=1000 euid={euid} suid=1000 fsuid=1000 egid=1000 "
        "sgid=1000 fsgid=1000 tty=pts0 ses=3 comm={comm} exe={exe} key={key}{more}"
    ).format(number=number, pid=pids[0], ppid=pids[1], **found)
    return f"type=SYSCALL {STAMP.format(serial=serial)} {told}"


def write_command(serial: int, arguments: Sequence[str]) -> list[str]:
    """EXECVE and PROCTITLE."""
    stamp = STAMP.format(serial=serial)
    listed = " ".join(f"a{place}={encode(text) if text else chr(34) * 2}" for place, text in enumerate(arguments))
    title = "\0".join(arguments).encode().hex().upper()
    return [f"type=EXECVE {stamp} argc={len(arguments)} {listed}", f"type=PROCTITLE {stamp} proctitle={title}"]


def _build_exec(texts: dict[str | None, str]) -> list[bytes]:
    _refuse(texts, {*PATHS, "CommandLine", "User", "LogonId", "ParentCommandLine", None} - {"TargetFilename"})
    lines = []
    if "ParentImage" in texts or "ParentCommandLine" in texts:
        image = texts.get("ParentImage", "/usr/bin/parent")
        lines.append(write_call(1, "execve", {"exe": encode(image)}, pids=(600, 500)))
        lines += write_command(1, texts.get("ParentCommandLine", image).split(" "))
    image = texts.get("Image", "/usr/bin/run")
    command = texts.get("CommandLine", texts.get(None, image))
    fields = {"exe": encode(image), "auid": texts.get("LogonId", "1000")}
    if "User" in texts:
        fields["more"] = f'\x1dAUID="alice" UID="{texts["User"]}" EUID="{texts["User"]}"'
        fields |= {"uid": "0", "euid": "0"} if texts["User"] == "root" else {}
    lines += [write_call(2, "execve", fields), *write_command(2, command.split(" "))]
    lines.append(f"type=CWD {STAMP.format(serial=2)} cwd={encode(texts.get('CurrentDirectory', '/home/alice'))}")
    return [line.encode() for line in (*lines, _write_path(2, image, "NORMAL"))]


def _build_file(texts: dict[str | None, str]) -> list[bytes]:
    _refuse(texts, {"Image", "TargetFilename"})
    path, image = texts.get("TargetFilename", "/tmp/x"), texts.get("Image", "/usr/bin/run")
    lines = [
        write_call(2, "openat", {"a0": "ffffff9c", "a2": "241", "a3": "1b6", "exit": "3", "exe": encode(image)}),
        f'type=CWD {STAMP.format(serial=2)} cwd="/home/alice"',
        _write_path(2, path, "CREATE"),
    ]
    return [line.encode() for line in lines]


def _build_connection(texts: dict[str | None, str]) -> list[bytes]:
    _refuse(texts, {"Image", "DestinationIp", "DestinationPort", "Initiated"})
    if texts.get("Initiated") == "false" and "DestinationIp" in texts:
        raise ImpossibleError("what is accepted has no destination")
    address = ipaddress.ip_address(texts.get("DestinationIp", "203.0.113.7"))
    port = int(texts.get("DestinationPort", "443"))
    family = b"\x02\x00" if address.version == 4 else b"\x0a\x00"
    between = b"" if address.version == 4 else bytes(4)
    raw = family + port.to_bytes(2, "big") + between + address.packed + bytes(8 if address.version == 4 else 4)
    image = texts.get("Image", "/usr/bin/run")
    call = "connect" if texts.get("Initiated", "true") == "true" else "accept"
    lines = [
        write_call(2, call, {"a0": "3", "exe": encode(image)}),
        f"type=SOCKADDR {STAMP.format(serial=2)} saddr={raw.hex().upper()}",
    ]
    return [line.encode() for line in lines]


def _write_path(serial: int, path: str, kind: str) -> str:
    told = "inode=7 dev=00:2f mode=0100644 ouid=0 ogid=0 rdev=00:00"
    return f"type=PATH {STAMP.format(serial=serial)} item=0 name={encode(path)} {told} nametype={kind}"


def _refuse(texts: dict[str | None, str], known: set[str | None]) -> None:
    odd = {str(name) for name in texts if name not in known}
    if odd:
        raise ImpossibleError(f"audit does not tell {', '.join(sorted(odd))}")


class _Draft(msgspec.Struct):
    """Records that an event is to have."""

    arguments: dict[int, list[tuple[str, str]]] = {}
    calls: dict[str, list[tuple[str, str]]] = {}
    paths: list[dict[str, list[tuple[str, str]]]] = []
    others: dict[str, dict[str, list[tuple[str, str]]]] = {}
    keywords: list[str] = []
    is_command: bool = False


def _build_records(wishes: Sequence[tuple[Wish, ...]]) -> list[bytes]:
    draft = _Draft()
    for wished in wishes:
        fields: dict[str, list[tuple[str, str]]] = {}
        for field, how, text in wished:
            if field is None:
                draft.keywords.append(text)
            else:
                fields.setdefault(field, []).append((how, text))
        if fields:
            _place(draft, fields)
    lines = [
        f"type={kind} {STAMP.format(serial=2)} {_write_other(kind, fields)}" for kind, fields in draft.others.items()
    ]
    if draft.calls or draft.paths or draft.arguments or draft.keywords or draft.is_command:
        lines += _write_draft(draft)
    return [line.encode() for line in lines]


def _place(draft: _Draft, fields: dict[str, list[tuple[str, str]]]) -> None:
    """Decide which record is to say it, by its type or by the names of its fields."""
    kind = join(fields.pop("type")).upper() if "type" in fields else ""
    numbered = [name for name in fields if re.fullmatch(r"a\d+", name)]
    if kind == "EXECVE" or (not kind and numbered):
        draft.is_command = True
        for name in numbered:
            draft.arguments.setdefault(int(name[1:]), []).extend(fields[name])
    elif kind == "PATH" or (not kind and "name" in fields):
        alike = next((path for path in draft.paths if path.keys().isdisjoint(fields)), None)
        if alike is None:
            draft.paths.append(fields)
        else:
            alike.update(fields)
    elif kind in ("", "SYSCALL"):
        draft.calls.update(fields)
    else:
        draft.others[kind] = fields


def _write_draft(draft: _Draft) -> list[str]:
    names = dict(draft.calls)
    call = join(names.pop("SYSCALL", names.pop("syscall", [("is", "execve" if not draft.paths else "openat")])))
    texts = {name: join_path(found, "/usr/bin") if name == "exe" else join(found) for name, found in names.items()}
    quoted = {name: encode(text) for name, text in texts.items() if name in ("exe", "comm", "key")}
    default = {"a2": "241"} if call == "openat" else {}
    lines = [write_call(2, call, default | texts | quoted)]
    if draft.is_command or draft.keywords:
        length = max(draft.arguments, default=-1) + 1
        arguments = [
            join(draft.arguments.get(place, [("is", "run" if place == 0 else "x")])) for place in range(length)
        ]
        lines += write_command(
            2, [*arguments, *(" ".join(draft.keywords).split(" ") if draft.keywords else [])] or ["run"]
        )
    for path in draft.paths:
        lines.append(
            _write_path(
                2,
                join_path(path.get("name", [("is", "/tmp/x")]), "/srv/x"),
                join(path.get("nametype", [("is", "NORMAL")])),
            )
        )
    return lines


def _write_other(kind: str, fields: dict[str, list[tuple[str, str]]]) -> str:
    told = " ".join(
        f"{name}={encode(join(found)) if name != 'unit' else join(found)}" for name, found in fields.items()
    )
    if kind == "TTY":
        return 'tty pid=700 uid=0 auid=1000 ses=3 major=136 minor=0 comm="bash" data=6C730D'
    more = 'comm="run" exe="/usr/bin/run" hostname=? addr=? terminal=? res=success'
    return f"pid=700 uid=0 auid=1000 ses=3 msg='{told} {more}'"
