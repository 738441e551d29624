"""A real daemon that serves the API, and clients of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import httpx
import pytest

from tests.daemon import Daemon, make_exec_lines, wait_until
from tests.ollama.server import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

READ, WRITE = "0123456789abcdef-read", "0123456789abcdef-write"


class Served(NamedTuple):
    """A running daemon."""

    daemon: Daemon
    socket: str
    url: str

    def local(self) -> httpx.Client:
        """A client by the Unix socket."""
        return httpx.Client(transport=httpx.HTTPTransport(uds=self.socket), base_url="http://localhost", timeout=60)

    def remote(self, token: str | None = None) -> httpx.Client:
        """A client by TCP."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60)


def configure(folder: Path, port: int, *, more: str = "", limits: str = "") -> Daemon:
    """A daemon that serves by socket and TCP."""
    for name, token in (("read", READ), ("write", WRITE)):
        (folder / name).write_text(token + "\n")
        (folder / name).chmod(0o600)
    extra = (
        f"api:\n  path: {folder}/api.sock\n  listen: 127.0.0.1:{port}\n{limits}  tokens:\n"
        "    - {name: grafana, token_file: read}\n    - {name: admin, token_file: write, scope: write}\n"
    )
    return Daemon(folder, extra=extra + more)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A daemon with three alerts, and triage turned off."""
    folder = tmp_path_factory.mktemp("api")
    port = free_port()
    with configure(folder, port, limits="  requests_per_minute: 100000\n  questions_per_minute: 100000\n") as daemon:
        daemon.start()
        served = Served(daemon, f"{folder}/api.sock", f"http://127.0.0.1:{port}")
        for serial in (1, 2, 3):
            daemon.append(make_exec_lines(serial))
        with served.local() as client:
            wait_until(lambda: len(client.get("/api/v1/alerts").json()["alerts"]) == 3, daemon)
        yield served
        assert daemon.stop() == 0
        assert "Traceback" not in daemon.said
