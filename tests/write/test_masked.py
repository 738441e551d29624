"""No secret leaves the host with an alert; everything else does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.host.receiver import Receiver
from tests.write.conftest import make_process
from watchdogd.assembly import build_sinks
from watchdogd.config import Config, JournaldSettings
from watchdogd.masking import MASK
from watchdogd.ports import SystemClock
from watchdogd.webhook_settings import WebhookSettings
from watchdogd.write import masked as masked_module
from watchdogd.write.apprise_process import Notification, Result
from watchdogd.write.formats.ecs import alert_document
from watchdogd.write.journald import journal_fields
from watchdogd.write.masked import MOST_CHARS, Masker, cut_words, mask_alert, mask_lines

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


def test_what_is_too_long_is_cut_before_it_is_searched(make_alert: Callable[..., Alert]) -> None:
    long, secret = "ab " * 400_000, f" --password={S}"
    alert = make_alert(
        process=make_process(4000, *(["x"] * 400_000)),
        fields={"CommandLine": long + secret, "value": 3, "many": (long, 5)},
        lines=tuple(f"type=SYSCALL {HEAD} {'x=1 ' * 2000}" for _ in range(300)),
    )
    masked = mask_alert(alert)
    assert str(masked.fields["CommandLine"]).endswith("ab ...[cut, 1200021 characters in all]")
    assert masked.fields["value"] == 3
    assert masked.process is not None
    assert masked.process.argv[-1] == "...[cut, 400000 arguments in all]"
    assert masked.lines[-1] == "...[cut, 300 lines in all]"
    assert masked.lines[0] == alert.lines[0]
    assert len(msgspec.json.encode(masked)) < 1_000_000


def test_no_half_of_a_secret_is_left_where_a_text_is_cut() -> None:
    """An audit line is cut between its items: half of a value in hex could not be read, nor masked."""
    written = in_hex(f"mysql -p{S} " + "x" * 40_000)
    line = f"type=USER_CMD {HEAD} pid=1 cmd={written}"
    assert cut_words(line) == f"type=USER_CMD {HEAD} pid=1 ...[cut, {len(line)} characters in all]"
    assert cut_words("x" * MOST_CHARS) == "x" * MOST_CHARS
    assert len(cut_words("x" * 1_000_000)) < MOST_CHARS + 100


def test_an_alert_is_masked_once_for_all_sinks(
    make_alert: Callable[..., Alert], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def count(alert: Alert) -> Alert:
        asked.append(alert.id)
        return mask_alert(alert)

    monkeypatch.setattr(masked_module, "mask_alert", count)
    masker = Masker(2)
    alert = make_alert(matched={"CommandLine": f"x --password={S}"})
    again = msgspec.json.decode(msgspec.json.encode(alert), type=type(alert))
    assert masker.mask(alert) is masker.mask(again)
    assert asked == ["a1b2c3"]
    assert masker.mask(msgspec.structs.replace(alert, count=2)).count == 2
    assert len(asked) == 2
    masker.mask(make_alert(id="other"))
    assert masker.mask(alert) == mask_alert(alert)
    assert len(asked) == 4


async def test_every_sink_masks_unless_it_is_told_not_to(
    make_alert: Callable[..., Alert], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What each kind of sink that there is puts into words."""
    alert = make_alert(process=make_process(4000, "mysql", f"-p{S}", "db"), lines=(f"x --password={S}",))
    for is_masked in (True, False):
        said: list[str] = []

        async def keep(notification: Notification, _: object, said: list[str] = said) -> Result:
            said.append(notification.body)
            return Result("sent")

        monkeypatch.setattr("watchdogd.write.apprise_sink.run_notification", keep)
        monkeypatch.setattr("watchdogd.write.journald._send", lambda *given, said=said: said.append(str(given)))
        plain = WebhookSettings(name="a", format="apprise", notify_url="json://x", mask=is_masked)
        with Receiver() as receiver:
            webhook = WebhookSettings(name="b", url=receiver.url, mask=is_masked)
            config = Config(webhooks=(plain, webhook), journald=JournaldSettings(mask=is_masked))
            for sink in build_sinks(config, SystemClock()).values():
                await sink.send(alert, kind="alert", delivery_id="alert_1")
                await sink.close()
            said += [request.body.decode() for request in receiver.requests]
        assert len(said) == 3
        assert [S in one for one in said] == [not is_masked] * 3
