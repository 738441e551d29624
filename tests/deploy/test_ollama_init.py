"""The script that pulls models, against the Ollama protocol of a real small model."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.ollama.server import free_port

if TYPE_CHECKING:
    from tests.ollama.fixtures import Ollama

SCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "ollama-init.sh"


def run(url: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": os.environ["PATH"], "OLLAMA_INIT_URL": url, "OLLAMA_WAIT_S": "20", **settings}
    return subprocess.run(["sh", str(SCRIPT)], env=environ, capture_output=True, text=True, check=False, timeout=120)


def test_what_is_there_is_not_pulled_again(ollama: Ollama) -> None:
    for _ in range(2):
        done = run(ollama.url, OLLAMA_MODEL=ollama.model)
        assert done.returncode == 0, done.stderr
        assert f"{ollama.model} is there\n" in done.stderr
        assert "is pulled" not in done.stderr


def test_a_model_that_is_nowhere_fails_loudly_and_the_others_are_tried(ollama: Ollama) -> None:
    done = run(ollama.url, OLLAMA_MODEL="no-such-model:1b", OLLAMA_MODELS=f"{ollama.model},")
    assert done.returncode == 1
    assert "no-such-model:1b could not be pulled" in done.stderr
    assert "file does not exist" in done.stderr
    assert f"{ollama.model} is there" in done.stderr


def test_no_server_is_told_after_a_while() -> None:
    done = run(f"http://127.0.0.1:{free_port()}", OLLAMA_WAIT_S="1")
    assert done.returncode == 1
    assert "no Ollama answers" in done.stderr


@pytest.mark.parametrize("name", ["a;b", 'a"b', "$(id)", "a\nb'c", "../é"])
def test_names_that_are_none_are_refused(name: str) -> None:
    done = run("http://127.0.0.1:9", OLLAMA_MODEL=name)
    assert done.returncode == 2
    assert "no model's name" in done.stderr


def test_a_wait_that_is_no_number_is_refused() -> None:
    assert run("http://127.0.0.1:9", OLLAMA_WAIT_S="soon").returncode == 2
