"""Builds watchdogd_VERSION_amd64.deb for a release: `python -m tools.build_deb [--out DIR] [RELEASE ...]`.

Nothing is compiled: the dependencies' wheels for the release's Python come from the lock file; systemd-python, which
has no wheel, is the release's own package. So one machine builds for all releases, with dpkg-deb and pip. One checkout
gives the same bytes (SOURCE_DATE_EPOCH is the last commit's time).
"""

from __future__ import annotations

import argparse
import email.parser
import gzip
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT: Final = Path(__file__).resolve().parents[1]
PARTS: Final = ROOT / "packaging/debian"
HOME: Final = Path("/usr/lib/watchdogd")
CONFFILE_FOLDER: Final = Path("/etc")


class Release(NamedTuple):
    """What stands in the version for a release, and its Python."""

    suffix: str
    python: str


RELEASES: Final = {
    "debian12": Release("deb12", "3.11"),
    "debian13": Release("deb13", "3.13"),
    "ubuntu24.04": Release("ubuntu24.04", "3.12"),
}

_SCRIPT: Final = f"""\
#!{HOME}/bin/python3 -I
import sys

from watchdogd.cli.main import main

sys.exit(main())
"""
_COPYRIGHT: Final = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: watchdogd

Files: *
Copyright: 2026 the watchdogd authors
License: Apache-2.0
 On Debian systems, the text of the Apache License 2.0 is in
 /usr/share/common-licenses/Apache-2.0.
"""


def build(name: str, wheel: Path, out: Path, *, revision: int = 1) -> Path:
    """The package of a release, written into `out`. Raises CalledProcessError where a tool fails."""
    release = RELEASES[name]
    version = f"{read_version()}-{revision}~{release.suffix}"
    with tempfile.TemporaryDirectory(prefix="watchdogd-deb-") as folder:
        tree = Path(folder) / "tree"
        tree.mkdir(mode=0o755)
        site = make_environment(tree, release, wheel)
        placed = place_files(tree)
        place_documents(tree, version, site)
        trim(site)
        write_control(tree, release, version, placed)
        epoch = read_epoch()
        for path in [tree, *tree.rglob("*")]:
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else path.stat().st_mode & 0o644)
            os.utime(path, (epoch, epoch), follow_symlinks=False)
        package = out / f"watchdogd_{version}_amd64.deb"
        out.mkdir(parents=True, exist_ok=True)
        command = ["dpkg-deb", "--root-owner-group", "-Zxz", "--build", str(tree), str(package)]
        subprocess.run(
            command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"SOURCE_DATE_EPOCH": str(epoch)}
        )
    return package


def read_version() -> str:
    """The project's version."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


def read_epoch() -> int:
    """When the last commit was made; the day's beginning outside git."""
    done = subprocess.run(
        ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"], capture_output=True, text=True, check=False
    )
    return int(done.stdout) if done.returncode == 0 and done.stdout.strip() else int(time.time()) // 86400 * 86400


def build_wheel(folder: Path) -> Path:
    """A wheel of this checkout."""
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--disable-pip-version-check", "--no-deps", "-w", str(folder)]
    subprocess.run([*pip, str(ROOT)], check=True)
    [wheel] = folder.glob("watchdogd-*.whl")
    return wheel


