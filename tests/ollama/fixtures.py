"""The fixture `ollama`: a real small model behind Ollama's protocol, started once for the whole run."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
MODEL = "smollm2:135m"
START_S = 60.0


class Ollama(NamedTuple):
    """Where the server is and which model it has."""

    url: str
    model: str
    digest: str


@pytest.fixture(scope="session")
def ollama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ollama]:
    """SmolLM2 behind the Ollama protocol; without a network it skips, and in CI fails."""
    fetcher = _load(ROOT / "tools" / "fetch_test_model.py")
    try:
        folder: Path = fetcher.fetch()
    except (fetcher.FetchError, OSError) as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"no model to test with: {error}")
        pytest.skip(f"no model to test with: {error}")
    log = tmp_path_factory.mktemp("ollama") / "server.log"
    llama_port, port = free_port(), free_port()
    server = folder / fetcher.SERVER_FILE
    # fmt: off
    llama = [server, "-m", folder / fetcher.MODEL_FILE, "--host", "127.0.0.1", "--port", str(llama_port),
             "-t", "1", "-c", "4096", "-np", "1", "--offline"]
    front = [sys.executable, ROOT / "tests/ollama/front.py", "--port", str(port), "--llama-port", str(llama_port),
             "--model", MODEL, "--digest", fetcher.MODEL_SHA256]
    # fmt: on
    environ = {**os.environ, "LD_LIBRARY_PATH": str(server.parent)}
    with log.open("wb") as out, _running(llama, out, environ) as engine, _running(front, out, environ) as face:
        _wait_for(f"http://127.0.0.1:{llama_port}/health", engine, log)
        _wait_for(f"http://127.0.0.1:{port}/api/version", face, log)
        yield Ollama(f"http://127.0.0.1:{port}", MODEL, fetcher.MODEL_SHA256)


def free_port() -> int:
    """A TCP port of the loopback that nothing listens on at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def _running(command: list[str | Path], out: IO[bytes], environ: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A program for the length of a `with`; ended by its own process id."""
    process = subprocess.Popen(command, stdout=out, stderr=out, env=environ, stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (OSError, urllib.error.URLError):
            time.sleep(0.1)
    pytest.fail(f"{url} did not come up (exit {process.poll()}):\n{log.read_text(errors='replace')[-3000:]}")


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
