"""The fixture `ollama`: a real small model behind Ollama's protocol, started once for the whole run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.ollama.server import SMALL, MissingModelError, serve

if TYPE_CHECKING:
    from collections.abc import Iterator


class Ollama(NamedTuple):
    """Where the server is and which model it has."""

    url: str
    model: str
    digest: str


@pytest.fixture(scope="session")
def ollama() -> Iterator[Ollama]:
    """SmolLM2 behind the Ollama protocol; without a network it skips, and in CI fails."""
    try:
        with serve(SMALL) as served:
            yield Ollama(served.url, served.model, served.digest)
    except MissingModelError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"no model to test with: {error}")
        pytest.skip(f"no model to test with: {error}")
