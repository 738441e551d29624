"""The OpenAPI document is true: schemathesis asks a real daemon by it; and it lists what there is."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.api.conftest import WRITE
from tests.size import LARGE
from watchdogd.api.application import Api
from watchdogd.api.openapi import build_document
from watchdogd.api_settings import ApiSettings

if TYPE_CHECKING:
    from pathlib import Path

    from tests.api.conftest import Served


def test_it_lists_every_endpoint() -> None:
    listed = {
        (method.upper(), path)
        for path, operations in build_document()["paths"].items()
        for method in operations
        if method != "parameters"
    }
    endpoints = Api(ApiSettings(), None).endpoints  # type: ignore[arg-type]  # nothing is asked
    assert listed == {(endpoint.method, endpoint.path) for endpoint in endpoints}


def test_operations_have_names_of_their_own() -> None:
    names = [
        operation["operationId"]
        for operations in build_document()["paths"].values()
        for method, operation in operations.items()
        if method != "parameters"
    ]
    assert len(set(names)) == len(names)


@pytest.mark.slow
@pytest.mark.sampled
def test_it_is_true(served: Served, tmp_path: Path) -> None:
    """Made-up requests, right and wrong, are answered as it says; none is answered 500."""
    config = tmp_path / "schemathesis.toml"
    config.write_text('[checks.not_a_server_error]\nexpected-statuses = ["2xx", "4xx", "503"]\n')
    command = [
        sys.executable, "-W", "ignore", "-m", "schemathesis.cli", "--config-file", str(config), "run",
        f"{served.url}/api/v1/openapi.json", "--header", f"Authorization: Bearer {WRITE}",
        "--max-examples", "40" if LARGE else "5", "--phases", "examples,coverage,fuzzing" if LARGE else "fuzzing",
        "--mode", "all", "--seed", "1", "--request-timeout", "30", "--generation-database", "none", "--no-color",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False, timeout=500)
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-2000:]
