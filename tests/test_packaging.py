"""What packages are made of, without building one; the built ones are tried in tests/host/test_package.py."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import tomllib
from pathlib import Path

import pytest

from watchdogd.cli.inventory import CONFIG_PATH, RULES_PATH, list_files

ROOT = Path(__file__).parents[1]
PKGBUILD = ROOT / "packaging/arch/PKGBUILD"
SCRIPTS = sorted((ROOT / "packaging/debian").glob("p*"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_maintainer_script_is_a_shell_script_that_stops_at_errors(script: Path) -> None:
    assert script.read_text().startswith("#!/bin/sh\nset -e\n")
    checked = subprocess.run(["sh", "-n", script], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize("layout", ["debian", "arch"])
def test_a_package_puts_below_etc_only_what_people_edit(layout: str) -> None:
    files = list_files(["/usr/bin/watchdogd"], audit_rules=True, layout=layout)
    below_etc = {file.path for file in files if file.path.is_relative_to("/etc")}
    assert below_etc == {file.path for file in files if file.editable}
    assert {CONFIG_PATH, RULES_PATH / "README"} < below_etc
    assert not [file.path for file in files if file.path.is_relative_to("/usr/local")]
    unit = next(file for file in files if file.path.name == "watchdogd.service")
    assert unit.path.parent == Path("/usr/lib/systemd/system")
    assert re.findall("^Exec.*$", unit.content.decode(), re.MULTILINE) == [
        "ExecStart=/usr/bin/watchdogd run --config /etc/watchdogd/config.yaml",
        "ExecReload=/usr/bin/watchdogd reload --config /etc/watchdogd/config.yaml",
    ]


def source_pkgbuild(script: str) -> list[str]:
    """The lines that the script prints once bash has read the PKGBUILD."""
    command = ["bash", "-ec", f'source "$0"; {script}', str(PKGBUILD)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split("\n")[:-1]


def test_the_pkgbuild_names_this_version_and_keeps_what_people_edit() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert source_pkgbuild('echo "$pkgver"') == [version]
    assert source_pkgbuild("declare -F | cut -d' ' -f3") == ["build", "package"]
    files = list_files(["/usr/bin/watchdogd"], audit_rules=True, layout="arch")
    kept = {f"/{path}" for path in source_pkgbuild('printf "%s\\n" "${backup[@]}"')}
    assert kept == {str(file.path) for file in files if file.editable}
    assert (PKGBUILD.parent / source_pkgbuild('echo "$install"')[0]).is_file()


def test_makepkg_accepts_the_pkgbuild() -> None:
    makepkg = shutil.which("makepkg")
    if makepkg is None:
        pytest.skip("needs makepkg (Debian has a package of that name)")
    with tempfile.TemporaryDirectory() as name:  # pytest's folders are root's alone, and makepkg refuses root
        folder = Path(name) / "arch"
        shutil.copytree(PKGBUILD.parent, folder)
        Path(name).chmod(0o755)
        folder.chmod(0o777)
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
        words = [*command, makepkg, "--printsrcinfo"]
        done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "pkgname = watchdogd" in done.stdout
