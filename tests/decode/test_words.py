"""The quick way to the fields of a record and the general one agree, whatever the record holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.decode.conftest import make_records
from watchdogd.decode.interpret import interpret_fields
from watchdogd.decode.record import AuditLine, parse_header
from watchdogd.decode.words import look_up_fields

if TYPE_CHECKING:
    from pathlib import Path

CALL = "arch=c000003e syscall={} success=yes exit=3 a0=ffffff9c a1={} a2={} a3={} items=1 ppid=1 pid=2"
SUBJECT = 'auid=1000 uid=0 gid=0 tty=pts0 ses=3 comm="cat" exe="/usr/bin/cat" key="files"'
WORDS = st.sampled_from(
    [
        *(
            "auid=1000",
            "uid=0",
            "arch=c000003e",
            "arch=40000003",
            "syscall=2",
            "syscall=257",
            "a0=1",
            "a2=41",
            "a3=1a4",
        ),
        *("success=yes", "exit=-13", "key=(null)", 'key="a"', "key=6101620163", 'name="/a b"', 'name="', "name=2F61"),
        *("", "x", "=", "mode=0100644", "item=0", "\x1d", '\x1dUID="root"', 'AUID="alice"', "a1=0", "argc=2", "res=1"),
    ]
)


def check(kind: str, body: bytes) -> bool:
    """True where the quick way was gone."""
    line = f"type={kind} msg=audit(1.000:1): ".encode() + body
    header = parse_header(line)
    assert header is not None
    record = AuditLine(header.type, make_records([line])[0], header.body_at)
    general = interpret_fields(record.type, record.pairs, record.enriched)
    assert record.fields == general
    return look_up_fields(record.type, line[header.body_at :]) is not None


@pytest.mark.parametrize("kind", ["SYSCALL", "PATH", "EXECVE", "CWD"])
@given(st.lists(WORDS, max_size=14))
def test_any_words_in_any_order(kind: str, words: list[str]) -> None:
    check(kind, " ".join(words).encode())


@given(
    st.sampled_from(["0", "12", "1234567890", "", "x"]),
    st.one_of(
        st.sampled_from(['"/tmp/x"', '""', '"a', '"a b"', "2F61", "(null)", '"\xff"', '"a"b"']), st.text('/"=a\x1d é')
    ),
    st.sampled_from(["7", "", "7a", "7\r"]),
    st.lists(WORDS, max_size=6),
)
def test_paths(item: str, name: str, inode: str, words: list[str]) -> None:
    for end in ("", "\r", '\x1dOUID="root"', '\x1dNAME="root" ITEM="9" INODE="8"', " "):
        check("PATH", " ".join([f"item={item} name={name} inode={inode}", *words]).encode() + end.encode())
    check("PATH", f'item={item} name="'.encode() + b'\xff\xc3" inode=7 dev=00:2f')


@given(
    st.sampled_from(["2", "257", "59", "90", "101", "9", "54", "72", "157", "999"]),
    st.tuples(*[st.sampled_from(["0", "41", "241", "80042", "7ffd1234", "zz"])] * 3),
    st.sampled_from(["", '\x1dUID="root" AUID="alice"', " x"]),
)
def test_syscalls_and_their_arguments(number: str, arguments: tuple[str, ...], end: str) -> None:
    check("SYSCALL", f"{CALL.format(number, *arguments)} {SUBJECT}{end}".encode())


@given(st.sampled_from(["102", "117", "5", "11"]), st.tuples(*[st.sampled_from(["0", "3", "17", "241", "zz"])] * 3))
def test_syscalls_of_i386(number: str, arguments: tuple[str, ...]) -> None:
    text = CALL.replace("c000003e", "40000003").replace("ffffff9c", arguments[0])
    check("SYSCALL", f"{text.format(number, *arguments)} {SUBJECT}".encode())


def test_the_usual_records_go_the_quick_way() -> None:
    assert check("SYSCALL", f"{CALL.format(257, 0, 241, '1a4')} {SUBJECT}".encode())
    assert check("CWD", b'cwd="/root"')
    assert check("PATH", b'item=0 name="/etc/shadow" inode=7 nametype=NORMAL')


@pytest.mark.parametrize(
    "body",
    [
        b'cwd="/a b"',
        b"cwd=",
        b'arch=c000003e syscall=2 a0=1\x1dUID="x" auid=5 uid=0',
        b"arch=c000003e syscall=2 auid=1 a1=41 a2=1a4",
        b'arch=c000003e syscall=2 uid=0 auid=1\x1dUID="root"',
        b"auid=0 arch=c000003e syscall=2 a1=41 a2=1a4",
    ],
)
def test_what_is_not_usual(body: bytes) -> None:
    for kind in ("SYSCALL", "CWD", "PATH"):
        check(kind, body)


def test_all_recorded_records(corpora: Path) -> None:
    quick = records = 0
    for line in (corpora / "recorded" / "mixed.log").read_bytes().split(b"\n")[::7]:
        header = parse_header(line)
        if header is not None:
            quick += check(header.type, line[header.body_at :])
            records += 1
    assert records > 1000
    assert quick / records > 0.9