def make_environment(tree: Path, release: Release, wheel: Path) -> Path:
    """A virtual environment for the release's own Python; returns its site-packages."""
    home = tree / HOME.relative_to("/")
    site = home / f"lib/python{release.python}/site-packages"
    site.mkdir(parents=True)
    (home / "bin").mkdir()
    (home / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    (home / "bin/python3").symlink_to(f"../../../bin/python{release.python}")
    script = home / "bin/watchdogd"
    script.write_text(_SCRIPT)
    script.chmod(0o755)
    (tree / "usr/bin").mkdir()
    (tree / "usr/bin/watchdogd").symlink_to("../lib/watchdogd/bin/watchdogd")
    for name in ("systemd", "systemd_python-235.egg-info"):
        (site / name).symlink_to(f"../../../../python3/dist-packages/{name}")
    locked = tree.parent / "requirements.txt"
    blocks = re.split(r"^(?=\S)", (ROOT / "requirements/runtime.txt").read_text(), flags=re.MULTILINE)
    locked.write_text("".join(block for block in blocks if not block.startswith("systemd-python")))
    pip = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-deps", "--no-compile"]
    wanted = ["--only-binary=:all:", "--implementation=cp", f"--python-version={release.python}"]
    platforms = [f"--platform=manylinux{tag}_x86_64" for tag in ("2014", "_2_17", "_2_24", "_2_28")]
    target = [*pip, *wanted, *platforms, "--target", str(site)]
    subprocess.run([*target, "--require-hashes", "-r", str(locked)], check=True)
    subprocess.run([*target, str(wheel)], check=True)
    return site


def trim(site: Path) -> None:
    """Take away what no program runs: scripts of the dependencies, their tests, their types."""
    shutil.rmtree(site / "bin", ignore_errors=True)
    for folder in [*site.glob("*-stubs"), *site.glob("types_*"), *site.glob("*_stubs-*.dist-info")]:
        shutil.rmtree(folder)
    for folder in [path for path in site.glob("*/tests") if path.is_dir()]:
        shutil.rmtree(folder)
    for path in site.glob("*.dist-info/direct_url.json"):  # where it was built
        path.unlink()
    for ending in ("pyi", "pxd", "pyx", "c", "h"):
        for path in [*site.rglob(f"*.{ending}")]:
            path.unlink()


def place_files(tree: Path) -> list[Path]:
    """Put unit, configuration, rules and the rest in place; returns the conffiles."""
    command = ["install", "--root", str(tree), "--layout", "debian", "--program", "/usr/bin/watchdogd", "--audit-rules"]
    subprocess.run([sys.executable, "-m", "watchdogd", *command], check=True, stdout=subprocess.DEVNULL)
    below_etc = tree / CONFFILE_FOLDER.relative_to("/")
    return [Path("/") / path.relative_to(tree) for path in below_etc.rglob("*") if path.is_file()]


def place_documents(tree: Path, version: str, site: Path) -> None:
    """Copyright (with the licence of each dependency as it names it), changelogs and the documents."""
    folder = tree / "usr/share/doc/watchdogd"
    folder.mkdir(parents=True)
    (folder / "copyright").write_text(_COPYRIGHT + "".join(list_licences(site)))
    date = time.strftime("%a, %d %b %Y %H:%M:%S +0000", time.gmtime(read_epoch()))
    maintainer = re.search(r"^Maintainer: (.*)$", (PARTS / "control.in").read_text(), re.MULTILINE)
    assert maintainer is not None  # noqa: S101 (a file of ours)
    entry = f"watchdogd ({version}) unstable; urgency=medium\n\n  * See changelog.gz.\n\n -- {maintainer[1]}  {date}\n"
    (folder / "changelog.Debian.gz").write_bytes(gzip.compress(entry.encode(), mtime=0))
    (folder / "changelog.gz").write_bytes(gzip.compress((ROOT / "CHANGELOG.md").read_bytes(), mtime=0))
    for path in sorted((ROOT / "docs").glob("*.md")):
        shutil.copyfile(path, folder / path.name)
    overrides = tree / "usr/share/lintian/overrides/watchdogd"
    overrides.parent.mkdir(parents=True)
    shutil.copyfile(PARTS / "lintian-overrides", overrides)


def list_licences(site: Path) -> Iterator[str]:
    """A paragraph for each dependency that lies in the package."""
    for metadata in sorted(site.glob("*.dist-info/METADATA")):
        fields = email.parser.HeaderParser().parsestr(metadata.read_text(errors="replace"))
        name = metadata.parent.name.split("-")[0]
        if name == "watchdogd":
            continue
        licence = fields["License-Expression"] or next(
            (
                line.rpartition("::")[2].strip()
                for line in fields.get_all("Classifier", [])
                if line.startswith("License")
            ),
            (fields["License"] or "see there").splitlines()[0],
        )
        where = metadata.parent.relative_to(site.parents[3])
        authors = fields["Author"] or fields["Author-email"] or fields["Maintainer"] or f"the authors of {name}"
        yield (
            f"\nFiles: {HOME.relative_to('/')}/lib/*/site-packages/{name}*\n"
            f"Copyright: {' '.join(authors.split())}\n"
            f"License: {re.sub(r'[^A-Za-z0-9.+-]+', '-', licence).strip('-')}-{name}\n"
            f" {fields['Name']} {fields['Version']} is under: {licence}.\n"
            f" Its own text is below /{where}.\n"
        )


def write_control(tree: Path, release: Release, version: str, conffiles: Sequence[Path]) -> None:
    """DEBIAN/: control, conffiles, md5sums, the maintainer scripts."""
    files = sorted(path for path in tree.rglob("*") if path.is_file() and not path.is_symlink())
    sums = subprocess.run(
        ["md5sum", *(str(path.relative_to(tree)) for path in files)],
        cwd=tree,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    size_kb = sum(-(-path.lstat().st_size // 1024) for path in tree.rglob("*"))
    major, minor = release.python.split(".")
    words = {
        "VERSION": version,
        "INSTALLED_SIZE": str(size_kb),
        "PYTHON": release.python,
        "NEXT_PYTHON": f"{major}.{int(minor) + 1}",
    }
    control = tree / "DEBIAN"
    control.mkdir()
    (control / "control").write_text(
        re.sub(r"@(\w+)@", lambda found: words[found[1]], (PARTS / "control.in").read_text())
    )
    (control / "conffiles").write_text("".join(f"{path}\n" for path in sorted(conffiles)))
    (control / "md5sums").write_text(sums)
    for name in ("postinst", "prerm", "postrm"):
        shutil.copyfile(PARTS / name, control / name)
        (control / name).chmod(0o755)


def main() -> None:
    """Build for the releases that are named, for all where none is."""
    parser = argparse.ArgumentParser(description="Build Debian packages.")
    parser.add_argument("releases", nargs="*", metavar="RELEASE", help=f"of {', '.join(RELEASES)} (default: all)")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", metavar="DIR")
    parser.add_argument("--revision", type=int, default=1, help="of the packaging (default: 1)")
    args = parser.parse_args()
    unknown = set(args.releases) - RELEASES.keys()
    if unknown:
        parser.error(f"no such release: {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory(prefix="watchdogd-wheel-") as folder:
        wheel = build_wheel(Path(folder))
        for name in args.releases or RELEASES:
            package = build(name, wheel, args.out, revision=args.revision)
            print(f"{package}  {package.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
