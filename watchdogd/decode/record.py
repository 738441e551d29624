"""One audit line: its header at once, its fields only when somebody asks for them.

Format: audit-userspace's "Linux Audit record format"; fields follow as `name=value`, where the kernel and libaudit
write a string that anybody could have chosen either in double quotes or as upper-case hex (when it holds a quote,
a space or a byte outside 0x21..0x7e).
"""

from __future__ import annotations

import functools
import re
from typing import Final, NamedTuple

import msgspec

from watchdogd.decode import tables
from watchdogd.decode.interpret import interpret_fields, read_enriched, split_body
from watchdogd.decode.pieces import cut_path, read_alone
from watchdogd.decode.words import look_up_fields
from watchdogd.entities import FieldTriple, Position, Record  # noqa: TC001 - msgspec reads annotations at run time

Pair = tuple[str, str]
"""Name and raw value of one field."""

MAX_SERIAL: Final = 2**32 - 1

_STAMP = rb"audit\(([0-9]{1,11}\.[0-9]{1,3}:[0-9]{1,10})\)[: ]*"
match_plain_header: Final = re.compile(rb"(type=[A-Z0-9_]++) msg=" + _STAMP).match
"""The usual header of a line that auditd wrote; groups are `type=X` and stamp. For the hot loop."""

_ANY: Final = re.compile(
    rb"(?:<[0-9]{1,3}>)?"  # syslog priority
    rb"(?:(?:[A-Z][a-z]{2} [ 0-9][0-9] [0-9:]{8} |[0-9]{4}-[0-9]{2}-[0-9]{2}T[^ ]{1,40} )"  # syslog time
    rb"(?:[^ =:]{1,255} )??)?"  # and host
    rb"(?:(?:kernel|auditd|audispd|audisp-syslog|audit)(?:\[[0-9]+\])?: )?"
    rb"(?:\[ *[0-9]+\.[0-9]+\] )?"  # printk time
    rb"(?:audit(?:\[[0-9]+\])?: )?"  # printk prefix
    rb"(?:(?:node|host)=([^ ]{1,255}) )?"
    rb"type=([A-Z0-9_]+(?:\[[0-9]+\])?) (?:msg=)?" + _STAMP
)
"""Every other form that a record reaches a file in."""

_FIELD: Final = re.compile(r'(?<![^ ])([^ =]++)=("[^"]*+"|[^ ]*+)')
"""A key starts only after a space, so that the search stays linear whatever the line holds."""

_TOKEN: Final = re.compile(r'([^ =]++)(=?+)("[^"]*+"|[^ ]*+)')
"""As _FIELD, but words without a value come too."""

_TOKEN_SINGLE: Final = re.compile(r"""([^ =]++)(=?+)("[^"]*+"|'[^']*+'|[^ ]*+)""")
_SINGLE_QUOTING: Final = frozenset({"DM_CTRL", "DM_EVENT"})
"""The device mapper writes `error_msg='...'`, with spaces."""

_NESTED: Final = re.compile(r"(?<![^ ])msg='")

_PLAIN_BODIES: Final = frozenset(
    {"SYSCALL", "PATH", "CWD", "EXECVE", "PROCTITLE", "SOCKADDR", "BPRM_FCAPS", "EOE", "OBJ_PID", "MMAP"}
)
"""Types that the kernel writes as fields and nothing else."""

_AVC_TYPES: Final = frozenset({"AVC", "USER_AVC", "SELINUX_ERR", "USER_SELINUX_ERR"})
_OLD_STYLE_SUBJECTS: Final = frozenset({"auid", "ses", "role", "level"})


class Header(NamedTuple):
    """What the first bytes of a line say: which event it belongs to and what it is."""

    node: str | None
    stamp: bytes
    """`SEC.MILLI:SERIAL` as written; together with the node it names the event."""
    type: str
    body_at: int


