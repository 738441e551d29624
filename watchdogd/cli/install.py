"""`watchdogd install`: unit, configuration, rules and catalog in place, so that `systemctl enable --now` works."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Final

from watchdogd.cli.placement import Placed, Placement
from watchdogd.errors import WatchdogdError
from watchdogd.resources import SYSTEM_RULES, find_resource

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

HELP = "put unit, configuration, rules and catalog in place (root)"

CONFIG_PATH: Final = Path("/etc/watchdogd/config.yaml")
RULES_PATH: Final = Path("/etc/watchdogd/rules")
"""The admin's layer, above the packaged rules."""
PACKAGED_RULES_PATH: Final = SYSTEM_RULES
UNIT_PATH: Final = Path("/etc/systemd/system/watchdogd.service")
STATUS_SERVICE_PATH: Final = UNIT_PATH.with_name("watchdogd-audit-status.service")
STATUS_TIMER_PATH: Final = UNIT_PATH.with_name("watchdogd-audit-status.timer")
CATALOG_PATH: Final = Path("/usr/lib/systemd/catalog/watchdogd.catalog")
SPANISH_CATALOG_PATH: Final = CATALOG_PATH.with_name("watchdogd.es.catalog")
SYSUSERS_PATH: Final = Path("/usr/lib/sysusers.d/watchdogd.conf")
TMPFILES_PATH: Final = Path("/usr/lib/tmpfiles.d/watchdogd.conf")
AUDIT_RULES_PATH: Final = Path("/etc/audit/rules.d/50-watchdogd.rules")
ACCOUNT: Final = "watchdogd"

_RULES_README: Final = f"""\
Your own Sigma rules: every .yml and .yaml file here and in folders below, except in folders named `tests`.
What you save takes effect within a second or so; `watchdogd reload` waits for it and prints every mistake.
While anything is broken, the rules from before stay in force (`watchdogd status`).

The rules that come with watchdogd are in {PACKAGED_RULES_PATH}; an update writes them anew, so leave them alone:
- another version of one: copy it here and keep its id, and yours takes its place;
- switch one off, or give it another level: `rules.disabled` and `rules.levels` in {CONFIG_PATH};
- an exception for this host: a Sigma filter here.
"""

_PLAIN_WORD: Final = re.compile(r"[A-Za-z0-9_@+./-]+")
"""What needs no quoting in a unit's ExecStart."""

