"""The webhook sink against a real receiver, which answers, refuses, resets, hangs and drips."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import logging
import shutil
import socket
import ssl
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.host.receiver import CUT, DRIP, HANG, RESET, Fault, Receiver
from tests.write.certificates import Certificates, make_certificates
from tests.write.conftest import make_process
from watchdogd.errors import DeliveryError
from watchdogd.webhook_settings import WebhookSettings
from watchdogd.write.webhook import KIND_HEADER, WebhookSink, parse_retry_after, sign_message

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from watchdogd.entities import Alert

NOW_MS = 1_753_000_000_000


class FixedClock:
    def now_ms(self) -> int:
        return NOW_MS

    def monotonic_s(self) -> float:
        return 0.0


@contextlib.asynccontextmanager
async def open_sink(url: str, **changes: object) -> AsyncIterator[WebhookSink]:
    settings = WebhookSettings(**({"name": "ops", "url": url, "timeout_s": 5.0} | changes))  # type: ignore[arg-type]
    sink = WebhookSink(settings, FixedClock())
    try:
        yield sink
    finally:
        await sink.close()


async def send_expecting_error(url: str, alert: Alert, **changes: object) -> DeliveryError:
    async with open_sink(url, **changes) as sink:
        with pytest.raises(DeliveryError) as caught:
            await sink.send(alert, kind="alert", delivery_id="alert_1")
    assert "token-abc123" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    return caught.value


async def test_the_document_arrives_signed(make_alert: Callable[..., Alert]) -> None:
    key = b"0123456789abcdef0123456789abcdef"
    secret = "whsec_" + base64.b64encode(key).decode()
    with Receiver() as receiver:
        async with open_sink(receiver.url, secret=secret, headers={"Authorization": "Bearer x"}) as sink:
            await sink.send(make_alert(), kind="verdict", delivery_id="verdict_a1b2c3")
        [request] = receiver.requests
    assert request.path == "/hook/token-abc123"
    assert request.document["watchdogd"]["alert_id"] == "a1b2c3"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["authorization"] == "Bearer x"
    assert request.headers[KIND_HEADER.lower()] == "verdict"
    assert request.headers["webhook-id"] == "verdict_a1b2c3"
    assert request.headers["webhook-timestamp"] == "1753000000"
    signed = b"verdict_a1b2c3.1753000000." + request.body
    digest = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert request.headers["webhook-signature"] == f"v1,{digest}"


async def test_secrets_of_the_host_are_masked_unless_that_is_off(make_alert: Callable[..., Alert]) -> None:
    secret = 'type=EXECVE msg=audit(1.0:1): argc=2 a0="tool" a1="--password=hunter2"'
    alert = make_alert(process=make_process(7, "tool", "--password=hunter2"), lines=(secret,))
    with Receiver() as receiver:
        async with open_sink(receiver.url) as sink, open_sink(receiver.url, mask=False) as open_one:
            await sink.send(alert, kind="alert", delivery_id="alert_1")
            await open_one.send(alert, kind="alert", delivery_id="alert_1")
        masked, plain = (request.document for request in receiver.requests)
    assert "hunter2" not in str(masked)
    assert masked["process"]["args"] == ["tool", "--password=[masked]"]
    assert plain["watchdogd"]["lines"] == [secret]


async def test_without_a_secret_nothing_is_signed(make_alert: Callable[..., Alert]) -> None:
    with Receiver() as receiver:
        async with open_sink(receiver.url) as sink:
            await sink.send(make_alert(), kind="alert", delivery_id="alert_1")
        assert "webhook-signature" not in receiver.requests[0].headers


async def test_one_connection_serves_many_alerts(make_alert: Callable[..., Alert]) -> None:
    with Receiver() as receiver:
        async with open_sink(receiver.url) as sink:
            for number in range(3):
                await sink.send(make_alert(), kind="alert", delivery_id=f"alert_{number}")
        assert len(receiver.requests) == 3


def test_signature_of_the_standards_own_example() -> None:
    # https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md, "Signature scheme"
    signature = sign_message(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
    )
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_secret_that_is_not_base64_is_said() -> None:
    with pytest.raises(ValueError, match="not base64"):
        sign_message("whsec_***", "a", 1, b"")


@pytest.mark.parametrize(
    ("status", "recoverable"),
    [(500, True), (503, True), (429, True), (408, True), (400, False), (401, False), (404, False), (413, False)],
)
async def test_statuses(make_alert: Callable[..., Alert], status: int, *, recoverable: bool) -> None:
    with Receiver(Fault(status=status)) as receiver:
        error = await send_expecting_error(receiver.url, make_alert())
    assert error.recoverable is recoverable
    assert str(error) == f"webhook ops: answered {status}"


async def test_redirects_are_not_followed(make_alert: Callable[..., Alert]) -> None:
    with Receiver() as target, Receiver(Fault(status=307, headers=(("location", target.url),))) as receiver:
        error = await send_expecting_error(receiver.url, make_alert())
        assert target.requests == []
    assert not error.recoverable
    assert "redirects (307)" in str(error)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("Sun, 20 Jul 2025 08:27:40 GMT", 60.0),
        ("Sun, 20 Jul 2024 08:27:40 GMT", 0.0),
        ("99999999", 3600.0),
        ("9" * 400, 3600.0),
        ("soon", None),
        ("-5", None),
        (None, None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, NOW_MS) == seconds


@given(st.text())
def test_any_retry_after_is_bounded_or_ignored(value: str) -> None:
    seconds = parse_retry_after(value, NOW_MS)
    assert seconds is None or 0 <= seconds <= 3600


async def test_the_receiver_says_when_to_come_back(make_alert: Callable[..., Alert]) -> None:
    with Receiver(Fault(status=429, headers=(("retry-after", "42"),))) as receiver:
        error = await send_expecting_error(receiver.url, make_alert())
    assert error.retry_after_s == 42


@pytest.mark.parametrize("fault", [HANG, DRIP], ids=lambda fault: fault.kind)
async def test_a_slow_receiver_is_left(make_alert: Callable[..., Alert], fault: Fault) -> None:
    with Receiver(fault) as receiver:
        error = await send_expecting_error(receiver.url, make_alert(), timeout_s=0.3)
    assert error.recoverable
    assert str(error) == "webhook ops: no answer within 0.3 s"


async def test_a_reset_connection_is_tried_again(make_alert: Callable[..., Alert]) -> None:
    with Receiver(RESET) as receiver:
        error = await send_expecting_error(receiver.url, make_alert(lines=("x" * 2_000_000,)))
    assert error.recoverable


async def test_an_answer_cut_after_its_status_counts(make_alert: Callable[..., Alert]) -> None:
    with Receiver(CUT) as receiver:
        async with open_sink(receiver.url) as sink:
            await sink.send(make_alert(), kind="alert", delivery_id="alert_1")
        assert len(receiver.requests) == 1


async def test_nobody_listens(make_alert: Callable[..., Alert]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        error = await send_expecting_error(f"http://127.0.0.1:{unused.getsockname()[1]}/token-abc123", make_alert())
    assert error.recoverable
    assert "cannot reach it" in str(error)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/token-abc123", "http://[::1/token-abc123", "token-abc123", ""])
async def test_an_impossible_url_is_given_up(make_alert: Callable[..., Alert], url: str) -> None:
    error = await send_expecting_error(url, make_alert())
    assert not error.recoverable


async def test_impossible_headers_are_given_up(make_alert: Callable[..., Alert]) -> None:
    with Receiver() as receiver:
        error = await send_expecting_error(receiver.url, make_alert(), headers={"x": "a\r\nInjected: token-abc123"})
        assert receiver.requests == []
    assert not error.recoverable


async def test_logs_never_hold_url_or_secret(
    make_alert: Callable[..., Alert], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with Receiver(Fault(status=500)) as receiver:
        for _ in range(2):
            async with open_sink(receiver.url, secret="very-secret") as sink:
                with contextlib.suppress(DeliveryError):
                    await sink.send(make_alert(), kind="alert", delivery_id="alert_1")
    assert "token-abc123" not in caplog.text
    assert "very-secret" not in caplog.text


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of our own for 127.0.0.1, with its key in the same file."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl (apt-get install openssl)")
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(path), "-out", f"{path}.crt"]
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    path.write_text(path.read_text() + path.with_suffix(".pem.crt").read_text())
    return path


async def test_tls_is_checked(make_alert: Callable[..., Alert], certificate: Path) -> None:
    with Receiver(certificate=certificate) as receiver:
        error = await send_expecting_error(receiver.url, make_alert())
        assert receiver.requests == []
    assert error.recoverable
    assert "TLS failed (CERTIFICATE_VERIFY_FAILED: self-signed certificate)" in str(error)


async def test_an_own_ca_is_trusted(make_alert: Callable[..., Alert], certificate: Path) -> None:
    with Receiver(certificate=certificate) as receiver:
        async with open_sink(receiver.url, ca_file=f"{certificate}.crt") as sink:
            await sink.send(make_alert(), kind="alert", delivery_id="alert_1")
        assert len(receiver.requests) == 1


async def test_a_missing_ca_file_is_said_and_tried_again(make_alert: Callable[..., Alert], tmp_path: Path) -> None:
    error = await send_expecting_error("https://127.0.0.1:1/", make_alert(), ca_file=str(tmp_path / "none.pem"))
    assert error.recoverable


async def test_a_proxy_in_the_environment_is_not_used(
    make_alert: Callable[..., Alert], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    with Receiver() as receiver:
        async with open_sink(receiver.url) as sink:
            await sink.send(make_alert(), kind="alert", delivery_id="alert_1")
        assert len(receiver.requests) == 1


async def test_a_user_in_the_url_becomes_a_header(make_alert: Callable[..., Alert]) -> None:
    with Receiver() as receiver:
        async with open_sink(receiver.url.replace("://", "://alice:s3cret@")) as sink:
            await sink.send(make_alert(), kind="alert", delivery_id="alert_1")
        [request] = receiver.requests
    assert request.headers["authorization"] == "Basic " + base64.b64encode(b"alice:s3cret").decode()
    assert "s3cret" not in request.path + request.headers["host"]


async def test_it_goes_by_way_of_its_own_proxy(
    make_alert: Callable[..., Alert], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with Receiver() as proxy:
        url = f"http://bob:s3cret@127.0.0.1:{proxy.port}"
        async with open_sink("http://receiver.invalid/token-abc123", proxy=url) as sink:
            await sink.send(make_alert(), kind="alert", delivery_id="alert_1")
        [request] = proxy.requests
    assert request.path == "http://receiver.invalid/token-abc123"
    assert request.headers["proxy-authorization"] == "Basic " + base64.b64encode(b"bob:s3cret").decode()
    assert "s3cret" not in caplog.text


async def test_a_proxy_that_is_down_is_tried_again(make_alert: Callable[..., Alert]) -> None:
    error = await send_expecting_error(
        "http://receiver.invalid/token-abc123", make_alert(), proxy="http://bob:token-abc123@127.0.0.1:1"
    )
    assert error.recoverable


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("mutual"))


async def test_our_certificate_is_shown_where_it_is_asked_for(
    make_alert: Callable[..., Alert], certificates: Certificates
) -> None:
    own = {"client_certificate": str(certificates.client), "client_key": str(certificates.client_key)}
    with Receiver(certificate=certificates.server, clients=certificates.authority) as receiver:
        async with open_sink(receiver.url, ca_file=str(certificates.authority), **own) as sink:
            await sink.send(make_alert(), kind="alert", delivery_id="alert_1")
        error = await send_expecting_error(receiver.url, make_alert(), ca_file=str(certificates.authority))
        assert error.recoverable
        assert len(receiver.requests) == 1


async def test_a_server_of_old_tls_is_not_told(make_alert: Callable[..., Alert], certificates: Certificates) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with contextlib.suppress(ssl.SSLError):
        context.set_ciphers("DEFAULT:@SECLEVEL=0")  # OpenSSL 3 would refuse the old version by itself
    received: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read(1))
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0, ssl=context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        error = await send_expecting_error(
            f"https://127.0.0.1:{port}/", make_alert(), ca_file=str(certificates.authority)
        )
    assert error.recoverable
    assert received == []


async def test_sending_looks_for_no_module_on_disk(
    make_alert: Callable[..., Alert], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_for: list[str] = []

    class Finder:
        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            looked_for.append(name)

    with Receiver() as receiver:
        async with open_sink(receiver.url) as sink:
            await sink.send(make_alert(), kind="alert", delivery_id="alert_1")
            monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
            await sink.send(make_alert(), kind="alert", delivery_id="alert_2")
    assert looked_for == []
