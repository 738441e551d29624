from __future__ import annotations

import grp
import pwd
import socket
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.decode.conftest import make_records
from watchdogd.decode import tables
from watchdogd.decode.record import AuditLine, Header, parse_header, split_stamp


def parse(data: bytes) -> AuditLine:
    header = parse_header(data)
    assert header is not None
    return AuditLine(header.type, make_records([data])[0], header.body_at)


def interpreted(data: bytes) -> dict[str, str]:
    return {name: value for name, _, value in parse(data).fields}


@pytest.mark.parametrize(
    ("prefix", "node"),
    [
        (b"", None),
        (b"node=web01 ", "web01"),
        (b"host=web01.example ", "web01.example"),
        (b"audispd: ", None),
        (b"audispd: node=n1 ", "n1"),
        (b"Nov  4 22:13:20 web01 audispd[77]: ", None),
        (b"<13>2023-11-14T22:13:20.000+00:00 web01 audisp-syslog: node=n ", "n"),
    ],
)
def test_prefixes(prefix: bytes, node: str | None) -> None:
    line = prefix + b"type=CWD msg=audit(1700000000.001:77): "
    assert parse_header(line + b'cwd="/"') == Header(node, b"1700000000.001:77", "CWD", len(line))


def test_the_kernel_s_own_form() -> None:
    line = parse(b'[   12.345678] audit: type=1400 audit(1700000000.001:7): apparmor="DENIED" profile="a b"')
    assert line.type == "AVC"
    assert line.pairs == [("apparmor", '"DENIED"'), ("profile", '"a b"')]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"----",
        b"type=UNKNOWN[1329] msg=?",
        b"type=SYSCALL msg=audit(02/06/2023 14:59:15.936:35597) : arch=x86_64",
        b"type=SYSCALL msg=audit(1700000000.001:4294967296): beyond 32 bits",
        b"someone: type=SYSCALL msg=audit(1700000000.001:1): a logged lie",
        b"Nov  4 22:13:20 web01 logger: type=SYSCALL msg=audit(1700000000.001:1): a logged lie",
        b"\xff" * 100,
    ],
)
def test_what_is_no_record(line: bytes) -> None:
    assert parse_header(line) is None


def test_stamps() -> None:
    assert split_stamp(b"1700000000.001:4294967295") == (1_700_000_000_001, 4_294_967_295)


def test_raw_values_stay_as_written() -> None:
    line = parse(b"type=PATH msg=audit(1.000:1): item=0 name=2F612062 inode=5 nametype=NORMAL\r")
    assert line.get("name") == "2F612062"
    assert line.get("absent") is None
    assert line.fields[1] == ("name", "2F612062", "/a b")
    assert line.fields[-1] == ("nametype", "NORMAL", "NORMAL")
    assert line.line.endswith(b"\r")


def test_repeated_names_stay_and_the_first_counts() -> None:
    line = parse(b"type=TIME_ADJNTPVAL msg=audit(1.000:1): op=freq old=1 new=2 old=3")
    assert [raw for name, raw, _ in line.fields if name == "old"] == ["1", "3"]
    assert line.get("old") == "1"


def test_nested_message_is_flat() -> None:
    line = parse(
        b"type=ADD_USER msg=audit(1.000:1): pid=9 uid=0 auid=1 ses=4 "
        b'msg=\'op=adding user to group acct="eve" exe="/usr/sbin/useradd" hostname=web01 addr=? res=success\''
        b'\x1dUID="root" AUID="alice"'
    )
    assert dict(line.pairs) == {
        "pid": "9",
        "uid": "0",
        "auid": "1",
        "ses": "4",
        "op": "adding user to group",
        "acct": '"eve"',
        "exe": '"/usr/sbin/useradd"',
        "hostname": "web01",
        "addr": "?",
        "res": "success",
    }
    assert {name: value for name, _, value in line.fields if name.endswith("uid")} == {"uid": "root", "auid": "alice"}


def test_bytes_that_are_not_utf8_survive_and_show() -> None:
    data = b'type=CWD msg=audit(1.000:1): cwd="/a\xff\x00b"'
    assert interpreted(data) == {"cwd": "/a\\xff\x00b"}
    assert parse(data).line == data


