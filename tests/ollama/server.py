"""A real model behind Ollama's protocol: llama-server and the thin front, for the length of a `with`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from zipfile import BadZipFile

from tools import fetch_test_model as fetcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[2]
START_S = 180.0


class ServingError(Exception):
    """Why there is no model to ask."""


class MissingModelError(ServingError):
    """It cannot be fetched here."""


class Served(NamedTuple):
    """Where the model is, and how long it took to be loaded."""

    url: str
    model: str
    digest: str
    load_s: float


class ModelFiles(NamedTuple):
    """One of those that are fetched for tests: its name at the front, its weights."""

    name: str
    sha256: str
    fetch: Callable[[], Path]


SMALL = ModelFiles("smollm2:135m", fetcher.MODEL_SHA256, lambda: fetcher.fetch() / fetcher.MODEL_FILE)
LARGE = ModelFiles("qwen2.5-coder:1.5b", fetcher.LARGE_SHA256, fetcher.fetch_large)


@contextmanager
def serve(model: ModelFiles) -> Iterator[Served]:
    """Fetch what is missing and start. Raises ServingError where the model cannot be had or does not start."""
    try:
        server, weights = fetcher.fetch() / fetcher.SERVER_FILE, model.fetch()
    except (fetcher.FetchError, OSError, BadZipFile) as error:
        raise MissingModelError(str(error)) from None
    llama_port, port = free_port(), free_port()
    options = ("--host", "127.0.0.1", "-t", "1", "-c", "4096", "-np", "1", "--offline")
    llama: list[str | Path] = [server, "-m", weights, "--port", str(llama_port), *options]
    named = ("--model", model.name, "--digest", model.sha256)
    face_of = ROOT / "tests/ollama/front.py"
    front: list[str | Path] = [sys.executable, face_of, "--port", str(port), "--llama-port", str(llama_port), *named]
    environ = {**os.environ, "LD_LIBRARY_PATH": str(server.parent)}
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        log = Path(scratch) / "server.log"
        began_s = time.monotonic()
        engine = stack.enter_context(_run(llama, log, environ))
        face = stack.enter_context(_run(front, log, environ))
        _wait_for(f"http://127.0.0.1:{llama_port}/health", engine, log)
        _wait_for(f"http://127.0.0.1:{port}/api/version", face, log)
        yield Served(f"http://127.0.0.1:{port}", model.name, model.sha256, time.monotonic() - began_s)


def free_port() -> int:
    """A TCP port of the loopback that nothing listens on at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def _run(command: list[str | Path], log: Path, environ: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as out:
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
    until_s = time.monotonic() + START_S
    while time.monotonic() < until_s and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (OSError, urllib.error.URLError):
            time.sleep(0.1)
    raise ServingError(f"the server did not start:\n{log.read_text(errors='replace')[-2000:]}")
