"""The doctor on disks, memory, clock and webhooks: real sockets, a real certificate, the kernel's own clock."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from typing import TYPE_CHECKING

import pytest

from tests.cli.hosts import Host, levels, look
from tests.ollama.server import free_port
from tests.write.certificates import make_certificates
from watchdogd.cli import doctor_host
from watchdogd.cli.doctor_host import check_clock, check_disks, check_memory, read_synchronised
from watchdogd.cli.doctor_webhooks import check_webhooks
from watchdogd.config import Config
from watchdogd.webhook_settings import WebhookSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from watchdogd.cli.doctor_findings import Finding


def test_room_on_the_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(tmp_path)
    host.folder("/var/lib/watchdogd")
    room = os.statvfs(tmp_path)
    free = room.f_bavail * room.f_frsize
    monkeypatch.setattr(doctor_host, "LITTLE_BYTES", free // 2)
    monkeypatch.setattr(doctor_host, "HARDLY_BYTES", free // 4)
    assert levels(look(check_disks, host.site())) == {"disk": "ok"}
    monkeypatch.setattr(doctor_host, "LITTLE_BYTES", 2 * free)
    found = look(check_disks, host.site())["disk"]
    assert found.level == "warning"
    assert "the database" in found.text
    assert "the journal" in found.text
    monkeypatch.setattr(doctor_host, "HARDLY_BYTES", 2 * free)
    assert levels(look(check_disks, host.site())) == {"disk": "error"}


def test_memory_to_spare(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.file("/proc/meminfo", "MemTotal: 8000000 kB\nMemAvailable: 4000000 kB\n")
    assert levels(look(check_memory, host.site())) == {"memory": "ok"}
    host.file("/proc/meminfo", "MemTotal: 8000000 kB\nMemAvailable: 40000 kB\n")
    assert levels(look(check_memory, host.site())) == {"memory": "warning"}


@pytest.mark.parametrize(("says", "level"), [(True, "ok"), (False, "warning"), (None, "unknown")])
def test_a_clock_to_be_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: bool | None, level: str) -> None:  # noqa: FBT001
    monkeypatch.setattr(doctor_host, "read_synchronised", lambda: says)
    assert levels(look(check_clock, Host(tmp_path).site())) == {"clock": level}


def test_the_kernel_answers_about_its_clock() -> None:
    assert read_synchronised() in {True, False}


def test_a_containers_clock_is_the_hosts(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.file("/.dockerenv")
    assert levels(look(check_clock, host.site())) == {"clock": "unknown"}


@pytest.fixture
def listener() -> Iterator[int]:
    """A port where somebody listens and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def look_at_webhook(tmp_path: Path, **settings: object) -> Finding:
    hook = WebhookSettings(name="ops", **settings)  # type: ignore[arg-type]
    return look(check_webhooks, Host(tmp_path).site(Config(webhooks=(hook,))))["webhook ops"]


def test_a_webhook_is_tried_without_a_word(tmp_path: Path, listener: int) -> None:
    found = look_at_webhook(tmp_path, url=f"http://127.0.0.1:{listener}/hook?token=s3cret")
    assert found.level == "ok"
    assert "s3cret" not in found.text
    assert "Nothing was sent" in found.text


def test_a_webhook_that_cannot_be_reached(tmp_path: Path) -> None:
    port = free_port()
    found = look_at_webhook(tmp_path, url=f"http://127.0.0.1:{port}/hook?token=s3cret")
    assert (found.level, found.mend) == ("error", f"nc -vz 127.0.0.1 {port}")
    assert "Connection refused" in found.text
    assert "s3cret" not in found.text


def test_a_webhook_whose_name_nobody_knows(tmp_path: Path) -> None:
    found = look_at_webhook(tmp_path, url="https://nowhere.invalid/x")
    assert (found.level, found.mend) == ("error", "getent hosts nowhere.invalid")


def test_no_webhook_is_no_fault(tmp_path: Path) -> None:
    assert levels(look(check_webhooks, Host(tmp_path).site())) == {"webhooks": "unknown"}


def test_a_webhook_whose_url_file_cannot_be_read(tmp_path: Path) -> None:
    assert look_at_webhook(tmp_path, url_file="ops.url").mend == "watchdogd check"


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[tuple[int, str]]:
    """A TLS server with a certificate that ends in two days; its port and the file of its authority."""
    certificates = make_certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    client, _ = server.accept()
                    context.wrap_socket(client, server_side=True).close()
                except OSError:
                    if server.fileno() < 0:
                        return

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1], str(certificates.authority)
        server.shutdown(socket.SHUT_RDWR)


def test_a_certificate_is_believed_or_not(tmp_path: Path, secured: tuple[int, str]) -> None:
    port, authority = secured
    (tmp_path / "2").mkdir()
    strange = look_at_webhook(tmp_path, url=f"https://127.0.0.1:{port}/hook")
    assert strange.level == "error"
    assert "is not believed" in strange.text
    known = look_at_webhook(tmp_path / "2", url=f"https://127.0.0.1:{port}/hook", ca_file=authority)
    assert known.level == "warning"
    assert "ends in 1 days" in known.text


def test_a_port_that_speaks_no_tls(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            server.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        found = look_at_webhook(tmp_path, url=f"https://127.0.0.1:{server.getsockname()[1]}/hook")
        thread.join()
    assert "breaks off the TLS handshake" in found.text


def test_only_send_sends(tmp_path: Path) -> None:
    taken: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for _ in range(2):  # the dry run, then the alert
                client, _ = server.accept()
                with client:
                    data = client.recv(65536)
                    taken.append(data)
                    if data:
                        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        hook = WebhookSettings(name="ops", url=f"http://127.0.0.1:{server.getsockname()[1]}/hook")
        found = list(check_webhooks(Host(tmp_path).site(Config(webhooks=(hook,)), send=True)))
        thread.join()
    assert [finding.text for finding in found][-1] == "The test alert was taken."
    assert taken[0] == b""
    assert taken[1].startswith(b"POST /hook")