def test_hex_is_decoded_only_where_a_string_is_expected() -> None:
    values = interpreted(b"type=SYSCALL msg=audit(1.000:1): arch=c000003e a0=6361 exit=6361 comm=6361 exe=(null)")
    assert values == {"arch": "x86_64", "a0": "0x6361", "exit": "6361", "comm": "ca", "exe": "(null)"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("exit=-13", "EACCES(Permission denied)"),
        ("exit=-9999", "-9999"),
        ("auid=4294967295", "unset"),
        ("ses=4294967295", "unset"),
        ("uid=1000", "1000"),
        ("mode=0100644", "file,644"),
        ("mode=0106755", "file,suid,sgid,755"),
        ("mode=041777", "dir,sticky,777"),
        ("mode=garbage", "garbage"),
        ("res=1", "yes"),
        ("sig=31", "SIGSYS"),
        ("pp=0000000000003000", "net_admin,net_raw"),
        ("pp=0", "none"),
        ("pp=zz", "zz"),
        ("saddr=020000357F0001010000000000000000", "{ saddr_fam=inet laddr=127.0.1.1 lport=53 }"),
        ("saddr=000200357F0001010000000000000000", "{ saddr_fam=inet laddr=127.0.1.1 lport=53 }"),
        ("saddr=0A000016000000000000000000000000000000000000000000000000", "{ saddr_fam=inet6 laddr=:: lport=22 }"),
        ("saddr=01002F72756E2F7800", "{ saddr_fam=local path=/run/x }"),
        ("saddr=0100002F72756E", "{ saddr_fam=local path=@/run }"),
        ("saddr=100000000000000000000000", "{ saddr_fam=netlink nlnk-fam=16 nlnk-pid=0 }"),
        ("saddr=02", "02"),
        ("saddr=nonsense", "nonsense"),
        ("proctitle=636174002F6574632F736861646F77", "cat /etc/shadow"),
        ("list=4", "exit"),
        ("perm=6", "read,write"),
        ("perm=0", "read,write,exec,attr"),
        ("capability=21", "sys_admin"),
        ("capability=99", "99"),
        ("code=0x7ffc0000", "log"),
        ("code=0x00050001", "errno"),
        ("family=10", "ipv6"),
        ("hook=1", "INPUT"),
        ("action=1", "DROP"),
        ("proto=17", "udp"),
        ("prom=256", "yes"),
        ("old_prom=0", "no"),
        ("resp=2", "deny"),
        ("resolve=0x8", "RESOLVE_BENEATH"),
        ("flags=0x22", "MAP_PRIVATE|MAP_ANONYMOUS"),
        ("oflag=0x42", "O_RDWR|O_CREAT"),
        ("oflag=0102", "O_RDWR|O_CREAT"),
        ("oflag=none", "none"),
        ("arch=40000028", "arm"),
        ("arch=28", "armeb"),
        ("arch=c00000f3", "riscv64"),
        ("arch=deadbeef", "deadbeef"),
        ("code=0x80000000", "kill-process"),
        ("per=40008", "PER_LINUX32|ADDR_NO_RANDOMIZE"),
        ("per=zz", "zz"),
        ("ioctlcmd=0x5412", "TIOCSTI"),
        ("ioctlcmd=zz", "zz"),
        ("macproto=0x0800", "IP"),
        ("macproto=86dd", "86dd"),
        ("unit=CAFE", "CAFE"),
        ("a0=2", "0x2"),
        ('family="inet"', "inet"),
        ('flags="rw, bind"', "rw, bind"),
        ("spi=5(0x5)", "5(0x5)"),
        (
            "saddr=0A00001600000000" + "0" * 20 + "FFFF0A00000100000000",
            "{ saddr_fam=inet6 laddr=::ffff:10.0.0.1 lport=22 }",
        ),
        ("saddr=0200", "{ saddr_fam=inet sockaddr len too short }"),
        ("saddr=0A000016", "{ saddr_fam=inet6 sockaddr6 len too short }"),
        ("saddr=1000", "{ saddr_fam=netlink len too short }"),
        ("saddr=0000", "unknown-family(0)"),
        ("saddr=FF7F", "unknown-family(32767)"),
        ("saddr=28000000010203040200000000000000", "{ saddr_fam=vsock (unsupported) }"),
        ("saddr=0300414243444546470000000000000000", "{ saddr_fam=ax25 call=ABCDEFG }"),
        ("saddr=09003132333400000000000000000000", "{ saddr_fam=x25 laddr=1234 }"),
        ("saddr=0008000000070000", "{ saddr_fam=atmpvc int=7 }"),
        ("cgroup=2F612062", "/a b"),
        ("result=0", "no"),
        ("saddr=001000000000002A00000001", "{ saddr_fam=netlink nlnk-fam=16 nlnk-pid=42 }"),
    ],
)
def test_interpretation(field: str, value: str) -> None:
    assert interpreted(f"type=TEST msg=audit(1.000:1): {field}".encode()) == {field.partition("=")[0]: value}


def test_keys_that_the_kernel_joined() -> None:
    line = parse(b"type=SYSCALL msg=audit(1.000:1): key=65786563013634626974")
    assert line.fields == (("key", "65786563013634626974", "exec"), ("key", "65786563013634626974", "64bit"))


@pytest.mark.parametrize("body", [b"a1[0]=" + b"AB" * 500_000, b"X" * 1_000_000, b'a="' * 300_000, b"= " * 500_000])
def test_a_line_of_a_megabyte_takes_linear_time(body: bytes) -> None:
    started = time.process_time()
    for kind in (b"EXECVE", b"USER_CMD"):
        assert parse(b"type=" + kind + b" msg=audit(1.000:1): " + body).fields is not None
    assert time.process_time() - started < 20  # a quadratic search takes hours


