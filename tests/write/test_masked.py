"""No secret leaves the host with an alert; everything else does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.write.conftest import make_process
from watchdogd.masking import MASK
from watchdogd.write.formats.ecs import alert_document
from watchdogd.write.journald import journal_fields
from watchdogd.write.masked import mask_alert, mask_lines

if TYPE_CHECKING:
    from collections.abc import Callable

    from watchdogd.entities import Alert

S = "hunter2Zq"
HEAD = "msg=audit(1753000000.123:4567):"


def in_hex(text: str) -> str:
    return text.encode().hex().upper()


@pytest.fixture
def alert(make_alert: Callable[..., Alert]) -> Alert:
    argv = ("/usr/bin/sshpass", "-p", f"{S} {S}", "ssh", "h")
    parent = ("mysql", f"-p{S}", "db")
    return make_alert(
        process=make_process(4000, *argv),
        lineage=(make_process(3999, *parent),),
        fields={
            "CommandLine": " ".join(argv),
            "ParentCommandLine": " ".join(parent),
            "TargetFilename": "/etc/shadow",
            "value": 3,
            "many": (f"--token={S}", 5),
        },
        matched={"CommandLine": " ".join(argv), "Image": "/usr/bin/sshpass"},
        lines=(
            f'type=EXECVE {HEAD} argc=5 a0="/usr/bin/sshpass" a1="-p" a2={in_hex(f"{S} {S}")}',
            f'type=EXECVE {HEAD} a3="ssh" a4="h"',
            f"type=PROCTITLE {HEAD} proctitle={in_hex(f'sshpass{chr(0)}-p{chr(0)}{S} {S}{chr(0)}ssh{chr(0)}h')}",
        ),
    )


def test_nothing_that_leaves_holds_the_secret(alert: Alert) -> None:
    masked = mask_alert(alert)
    for said in (msgspec.json.encode(alert_document(masked)).decode(), str(journal_fields(masked, "alert"))):
        assert S not in said
        assert in_hex(S) not in said
        assert MASK in said
        assert "/etc/shadow" not in said or "ssh" in said
    assert masked.fields["TargetFilename"] == "/etc/shadow"
    assert masked.fields["value"] == 3
    assert masked.fields["many"] == (f"--token={MASK}", 5)
    assert masked.id == alert.id


def test_an_alert_without_secrets_stays_as_it_is(make_alert: Callable[..., Alert]) -> None:
    alert = make_alert()
    assert mask_alert(alert) == alert


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (f'type=EXECVE {HEAD} argc=2 a0="mysql" a1="-p{S}"', f'type=EXECVE {HEAD} argc=2 a0="mysql" a1="-p{MASK}"'),
        (
            f"type=USER_CMD {HEAD} pid=1 msg='cwd=\"/\" cmd={in_hex(f'mysql -p{S} db')} terminal=pts/0'",
            f"type=USER_CMD {HEAD} pid=1 msg='cwd=\"/\" cmd={in_hex(f'mysql -p{MASK} db')} terminal=pts/0'",
        ),
        (
            f'node=web1 type=PATH {HEAD} item=0 name="/srv/token={S}" nametype=NORMAL',
            f'node=web1 type=PATH {HEAD} item=0 name="/srv/token={MASK}" nametype=NORMAL',
        ),
        (f"a line of another source --password={S}", f"a line of another source --password={MASK}"),
        (f"type=SOCKADDR {HEAD} saddr=02000050C0000201", f"type=SOCKADDR {HEAD} saddr=02000050C0000201"),
    ],
)
def test_lines_are_masked_in_the_way_they_are_written(line: str, shown: str) -> None:
    assert mask_lines([line]) == (shown,)


def test_an_option_in_one_record_and_its_secret_in_the_next() -> None:
    lines = (f'type=EXECVE {HEAD} argc=3 a0="tool" a1="--password"', f'type=EXECVE {HEAD} a2="{S}"')
    assert mask_lines(lines)[1] == f'type=EXECVE {HEAD} a2="{MASK}"'


@given(st.lists(st.text(max_size=80)))
def test_lines_never_get_lost_and_masking_never_fails(texts: list[str]) -> None:
    lines = [f"type=EXECVE {HEAD} argc=1 a0={text}" for text in texts] + texts
    assert len(mask_lines(lines)) == len(lines)
