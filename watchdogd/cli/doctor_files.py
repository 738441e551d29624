"""The doctor on watchdogd's own files: whose they are, who may write or read them, whether somebody changed them."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pwd
import shlex
import stat
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

from watchdogd.cli.doctor_audit import DPKG_SUMS, INSTALLED_RULES
from watchdogd.cli.doctor_findings import error, needs_root, ok, unknown, warning
from watchdogd.cli.placement import RECORD_PATH
from watchdogd.config import DEFAULT_PATH
from watchdogd.pacman import list_installed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from watchdogd.cli.doctor_findings import Finding
    from watchdogd.cli.doctor_site import Site

ACCOUNT: Final = "watchdogd"
NAMED: Final = 4
"""Files that are named in one finding."""

EDITABLE: Final = frozenset({str(DEFAULT_PATH), INSTALLED_RULES, "/etc/watchdogd/rules/README"})
"""Placed by `watchdogd install` for people to change."""

DOCUMENTS: Final = ("/usr/share/doc/", "/usr/share/man/")
"""What minimal systems tell dpkg (`path-exclude`) or pacman (`NoExtract`) to leave out: it may be missing."""

_DPKG: Final = "dpkg's record"
_PACMAN: Final = "pacman's record"
_MENDS: Final = {
    _DPKG: "apt-get install --reinstall watchdogd",
    _PACMAN: "pacman -Qkk watchdogd; pacman -U watchdogd-*.pkg.tar.zst",
}
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_SYSTEM: Final = ("/etc", "/usr", "/opt", "/lib")
_UNITS: Final = ("/etc/systemd/system/watchdogd.service", "/usr/lib/systemd/system/watchdogd.service")


def check_writers(site: Site) -> Iterator[Finding]:
    """Whether only root may change what the watchdog is: program, unit, settings, rules, audit rules."""
    faults: dict[str, str] = {}
    hidden = 0
    for path in _list_own(site):
        try:
            faults.update(_find_faults(site, path))
        except FileNotFoundError:
            continue
        except PermissionError:
            hidden += 1
    if faults:
        named = "; ".join([*faults][:NAMED])
        more = f"; and {len(faults) - NAMED} more" if len(faults) > NAMED else ""
        yield error(
            "writers",
            f"Others than root could change the watchdog: {named}{more}.",
            " && ".join(dict.fromkeys([*faults.values()][:NAMED])),
        )
    else:
        yield ok("writers", "Only root may change program, unit, settings and rules.")
    if hidden:
        yield needs_root("writers", f"Whether {hidden} of its files may be changed")


def _list_own(site: Site) -> Iterator[Path]:
    config = site.config
    yield Path(__file__).resolve().parent.parent
    if config.path is not None:
        yield Path(config.path)
    yield Path(INSTALLED_RULES)
    yield from map(Path, _UNITS)
    for folder in ("/etc/watchdogd/rules", "/usr/share/watchdogd/rules"):
        yield Path(folder)
        try:
            found = sorted(site.path(folder).rglob("*"))
        except OSError:
            continue
        yield from (Path("/") / path.relative_to(site.root) for path in found)


def _find_faults(site: Site, path: Path) -> Iterator[tuple[str, str]]:
    """What is wrong with a file and the folders above it, each with the command that mends it."""
    is_system = str(path).startswith(_SYSTEM)
    for part in (path, *path.parents):
        status = site.path(part).lstat()
        if stat.S_ISLNK(status.st_mode):
            continue
        quoted = shlex.quote(str(part))
        if status.st_uid != 0 and (is_system or status.st_uid != site.euid):
            yield f"{part} belongs to {_name_user(status.st_uid)}", f"chown root: {quoted}"
        if status.st_mode & _OTHERS_WRITE and not status.st_mode & stat.S_ISVTX:
            yield f"{part} may be written by others (mode {stat.S_IMODE(status.st_mode):04o})", f"chmod go-w {quoted}"


def check_readers(site: Site) -> Iterator[Finding]:
    """Whether secrets and alerts are for root and the daemon alone."""
    faults: list[tuple[str, str]] = []
    hidden: list[str] = []
    for path, what in _list_private(site):
        try:
            status = site.path(path).stat()
        except FileNotFoundError:
            continue
        except PermissionError:
            hidden.append(str(path))  # which is as it should be
            continue
        if status.st_mode & stat.S_IRWXO:
            faults.append((f"{path} ({what})", f"chmod o-rwx {shlex.quote(str(path))}"))
        elif status.st_uid != 0 and _name_user(status.st_uid) != ACCOUNT and status.st_uid != site.euid:
            faults.append(
                (f"{path} ({what}) belongs to {_name_user(status.st_uid)}", f"chown root: {shlex.quote(str(path))}")
            )
    if faults:
        yield error(
            "readers",
            f"Every user can read what is not meant for them: {'; '.join(fault for fault, _ in faults[:NAMED])}.",
            " && ".join(mend for _, mend in faults),
        )
    else:
        yield ok("readers", "Secrets and the database are not for everybody to read.")


def _list_private(site: Site) -> Iterator[tuple[Path, str]]:
    config = site.config
    database = Path(config.store.path)
    yield from ((Path(f"{database}{part}"), "the database") for part in ("", "-wal", "-shm"))
    folder = Path(config.path).parent if config.path is not None else Path("/etc/watchdogd")
    try:
        kept = sorted(site.path("/etc/watchdogd/credentials").iterdir())
    except OSError:
        kept = []  # there is none, or it is root's, as it should be
    yield from ((Path("/") / path.relative_to(site.root), "a credential") for path in kept)
    for webhook in config.webhooks:
        for name in ("url_file", "secret_file", "headers_file", "proxy_file", "client_key"):
            given: str | None = getattr(webhook, name)
            if given:
                yield folder / given, f"a secret of webhook {webhook.name}"


def check_untouched(site: Site) -> Iterator[Finding]:
    """Whether the files are those that were installed, by whatever record there is of them."""
    manifests = list(_read_manifests(site))
    yield from _judge_manifests(site, manifests)
    if any(source in _MENDS for source, *_ in manifests):
        return  # the package's record covers the program; pip's is of before it was packed
    try:
        distribution = metadata.distribution("watchdogd")
    except metadata.PackageNotFoundError:
        yield unknown(
            "program files", "The program was not installed as a package: there is no record to compare with."
        )
        return
    yield judge_distribution(distribution)


def _read_manifests(site: Site) -> Iterator[tuple[str, Callable[[bytes], str], dict[str, str]]]:
    """Name, digest and expected values by path, of each record that is there."""
    if site.exists(RECORD_PATH):
        yield str(RECORD_PATH), _sha256, json.loads(site.read(RECORD_PATH))
    if site.exists(DPKG_SUMS):
        pairs = (line.split(None, 1) for line in site.read(DPKG_SUMS).splitlines() if line.strip())
        yield _DPKG, _md5, {f"/{path.strip()}": digest for digest, path in pairs}
    for package in list_installed(site.root):
        if package.name == "watchdogd":
            digests = {path: record.sha256 for path, record in package.read_all().items()}
            yield _PACMAN, _sha256, {os.fsdecode(path): digest.hex() for path, digest in digests.items() if digest}


def _judge_manifests(
    site: Site, manifests: Iterable[tuple[str, Callable[[bytes], str], dict[str, str]]]
) -> Iterator[Finding]:
    is_any = False
    for source, digest, wanted in manifests:
        is_any = True
        present = {path: value for path, value in wanted.items() if not _is_left_out(site, path)}
        changed, gone, hidden = _compare(site, digest, present)
        mend = _MENDS.get(source, "watchdogd install --force")
        if changed or gone:
            told = [f"{_name_some(changed)} changed"] * bool(changed) + [f"{_name_some(gone)} gone"] * bool(gone)
            yield error(
                "own files",
                f"Not as they were installed, by {source}: {'; '.join(told)}.",
                f"{mend}    # after a look at who did it",
            )
        elif hidden:
            yield needs_root("own files", f"{hidden} of the files in {source}")
        else:
            yield ok("own files", f"All {len(present)} files are as they were installed, by {source}.")
    if not is_any:
        yield unknown("own files", "Neither `watchdogd install` nor a package left a record to compare with.")


def _is_left_out(site: Site, path: str) -> bool:
    return path.startswith(DOCUMENTS) and not site.exists(path)


def _compare(site: Site, digest: Callable[[bytes], str], wanted: dict[str, str]) -> tuple[list[str], list[str], int]:
    """The paths that changed, those that are gone, and how many cannot be read."""
    changed, gone, hidden = [], [], 0
    for path, expected in sorted(wanted.items()):
        try:
            if path not in EDITABLE and digest(site.path(path).read_bytes()) != expected:
                changed.append(path)
        except FileNotFoundError:
            if path not in EDITABLE:
                gone.append(path)
        except OSError:
            hidden += 1
    return changed, gone, hidden


def judge_distribution(distribution: metadata.Distribution) -> Finding:
    """The program's own modules against the RECORD that pip wrote (PEP 376, PEP 427: sha256, urlsafe base64)."""
    check = "program files"
    if '"editable": true' in (distribution.read_text("direct_url.json") or ""):
        return unknown(check, "The program runs from a checkout, which is there to be changed.")
    changed: list[str] = []
    number = 0
    for file in distribution.files or ():
        if file.hash is None or file.hash.mode != "sha256":
            continue
        number += 1
        try:
            content = Path(str(file.locate())).read_bytes()
        except OSError:
            changed.append(str(file))
            continue
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        if digest != file.hash.value:
            changed.append(str(file))
    if changed:
        return error(
            check,
            f"The program is not as it was installed: {_name_some(changed)} changed or gone.",
            "pip install --force-reinstall watchdogd    # in its environment, after a look at who did it",
        )
    if not number:
        return unknown(check, "The record of the installed program names no file.")
    return ok(check, f"The program's {number} files are as they were installed.")


def check_rules(site: Site) -> Iterator[Finding]:
    """Whether settings and rules could be loaded by a start now."""
    from watchdogd.cli.check import examine  # noqa: PLC0415 - heavy

    path = None if site.config.path is None else Path(site.config.path)
    report = examine(path, (), Path.cwd(), dict(site.environ))
    errors, warnings = report.count("error"), report.count("warning")
    first = next((str(problem) for problem in report.problems if problem.severity == "error" or not errors), "")
    if errors:
        yield error(
            "settings and rules",
            f"{errors} {_plural(errors, 'mistake')}: a start would be refused. The first: {first}",
            "watchdogd check",
        )
    elif warnings:
        yield warning(
            "settings and rules", f"{warnings} {_plural(warnings, 'warning')}. The first: {first}", "watchdogd check"
        )
    else:
        yield ok("settings and rules", f"{len(report.rules or ())} rules can be loaded, and the settings are sound.")


def _plural(number: int, noun: str) -> str:
    return noun if number == 1 else f"{noun}s"


def _name_some(paths: list[str]) -> str:
    more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
    return f"{', '.join(paths[:NAMED])}{more}"


def _name_user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