@given(st.binary(max_size=300))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    parse_header(data)
    for kind in (b"SYSCALL", b"EXECVE", b"AVC", b"USER_CMD", b"SOCKADDR", b"UNKNOWN[77]"):
        line = parse(b"type=" + kind + b" msg=audit(1.000:1): " + data)
        for triple in line.fields:
            assert all(char < "\udc80" or char > "\udfff" for part in triple for char in part)
        assert line.enriched is not None


@given(
    st.lists(
        st.tuples(
            st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True),
            st.from_regex(r'[^ "\x1d\r\n=]{0,12}', fullmatch=True),
        ),
        max_size=12,
    )
)
def test_fields_come_back_as_they_were_written(pairs: list[tuple[str, str]]) -> None:
    body = " ".join(f"{name}={value}" for name, value in pairs)
    assert parse(b"type=PATH msg=audit(1.000:1): " + body.encode()).pairs == pairs


@pytest.mark.parametrize(
    ("line", "name", "raw", "meaning"),
    [
        ("MQ_OPEN oflag=0x42 mode=04755 mq_flags=0x0", "mode", "04755", "suid,0755"),
        ("CRYPTO_KEY_USER msg='op=destroy fp=c0ffee direction=?'", "fp", "c0ffee", "c0ffee"),
        ("NETFILTER_PKT mark=0x1 saddr=10.0.0.1", "saddr", "10.0.0.1", "10.0.0.1"),
        ("AVC avc:  denied  { x } for  saddr=0200 tclass=socket", "saddr", "0200", "0200"),
        ("DM_CTRL module=crypt error_msg='Device lookup failed' res=0", "error_msg", "'Device lookup failed'",
         "Device lookup failed"),
        ("DM_CTRL module=crypt error_msg='success' res=1", "res", "1", "yes"),
        ("TRUSTED_APP command=6C73202D6C version=12", "command", "6C73202D6C", "ls -l"),
        ("TRUSTED_APP command=6C73202D6C version=12", "version", "12", "12"),
        ("SOCKETCALL nargs=3 a0=2 a1=1 a2=10", "a2", "10", "0x10"),
        ("EXECVE argc=1 a0=10", "a0", "10", "\x10"),
        ("EVENT_LISTENER nl-mcgrp=1 op=connect res=1", "nl-mcgrp", "1", "audit-netlink-multicast"),
    ],
)  # fmt: skip
def test_what_a_name_means_in_one_type(line: str, name: str, raw: str, meaning: str) -> None:
    kind, _, body = line.partition(" ")
    fields = parse(f"type={kind} msg=audit(1.000:1): {body}".encode()).fields
    assert (name, raw, meaning) in fields


ENRICHED = '\x1dARCH=loongarch128 SYSCALL=newcall AUID="alice"'


def test_what_the_tables_lack_the_recording_host_may_have_known() -> None:
    values = interpreted(b"type=SYSCALL msg=audit(1.000:1): arch=c0000fff syscall=999 auid=5" + ENRICHED.encode())
    assert values == {"arch": "loongarch128", "syscall": "newcall", "auid": "alice"}
    known = interpreted(b"type=SYSCALL msg=audit(1.000:1): arch=c000003e syscall=59 auid=5" + ENRICHED.encode())
    assert known == {"arch": "x86_64", "syscall": "execve", "auid": "alice"}
    unknown = b"type=SYSCALL msg=audit(1.000:1): arch=c000003e syscall=999 auid=5\x1dSYSCALL=unknown-syscall(999)"
    assert interpreted(unknown)["syscall"] == "999"


def test_values_do_not_depend_on_the_machine_that_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, function in (
        (pwd, "getpwuid"),
        (grp, "getgrgid"),
        (socket, "getservbyport"),
        (socket, "getnameinfo"),
    ):
        monkeypatch.setattr(module, function, lambda *_: pytest.fail("asked this machine"))
    values = interpreted(
        b"type=SYSCALL msg=audit(1.000:1): arch=c000003e syscall=92 a0=7ffd a1=0 a2=0 auid=0 uid=0 gid=0 ouid=0"
    )
    assert (values["a1"], values["auid"], values["uid"], values["gid"], values["ouid"]) == ("0",) * 5
    assert interpreted(b"type=NETFILTER_PKT msg=audit(1.000:1): proto=6 saddr=10.0.0.1") == {
        "proto": "tcp",
        "saddr": "10.0.0.1",
    }


def test_every_type_is_read_by_name_by_number_and_as_unknown() -> None:
    known = tables.load_tables().types
    assert len(known) > 200
    for number, name in known.items():
        for written in (name, number, f"UNKNOWN[{number}]"):
            line = parse(f"type={written} msg=audit(1.000:1): auid=5 msg='op=a b acct=\"x\" res=success'".encode())
            assert line.type == name
            assert line.get("auid") == "5"
