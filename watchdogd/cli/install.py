"""`watchdogd install`: unit, configuration, rules and catalog in place, so that `systemctl enable --now` works.

What would change is shown first, as a diff; on a terminal it is asked about. `--undo` takes it all away again.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import stat
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Final

from watchdogd.cli.inventory import (
    AUDIT_RULES_PATH,
    CREDENTIALS_PATH,
    DISTRIBUTION_MARK,
    LAYOUTS,
    PACKAGED_RULES_PATH,
    SYSUSERS_PATH,
    TMPFILES_PATH,
    UNIT_PATH,
    list_files,
)
from watchdogd.cli.placement import Placed, Placement, render_diff
from watchdogd.errors import WatchdogdError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

HELP = "put unit, configuration, rules and catalog in place (root)"

ACCOUNT: Final = "watchdogd"

_MARK: Final = "This watchdogd belongs to a package of the distribution: `watchdogd install` leaves it alone.\n"

_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument(
        "--root", type=Path, default=Path("/"), metavar="DIR", help="write below DIR, files only (to build a package)"
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would be done and do nothing")
    parser.add_argument("--diff", action="store_true", help="show new files and packaged rules whole, too")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask (it is asked on a terminal only)")
    parser.add_argument(
        "--undo", "--uninstall", action="store_true", help="take away what was installed; keeps what you edited"
    )
    parser.add_argument("--force", action="store_true", help="overwrite edited files too (the old one stays as .old)")
    parser.add_argument(
        "--audit-rules",
        action="store_true",
        help=f"also write {AUDIT_RULES_PATH}: what the kernel is asked to record",
    )

    parser.add_argument(
        "--layout", choices=sorted(LAYOUTS), default="local", help="with --root: where a distribution's package has it"
    )
    parser.add_argument("--program", metavar="PATH", help="with --root: what the unit starts (default: this program)")


def run(args: argparse.Namespace) -> int:
    """Show what changes, then change it. 0 fine, 1 not wanted; raises WatchdogdError with what to do about it."""
    live = args.root.resolve() == Path("/")
    if live and (args.layout != "local" or args.program):
        raise WatchdogdError("--layout and --program are for packages: they need --root DIR")
    if live and DISTRIBUTION_MARK.exists():
        raise WatchdogdError(
            "a package of the distribution put everything in place; change or remove it by the package manager "
            "(what is left: systemctl enable --now watchdogd)"
        )
    if live and not args.dry_run and os.geteuid() != 0:
        raise WatchdogdError("installing needs root: run it with sudo (--dry-run shows what would be done)")
    files = None if args.undo else _choose_files(args, check=live and not args.force)
    plan = _place(args, files, dry=True)
    changes = [step for step in plan.steps if step.before != step.after]
    _show(plan, whole=args.diff)
    if args.dry_run:
        return 0
    if changes and not args.yes and not _is_wanted(len(changes)):
        print("nothing was changed")  # noqa: T201 (the command's result)
        return 1
    if live and args.undo:
        _stop_service()
    _place(args, files, dry=False)
    if live:
        _settle(undone=args.undo)
    _say_next(files, plan)
    return 0


def _choose_files(args: argparse.Namespace, *, check: bool) -> list[Placed]:
    program = (args.program,) if args.program else find_program()
    problems = list(find_obstacles(program)) if check else []
    if problems:
        raise WatchdogdError("\n".join([*problems, _ADVICE]))
    known = Placement(args.root, dry=True).recorded()
    files = list_files(program, audit_rules=args.audit_rules or AUDIT_RULES_PATH in known, layout=args.layout)
    if args.layout != "local":
        files.append(Placed(DISTRIBUTION_MARK, _MARK.encode()))
    return files


def _place(args: argparse.Namespace, files: list[Placed] | None, *, dry: bool) -> Placement:
    """Put the files in place, or without files take everything away."""
    placement = Placement(args.root, force=args.force, dry=dry, record=args.layout == "local")
    if files is None:
        placement.remove_all()
    else:
        placement.place(files)
    return placement


def _show(plan: Placement, *, whole: bool) -> None:
    """Diffs of what stands there and changes, with `whole` of everything; then one line for each file."""
    for step in plan.steps:
        is_short = step.before is not None and step.after is not None and not _is_packaged_rule(step.path)
        if whole or is_short:
            for line in render_diff(step):
                print(line)  # noqa: T201 (the command's result)
    for step in plan.steps:
        print(step)  # noqa: T201 (as above)


def _is_packaged_rule(path: Path) -> bool:
    return path.is_relative_to(PACKAGED_RULES_PATH)


def _is_wanted(changes: int) -> bool:
    """Ask on a terminal; elsewhere nobody is there to say no."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return True
    try:
        answer = input(f"{changes} files change. Go on? [y/N] ")
    except EOFError:
        return False
    return answer.strip().lower() in {"y", "yes"}


def _stop_service() -> None:
    if _systemd_runs():
        _run_if_there("systemctl", "disable", "--now", UNIT_PATH.name, may_fail=True)
    with contextlib.suppress(OSError):  # somebody's secrets are in it, or it is gone
        CREDENTIALS_PATH.rmdir()


def _settle(*, undone: bool) -> None:
    """What makes the system know the files. Again is harmless."""
    if not undone:
        _make_account()
        _run_if_there("systemd-tmpfiles", "--create", str(TMPFILES_PATH))
    _run_if_there("journalctl", "--update-catalog")
    _reload_systemd()


def _say_next(files: list[Placed] | None, plan: Placement) -> None:
    with_audit = any(step.path == AUDIT_RULES_PATH for step in plan.steps)
    if files is None:
        said = f"The alerts in /var/lib/watchdogd and the account {ACCOUNT} are left; delete them if you want."
    else:
        said = "Next: systemctl enable --now watchdogd    (alerts: journalctl -t watchdogd)"
    print(said)  # noqa: T201 (the command's result)
    if with_audit:
        print("      augenrules --load                 (the kernel's audit rules)")  # noqa: T201 (as above)


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