class AuditLine(msgspec.Struct, gc=False, eq=False):
    """One record of an event; implements `entities.AuditRecord`. Fields are parsed once, at the first question."""

    type: str
    record: Record
    body_at: int
    pairs_cache: list[Pair] | None = None
    values_cache: dict[str, str] | None = None
    fields_cache: tuple[FieldTriple, ...] | None = None
    pieces_cache: tuple[bytes, ...] | None = None
    """Left by whoever has cut the line for a purpose of his own."""

    @property
    def line(self) -> bytes:
        """The original line."""
        return self.record.data

    @property
    def position(self) -> Position | None:
        """Where the line stood."""
        return self.record.position

    @property
    def pairs(self) -> list[Pair]:
        """Name and raw value of every field in order, nested `msg='...'` flattened."""
        if self.pairs_cache is None:
            self.pairs_cache = _parse_body(self.type, self._split()[0])
        return self.pairs_cache

    @property
    def values(self) -> dict[str, str]:
        """Raw values by name; the first of a name counts."""
        if self.values_cache is None:
            pairs = self.pairs
            values = dict(pairs)
            if len(values) != len(pairs):
                values = dict(reversed(pairs))
            self.values_cache = values
        return self.values_cache

    @property
    def enriched(self) -> dict[str, str]:
        """What auditd resolved on the recording host, by upper-case name, without quotes."""
        return read_enriched(self._split()[1])

    @property
    def fields(self) -> tuple[FieldTriple, ...]:
        """Every field in order with its interpreted value; repeated names stay."""
        if self.fields_cache is None:
            found = None
            if self.type in _PLAIN_BODIES:
                found = look_up_fields(self.type, self.record.data[self.body_at :])
            self.fields_cache = found or interpret_fields(self.type, self.pairs, self.enriched)
        return self.fields_cache

    @property
    def pieces(self) -> tuple[bytes, ...]:
        """Parts of the body that may come again, each of which can be read alone."""
        pieces = self.pieces_cache
        if pieces is None:
            data = self.record.data
            if self.type == "PATH":
                pieces = self.pieces_cache = cut_path(data, self.body_at)
            else:
                pieces = self.pieces_cache = (data[self.body_at :],) if data.startswith(b"type=") else ()
        return pieces

    @property
    def body(self) -> bytes:
        """All behind the header, where that is the usual one."""
        data = self.record.data
        return data[self.body_at :] if data.startswith(b"type=") else b""

    def may_have(self, name: str) -> bool:
        """False only where there surely is no field of that name, in upper or lower case."""
        if self.type not in _PLAIN_BODIES:
            return True
        data = self.record.data
        if name.isupper():
            return not data.isascii() or _write_name(name) in data.lower()
        return _write_name(name) in data

    def read_piece(self, piece: bytes) -> tuple[FieldTriple, ...] | None:
        """The fields of one of them; None where they do not stand alone."""
        if self.type not in _PLAIN_BODIES:
            return self.fields
        if self.type != "SYSCALL" and (found := look_up_fields(self.type, piece)) is not None:
            return found
        text, enriched = split_body(piece)
        return read_alone(self.type, piece, _parse_body(self.type, text), read_enriched(enriched))

    def get(self, name: str) -> str | None:
        """Raw value of the first field of that name, quotes and hex as written, None where absent."""
        return self.values.get(name)

    def _split(self) -> tuple[str, str]:
        return split_body(self.record.data[self.body_at :])


@functools.lru_cache(maxsize=1024)
def _write_name(name: str) -> bytes:
    """How a field begins in the line, in lower case where the name is not."""
    if "\\" in name:
        return b"="  # an escaped byte, perhaps
    return f"{name.lower() if name.isupper() else name}=".encode("utf-8", "surrogatepass")


def escape_bytes(data: bytes) -> str:
    r"""Text of bytes from a watched host: what is not UTF-8 is written `\xNN`."""
    return data.decode("utf-8", "backslashreplace")


def parse_header(data: bytes) -> Header | None:
    """Header of a line in any form that audit records are passed on in, None where it is no audit record.

    Known forms: auditd's own, `node=`/`host=` in front, syslog's and the dispatcher's prefixes, and the kernel's
    printk (`audit: type=1400 audit(...)`).
    """
    found = _ANY.match(data)
    if found is None:
        return None
    node, name, stamp = found.groups()
    if int(stamp[stamp.index(b":") + 1 :]) > MAX_SERIAL:
        return None
    return Header(
        node=escape_bytes(node) if node is not None else None,
        stamp=stamp,
        type=tables.name_type(name.decode("ascii")),
        body_at=found.end(),
    )


def split_stamp(stamp: bytes) -> tuple[int, int]:
    """Milliseconds since the epoch and serial of a header's stamp."""
    time, _, serial = stamp.partition(b":")
    if time[-4:-3] == b".":
        return int(time.replace(b".", b"")), int(serial)
    seconds, _, milli = time.partition(b".")
    return int(seconds) * 1000 + int(milli), int(serial)


def _parse_body(kind: str, text: str) -> list[Pair]:
    if kind in _PLAIN_BODIES:
        pairs: list[Pair] = _FIELD.findall(text)
        return pairs
    return _parse_loose_body(kind, text)


def _parse_loose_body(kind: str, text: str) -> list[Pair]:
    """Bodies that programs wrote: nested `msg='...'`, words between the fields, punctuation after values."""
    nested = _NESTED.search(text)
    if nested is not None:
        text = text[: nested.start()] + text[nested.end() :].rstrip().removesuffix("'")
    pairs: list[Pair] = []
    if kind in _AVC_TYPES:
        text = _take_avc_verdict(text, pairs)
    previous = ""
    for name, sign, value in (_TOKEN if kind not in _SINGLE_QUOTING else _TOKEN_SINGLE).findall(text):
        if sign:
            pairs.append((_clean_name(name, previous), _clean_value(value)))
        elif pairs and pairs[-1][0] == "op" and not pairs[-1][1].startswith('"'):
            pairs[-1] = ("op", f"{pairs[-1][1]} {name}")
        previous = name if not sign else ""
    return pairs


def _clean_name(name: str, previous: str) -> str:
    name = name.lstrip("('{")
    if previous == "old" and name in _OLD_STYLE_SUBJECTS:
        return f"old-{name}"  # RHEL 6: `old auid=1 new auid=2`
    return name


def _clean_value(value: str) -> str:
    if value.startswith(('"', "'")) or value in {"(none)", "(null)"}:
        return value
    return value.rstrip(",:;'" if "(" in value else ",:;)'")


def _take_avc_verdict(text: str, pairs: list[Pair]) -> str:
    """SELinux leaves two fields unnamed: `avc:  denied  { read write } for `; auparse's names are used."""
    verdict, brace, rest = text.partition("{")
    permissions, closing, tail = rest.partition("}")
    words = verdict.split()
    if not (brace and closing and words) or "=" in words[-1]:
        return text
    pairs.append(("seresult", words[-1]))
    pairs.append(("seperms", ",".join(permissions.split())))
    return " ".join(word for word in words if "=" in word) + tail
