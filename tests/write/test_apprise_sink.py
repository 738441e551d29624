"""The apprise sink: real apprise, in a real process of its own, against a real receiver."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.host.receiver import HANG, Fault, Receiver
from tests.write.certificates import make_certificates
from tests.write.conftest import build_alert
from tests.write.formats.made import VERDICT, make_hostile
from tests.write.nasty import NASTY
from watchdogd.assembly import build_sinks, choose_terms
from watchdogd.cli.check import Report, examine, render
from watchdogd.config import Config, describe, load_config
from watchdogd.errors import ConfigError, DeliveryError
from watchdogd.ports import SystemClock
from watchdogd.webhook_settings import WebhookSettings
from watchdogd.write.apprise_process import Result
from watchdogd.write.apprise_sink import AppriseSink, choose_environment, complain_service
from watchdogd.write.formats.plain import build_plain

if TYPE_CHECKING:
    from pathlib import Path

    from watchdogd.entities import Alert


def make_sink(receiver: Receiver | None, url: str = "", **changes: object) -> AppriseSink:
    scheme, _, rest = receiver.url.partition("://") if receiver is not None else ("", "", "")
    address = url or f"{'jsons' if scheme == 'https' else 'json'}://{rest}"
    chosen = {"name": "own", "format": "apprise", "notify_url": address, "timeout_s": 30.0} | changes
    return AppriseSink(WebhookSettings(**chosen))  # type: ignore[arg-type]


async def fail(sink: AppriseSink, alert: Alert | None = None) -> DeliveryError:
    with pytest.raises(DeliveryError) as caught:
        await sink.send(alert or build_alert(), kind="alert", delivery_id="alert_1")
    assert "token-abc123" not in str(caught.value)
    assert "127.0.0.1" not in str(caught.value)
    return caught.value


async def test_an_alert_arrives() -> None:
    with Receiver() as receiver:
        await make_sink(receiver).send(build_alert(verdict=VERDICT), kind="alert", delivery_id="alert_1")
        [request] = receiver.requests
    assert request.path == "/hook/token-abc123"
    assert request.document["title"] == "high: Shadow file read"
    assert request.document["type"] == "failure"
    assert request.document["message"].splitlines()[0].startswith("root (login alice) ran")
    assert "Verdict: malicious 87%" in request.document["message"]
    assert "apprise" not in sys.modules


@pytest.mark.parametrize(("status", "is_recoverable"), [(500, True), (403, False)])
async def test_what_the_service_answers_decides(status: int, *, is_recoverable: bool) -> None:
    with Receiver(Fault(status=status)) as receiver:
        error = await fail(make_sink(receiver))
    assert error.recoverable is is_recoverable
    assert str(error) == f"webhook own: answered {status}"


@pytest.mark.parametrize(
    ("statuses", "is_recoverable"),
    [((), True), ((429,), True), ((408,), True), ((404,), False), ((400, 410), False), ((400, 503), True)],
)
def test_one_target_that_may_take_it_later_is_enough(statuses: tuple[int, ...], *, is_recoverable: bool) -> None:
    with pytest.raises(DeliveryError) as caught:
        make_sink(None, "json://x")._judge(Result("refused", statuses))
    assert caught.value.recoverable is is_recoverable


def test_apprise_that_is_missing_may_be_installed_later() -> None:
    with pytest.raises(DeliveryError, match="pip install") as caught:
        make_sink(None, "json://x")._judge(Result("missing"))
    assert caught.value.recoverable


async def test_who_is_not_there_is_tried_again() -> None:
    error = await fail(make_sink(None, "json://127.0.0.1:9/token-abc123"))
    assert error.recoverable
    assert "did not take it" in str(error)


async def test_a_service_that_hangs_is_left_and_its_process_killed() -> None:
    with Receiver(HANG) as receiver:
        sink = make_sink(receiver, f"json://127.0.0.1:{receiver.port}/?rto=60", timeout_s=2.0)
        begun = time.monotonic()
        error = await fail(sink)
        assert time.monotonic() - begun < 30
    assert (str(error), error.recoverable) == ("webhook own: no answer within 2 s", True)


async def test_a_url_of_no_service_is_given_up() -> None:
    error = await fail(make_sink(None, "nosuch://token-abc123"))
    assert (str(error), error.recoverable) == ("webhook own: apprise knows no service of its URL", False)


async def test_an_own_authority_is_believed(tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    with Receiver(certificate=made.server) as receiver:
        sink = make_sink(receiver, ca_file=str(made.authority))
        await sink.send(build_alert(), kind="alert", delivery_id="alert_1")
        assert len(receiver.requests) == 1


def test_no_proxy_but_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://other.example.org")
    plain = WebhookSettings(name="own", format="apprise")
    assert "HTTPS_PROXY" not in choose_environment(plain)
    chosen = msgspec.structs.replace(plain, proxy="http://proxy.example.org:3128")
    assert choose_environment(chosen)["HTTPS_PROXY"] == "http://proxy.example.org:3128"


async def test_nasty_text_arrives_as_text() -> None:
    text = "".join(NASTY[name] for name in ("every byte", "bytes that are no UTF-8", "json") if name in NASTY)
    with Receiver() as receiver:
        await make_sink(receiver).send(make_hostile(text + "<!channel> @everyone"), kind="alert", delivery_id="x")
        [request] = receiver.requests
    message = request.document["message"]
    assert "@everyone" not in message
    assert "<!channel>" not in message
    assert "\\x00" in message


@settings(max_examples=60)
@given(st.text(max_size=3000) | st.sampled_from(["@everyone", "<!channel>", "\x00", "\udcff", "a" * 100_000]))
def test_a_plain_message_is_bounded_and_mentions_nobody(text: str) -> None:
    title, body = build_plain(make_hostile(text), "alert")
    assert len(title.encode()) <= 250
    assert len(body.encode()) <= 4000
    assert not {"@everyone", "<!channel>"} & set((title + body).split())
    assert len(title.splitlines()) == 1
    assert all(ord(char) >= 32 for char in body.replace("\n", ""))


# Settings.


def write(folder: Path, text: str, url: str = "json://token-abc123.example.org/x") -> Path:
    (folder / "own.url").write_text(f"{url}\n")
    (folder / "own.url").chmod(0o600)
    path = folder / "config.yaml"
    path.write_text(f"webhooks: [{{name: own, format: apprise, {text}}}]\n")
    return path


def test_the_url_is_a_secret_as_a_whole(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "url_file: own.url"), environ={})
    [webhook] = config.webhooks
    assert webhook.notify_url == "json://token-abc123.example.org/x"
    for shown in (repr(config), str(describe(config)), repr(webhook)):
        assert "token-abc123" not in shown
        assert "***" in shown
    assert complain_service(webhook) is None


def test_one_process_at_a_time(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "url_file: own.url, max_in_flight: 8"), environ={})
    assert isinstance(build_sinks(config, SystemClock())["own"], AppriseSink)
    assert choose_terms(config)["own"].at_once == 1
    assert choose_terms(Config(webhooks=(WebhookSettings(name="a"),)))["a"].at_once == 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("url: 'https://example.org'", "whose URLs are secrets"),
        ("url: 'tgram://x/y'", "must begin with http"),
        ("url_file: nowhere", "does not exist"),
    ],
)
def test_a_url_from_elsewhere_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config(write(tmp_path, text), environ={})


def test_what_is_no_url_is_refused_and_not_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds is no URL") as caught:
        load_config(write(tmp_path, "url_file: own.url", "token-abc123"), environ={})
    assert "token-abc123" not in str(caught.value)


def test_settings_that_mean_nothing_to_it_are_named(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "url_file: own.url, headers: {X-Group: web}"), environ={})
    assert ["headers is not used" in problem.message for problem in config.warnings] == [True]


def test_check_says_where_apprise_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "url_file: own.url")
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ConfigError) as caught:
        load_config(path, environ={})
    [problem] = caught.value.problems
    assert (problem.place.line, problem.place.column) == (1, 32)
    assert "apprise is not installed" in problem.message
    assert "pip install 'watchdogd[apprise]'" in problem.hint


def test_check_shows_nothing_of_the_url(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "url_file: own.url"), environ={})
    report = Report(config, (), (), None, (), None, is_config_usable=True)
    shown = "\n".join(render(report))
    assert "own: by apprise, to what own.url holds, from low up" in shown
    assert "token-abc123" not in shown


@pytest.mark.slow
def test_check_says_where_apprise_knows_no_such_service(tmp_path: Path) -> None:
    path = write(tmp_path, "url_file: own.url", "nosuch://token-abc123/x")
    rules = tmp_path / "rules"
    rules.mkdir()
    report = examine(path, [rules], tmp_path, {})
    [problem] = [one for one in report.problems if one.place.path == str(path)]
    assert problem.message == "webhooks[0]: apprise knows no service of its URL"
    assert problem.place.line == 1