_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument(
        "--root", type=Path, default=Path("/"), metavar="DIR", help="write below DIR, files only (to build a package)"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done and do nothing")
    parser.add_argument("--uninstall", action="store_true", help="take away what was installed; keeps what you edited")
    parser.add_argument("--force", action="store_true", help="overwrite edited files too (the old one stays as .old)")
    parser.add_argument(
        "--audit-rules",
        action="store_true",
        help=f"also write {AUDIT_RULES_PATH}: what the kernel is asked to record",
    )


def run(args: argparse.Namespace) -> int:
    """Install or uninstall, and print each file. 0 fine; raises WatchdogdError with what to do about it."""
    live = args.root.resolve() == Path("/")
    if live and not args.dry_run and os.geteuid() != 0:
        raise WatchdogdError("installing needs root: run it with sudo (--dry-run shows what would be done)")
    placement = Placement(args.root, force=args.force, dry=args.dry_run)
    act = live and not args.dry_run
    if args.uninstall:
        _uninstall(placement, act=act)
    else:
        _install(placement, act=act, check=live and not args.force, audit_rules=args.audit_rules)
    return 0


def _install(placement: Placement, *, act: bool, check: bool, audit_rules: bool) -> None:
    program = find_program()
    if check:
        problems = list(find_obstacles(program))
        if problems:
            raise WatchdogdError("\n".join([*problems, _ADVICE]))
    audit_rules = audit_rules or AUDIT_RULES_PATH in placement.recorded()
    placement.place(list_files(program, audit_rules=audit_rules))
    _print_steps(placement)
    if act:
        _make_account()
        _run_if_there("journalctl", "--update-catalog")
        _reload_systemd()
    print("Next: systemctl enable --now watchdogd    (alerts: journalctl -t watchdogd)")  # noqa: T201
    if audit_rules:
        print("      augenrules --load                 (the kernel's audit rules)")  # noqa: T201


def _uninstall(placement: Placement, *, act: bool) -> None:
    if act and _systemd_runs():
        _run_if_there("systemctl", "disable", "--now", UNIT_PATH.name, may_fail=True)
    placement.remove_all()
    _print_steps(placement)
    if act:
        _run_if_there("journalctl", "--update-catalog")
        _reload_systemd()
    print(f"The alerts in /var/lib/watchdogd and the account {ACCOUNT} are left; delete them if you want.")  # noqa: T201


def _print_steps(placement: Placement) -> None:
    for step in placement.steps:
        print(step)  # noqa: T201 (the command's result)


def list_files(program: Sequence[str], *, audit_rules: bool) -> list[Placed]:
    """Everything that is installed. `program` is the command that starts watchdogd."""
    units = find_resource("systemd")
    unit = (units / "watchdogd.service").read_text()
    command = " ".join(_unit_word(word) for word in program)
    unit = unit.replace("@PROGRAM@", command).replace("@CONFIG@", str(CONFIG_PATH))
    files = [
        Placed(UNIT_PATH, unit.encode()),
        Placed(STATUS_SERVICE_PATH, (units / STATUS_SERVICE_PATH.name).read_bytes()),
        Placed(STATUS_TIMER_PATH, (units / STATUS_TIMER_PATH.name).read_bytes()),
        Placed(CATALOG_PATH, (units / CATALOG_PATH.name).read_bytes()),
        Placed(SPANISH_CATALOG_PATH, (units / SPANISH_CATALOG_PATH.name).read_bytes()),
        Placed(SYSUSERS_PATH, (units / "watchdogd.sysusers").read_bytes()),
        Placed(TMPFILES_PATH, (units / "watchdogd.tmpfiles").read_bytes()),
        Placed(CONFIG_PATH, find_resource("config.yaml").read_bytes(), editable=True),
    ]
    files.extend(_list_rules())
    files.append(Placed(RULES_PATH / "README", _RULES_README.encode(), editable=True))
    if audit_rules:
        files.append(Placed(AUDIT_RULES_PATH, (units / "audit.rules").read_bytes(), editable=True, mode=0o640))
    return files


def _list_rules() -> Iterator[Placed]:
    folder = find_resource("rules")
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.suffix in {".yml", ".yaml"} and "tests" not in relative.parts:
            yield Placed(PACKAGED_RULES_PATH / relative, path.read_bytes())


def _unit_word(word: str) -> str:
    if not _PLAIN_WORD.fullmatch(word):
        raise WatchdogdError(f"{word!a} cannot stand in a unit file: install watchdogd below a plainly named folder")
    return word


def find_program() -> tuple[str, ...]:
    """The command that starts this very installation: its own script, else its interpreter with `-m`."""
    script = Path(sysconfig.get_path("scripts")) / "watchdogd"
    if script.is_file():
        return (str(script),)
    return (sys.executable, "-m", "watchdogd")


_ADVICE = (
    "Install watchdogd where root owns it and everybody may read it, for instance:\n"
    "  python3 -m venv /opt/watchdogd && /opt/watchdogd/bin/pip install .\n"
    "  /opt/watchdogd/bin/watchdogd install"
)


def find_obstacles(program: Sequence[str]) -> Iterator[str]:
    """Why the service could not, or should not, run this installation: one sentence for each reason."""
    package = str(Path(__file__).resolve().parent.parent)
    seen: set[Path] = set()
    for start in (program[0], sys.executable, package):
        for path in (Path(start).absolute(), Path(start).resolve()):
            for part in (path, *path.parents):
                if part not in seen:
                    seen.add(part)
                    yield from _judge_part(part, path)


def _judge_part(part: Path, path: Path) -> Iterator[str]:
    try:
        status = part.lstat()
    except OSError as error:
        yield f"{part} cannot be looked at: {error.strerror}"
        return
    way = f"on the way to {path}" if part != path else "which it must run"
    if stat.S_ISLNK(status.st_mode):
        return
    if not status.st_mode & stat.S_IXOTH:
        mode = stat.S_IMODE(status.st_mode)
        yield f"the account {ACCOUNT} cannot pass {part} (mode {mode:04o}), {way}"
    if status.st_uid != 0:
        yield f"{part} belongs to {_user_name(status.st_uid)}, who could change the watchdog, {way}"
    elif status.st_mode & _OTHERS_WRITE and not status.st_mode & stat.S_ISVTX:
        yield f"{part} may be written by others, who could change the watchdog, {way}"


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _make_account() -> None:
    if _run_if_there("systemd-sysusers", str(SYSUSERS_PATH)):
        return
    try:
        pwd.getpwnam(ACCOUNT)
    except KeyError:
        options = ["--system", "--user-group", "--no-create-home", "--home-dir", "/var/lib/watchdogd"]
        if not _run_if_there("useradd", *options, "--shell", "/usr/sbin/nologin", ACCOUNT):
            raise WatchdogdError(
                f"neither systemd-sysusers nor useradd is here: create the system account {ACCOUNT} and run this again"
            ) from None


def _systemd_runs() -> bool:
    """As sd_booted(3) tells."""
    return Path("/run/systemd/system").is_dir()


def _reload_systemd() -> None:
    if _systemd_runs():
        _run_if_there("systemctl", "daemon-reload")


def _run_if_there(name: str, *arguments: str, may_fail: bool = False) -> bool:
    """Run a program of the system; False where it is not installed. Raises WatchdogdError where it fails."""
    program = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
    if program is None:
        return False
    print("run     ", name, *arguments)  # noqa: T201 (the command's result)
    done = subprocess.run([program, *arguments], capture_output=True, text=True, errors="replace", check=False)  # noqa: S603 (fixed words)
    if done.returncode != 0 and not may_fail:
        raise WatchdogdError(f"{name} {' '.join(arguments)} failed with {done.returncode}: {done.stderr.strip()}")
    return True
