"""The compose file is valid, reserves a GPU where it says so, and mounts what exists."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).resolve().parents[2] / "deploy"


def read_settings() -> dict[str, str]:
    lines = (FOLDER / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def find_client() -> list[str]:
    """`docker compose`, or Debian's docker-compose; neither needs an engine for `config`."""
    if shutil.which("docker"):
        done = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        if done.returncode == 0:
            return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    if os.environ.get("CI") == "true":
        pytest.fail("CI needs docker-compose (a Debian package)")
    pytest.skip("no client of compose here")


def configure(tmp_path: Path, profiles: str) -> dict[str, Any]:
    """What the client makes of it, with the example's settings."""
    shutil.copytree(FOLDER, tmp_path / "deploy")
    settings = (FOLDER / ".env.example").read_text().replace("COMPOSE_PROFILES=gpu", f"COMPOSE_PROFILES={profiles}")
    (tmp_path / "deploy" / ".env").write_text(settings)
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "COMPOSE_PROFILES": profiles}
    command = [*find_client(), "-f", "compose.yaml", "config"]
    done = subprocess.run(
        command, cwd=tmp_path / "deploy", capture_output=True, text=True, check=False, env=environ, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = yaml.safe_load(done.stdout)
    return found


def test_the_gpu_is_reserved_and_nothing_listens_beyond_loopback(tmp_path: Path) -> None:
    services = configure(tmp_path, "gpu")["services"]
    [device] = services["ollama"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    for service in services.values():
        for port in service.get("ports", ()):
            assert (port["host_ip"] if isinstance(port, dict) else port).startswith("127.0.0.1"), port


def test_the_processor_does_without(tmp_path: Path) -> None:
    services = configure(tmp_path, "cpu")["services"]
    assert "deploy" not in services["ollama-cpu"]
    assert services["ollama-init"]["environment"]["OLLAMA_MODEL"] == "phi3:mini"


def test_dashboards_come_along(tmp_path: Path) -> None:
    services = configure(tmp_path, "cpu,observe")["services"]
    assert {"prometheus", "grafana"} <= set(services)
    assert services["prometheus"]["network_mode"] == "host"


def test_what_is_mounted_exists() -> None:
    document = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    for service in document["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert (FOLDER / source).exists() if source.startswith(".") else source in document["volumes"], volume


def test_the_example_names_what_the_file_reads() -> None:
    """Images of what is optional may be left out of the example; what the daemon reads stands there, too."""
    read = set(re.findall(r"\$\{(\w+)", (FOLDER / "compose.yaml").read_text()))
    named = set(read_settings())
    assert {name for name in read - named if not name.endswith("_IMAGE")} == set()
    assert named - read == {"OLLAMA_URL", "AI_ENABLED", "COMPOSE_PROFILES", "COMPOSE_PROJECT_NAME"}


def test_images_are_pinned() -> None:
    text = (FOLDER / "compose.yaml").read_text()
    for image in re.findall(r"^\s*image: \$\{\w+:-([^}]+)\}", text, re.MULTILINE):
        assert re.search(r":v?\d+\.\d+\.\d+$", image), image
