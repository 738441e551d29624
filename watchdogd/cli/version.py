"""`watchdogd version`: this program and what it runs on."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sqlite3
import sys
from typing import TYPE_CHECKING

from watchdogd import __version__

if TYPE_CHECKING:
    import argparse

HELP = "show the versions of watchdogd, Python, SQLite and the libraries"

LIBRARIES = ("msgspec", "PyYAML", "pysigma", "google-re2", "httpx", "psutil", "systemd-python", "watchdog", "rich")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--format", choices=("text", "json"), default="text")


def run(args: argparse.Namespace) -> int:
    """Print one version a line, or one JSON object."""
    versions = list_versions()
    if args.format == "json":
        sys.stdout.write(json.dumps(versions) + "\n")
    else:
        width = max(map(len, versions))
        sys.stdout.writelines(f"{name:<{width}}  {version}\n" for name, version in versions.items())
    return 0


def list_versions() -> dict[str, str]:
    """Versions by name; a library that is not there is `missing`."""
    versions = {
        "watchdogd": __version__,
        "Python": platform.python_version(),
        "SQLite": sqlite3.sqlite_version,
        "Linux": platform.release(),
    }
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "missing"
    return versions
