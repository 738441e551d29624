"""A daemon with everything on, whose model's server is not there."""

from __future__ import annotations

import re

import pytest

from tests.api.conftest import Served, configure
from tests.ollama.server import free_port

_PARTS = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of the series that a running daemon exports."""
    folder = tmp_path_factory.mktemp("exported")
    more = f"triage:\n  enabled: true\n  ollama_url: http://127.0.0.1:{free_port()}\n"
    with configure(folder, free_port(), more=more) as daemon:
        daemon.start()
        with Served(daemon, f"{folder}/api.sock", "").local() as client:
            page = client.get("/metrics").text
        assert daemon.stop() == 0
    return {
        name + part for name, kind in re.findall(r"^# TYPE (\S+) (\w+)$", page, re.MULTILINE) for part in _PARTS[kind]
    }
