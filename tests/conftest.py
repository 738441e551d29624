"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.daemon import Daemon
from tests.host.receiver import Receiver

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent

settings.register_profile("watchdogd", deadline=None)  # no timing may fail a test
settings.load_profile("watchdogd")

pytest_plugins = ["tests.ollama.fixtures"]
"""The fixture `ollama`: a small model behind Ollama's protocol."""


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The data beside the checkout; its absence skips, and in CI fails."""
    folder = Path(os.environ.get("WATCHDOGD_CORPORA", ROOT.parent / "shared" / "data"))
    if folder.is_dir():
        return folder
    if os.environ.get("CI") == "true":
        pytest.fail(f"{folder} is missing, and CI needs it")
    pytest.skip(f"{folder} is absent (set WATCHDOGD_CORPORA)")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver that takes what it is sent."""
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def daemon(tmp_path: Path, receiver: Receiver) -> Iterator[Daemon]:
    """The real daemon, not started yet, with an empty log; it sends to `receiver`."""
    with Daemon(tmp_path, webhook_url=receiver.url) as daemon:
        daemon.log.touch()
        yield daemon


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--update-golden` writes what the code says now into the golden files."""
    parser.addoption("--update-golden", action="store_true", help="rewrite golden files")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where workers share the files, those with slow tests go first: else one of them is what all wait for."""
    if hasattr(config, "workerinput"):
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """True where golden files are to be rewritten."""
    return bool(request.config.getoption("--update-golden"))
