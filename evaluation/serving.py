"""The larger test model behind Ollama's protocol, fetched where it is missing and started for one evaluation."""

from __future__ import annotations

import importlib.util
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

from evaluation.training import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

MODEL = "qwen2.5-coder:1.5b"
START_S = 180.0


class ServingError(Exception):
    """Why there is no model to ask."""


class Served(NamedTuple):
    """Where the model is, and how long it took to be loaded."""

    url: str
    model: str
    load_s: float


@contextmanager
def serve() -> Iterator[Served]:
    """The model, for the length of a `with`. Raises ServingError where it cannot be had or does not start."""
    fetcher = _load(ROOT / "tools" / "fetch_test_model.py")
    try:
        folder: Path = fetcher.fetch()
        weights: Path = fetcher.fetch_large()
    except (fetcher.FetchError, OSError, BadZipFile) as error:
        raise ServingError(str(error)) from None
    llama_port, port = _find_port(), _find_port()
    server = folder / fetcher.SERVER_FILE
    # fmt: off
    llama = [server, "-m", weights, "--host", "127.0.0.1", "--port", str(llama_port),
             "-t", "1", "-c", "4096", "-np", "1", "--offline"]
    front = [sys.executable, ROOT / "tests/ollama/front.py", "--port", str(port), "--llama-port", str(llama_port),
             "--model", MODEL, "--digest", fetcher.LARGE_SHA256]
    # fmt: on
    environ = {**os.environ, "LD_LIBRARY_PATH": str(server.parent)}
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        log = Path(scratch) / "server.log"
        began_s = time.monotonic()
        engine = stack.enter_context(_run(llama, log, environ))
        face = stack.enter_context(_run(front, log, environ))
        _wait_for(f"http://127.0.0.1:{llama_port}/health", engine, log)
        _wait_for(f"http://127.0.0.1:{port}/api/version", face, log)
        yield Served(f"http://127.0.0.1:{port}", MODEL, time.monotonic() - began_s)


@contextmanager
def _run(command: list[str | Path], log: Path, environ: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environ, stdin=subprocess.DEVNULL)  # noqa: S603 - our own
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
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310 - our own server
                return
        except (OSError, urllib.error.URLError):
            time.sleep(0.1)
    raise ServingError(f"the server did not start:\n{log.read_text(errors='replace')[-2000:]}")


def _find_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _load(path: Path) -> ModuleType:
    """A developer's script as a module: `tools` is no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ServingError(f"{path} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
