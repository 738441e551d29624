"""A booted systemd (Debian 12, in systemd-nspawn) with watchdogd's wheel in it, made once and started in a second.

The base folder is cached below `.cache`: Debian, and a virtual environment `/opt/watchdogd` with the locked
dependencies. They are fetched for the container's Python (3.11), whichever Python runs the tests; systemd-python, which
has no wheel, is Debian's own. What the container writes is gone when it ends.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from tests.host.auditing import DIE_WITH_US
from tests.host.shell import Shell

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

ROOT: Final = Path(__file__).resolve().parents[2]
CACHE: Final = ROOT / ".cache"
VENV: Final = Path("/opt/watchdogd")
SITE: Final = VENV / "lib/python3.11/site-packages"
PROGRAM: Final = VENV / "bin/watchdogd"

_SUITE: Final = "bookworm"
_PACKAGES: Final = "systemd,systemd-sysv,dbus,python3,python3-systemd,procps"
_PYTHON: Final = "3.11"
_SCRIPT: Final = f"""\
#!{VENV}/bin/python3
import sys
from watchdogd.cli.main import main
sys.exit(main())
"""
_RELEASE_PACKAGES: Final = f"{_PACKAGES},auditd"
"""What our Debian package depends on and recommends: it is installed without a network."""
_MASKED: Final = ("console-getty.service", "auditd.service", "systemd-journald-audit.socket", "apt-daily.timer")


def build_base() -> Path:
    """The base folder, made on first use (about a minute) and again when its recipe or the lock file changes."""
    requirements = _portable_requirements((ROOT / "requirements/runtime.txt").read_text())

    def finish(unfinished: Path) -> None:
        making = ["python3", "-m", "venv", "--without-pip", "--system-site-packages", str(VENV)]
        _run(["chroot", str(unfinished), *making])
        listing = unfinished / "root/requirements.txt"
        listing.write_text(requirements)
        wanted = ["--only-binary=:all:", "--implementation=cp", f"--python-version={_PYTHON}"]
        target = unfinished / SITE.relative_to("/")
        pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
        _run([*pip, "--require-hashes", *wanted, "--target", str(target), "-r", str(listing)], timeout_s=900)
        script = unfinished / PROGRAM.relative_to("/")
        script.write_text(_SCRIPT)
        script.chmod(0o755)

    return _build("base", _SUITE, _PACKAGES, f"{_SCRIPT}\n{requirements}", finish)


def build_release(suite: str) -> Path:
    """A release of Debian with what our package depends on, made on first use (half a minute)."""
    return _build(suite, suite, _RELEASE_PACKAGES, "", lambda _: None)


def _build(name: str, suite: str, packages: str, more: str, finish: Callable[[Path], None]) -> Path:
    """A cached folder with a bootable Debian; an older one of the name goes."""
    recipe = "\n".join([suite, packages, more, *_MASKED])
    base = CACHE / f"nspawn-{name}-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"
    if base.is_dir():
        return base
    for old in CACHE.glob(f"nspawn-{name}-*"):
        shutil.rmtree(old)
    CACHE.mkdir(exist_ok=True)
    unfinished = CACHE / f"nspawn-{name}-unfinished"
    _run(["mmdebstrap", "-q", "--variant=minbase", f"--include={packages}", suite, str(unfinished)], timeout_s=900)
    finish(unfinished)
    for unit in _MASKED:
        (unfinished / "etc/systemd/system" / unit).symlink_to("/dev/null")
    return unfinished.rename(base)


def _portable_requirements(text: str) -> str:
    """The lock file without what has no wheel."""
    blocks = re.split(r"^(?=\S)", text, flags=re.MULTILINE)
    return "".join(block for block in blocks if not block.startswith("systemd-python"))


def build_package(folder: Path) -> Path:
    """The package as `pip install .` would put it: unpacked from a wheel of this checkout."""
    _run([sys.executable, "-m", "pip", "wheel", "-q", "--disable-pip-version-check", "--no-deps", "-w", folder, ROOT])
    [wheel] = folder.glob("watchdogd-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked" / "watchdogd"


class Machine(Shell):
    """One booted container; it shares the host's network, so the host's loopback is its own."""

    def __init__(self, base: Path, output: Path, binds: Mapping[str, Path] | None = None) -> None:
        """`binds`: folders of the host by their place inside, read-only. `output` takes what systemd says."""
        self._base = base
        self._binds = dict(binds or {})
        self._output = output
        self._container: subprocess.Popen[bytes] | None = None
        self._init = 0
        self._left_behind: list[Path] = []

    def __enter__(self) -> Self:
        try:
            self._boot()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._container is None:
            return
        self._container.terminate()  # nspawn asks the container's systemd to power off
        try:
            self._container.wait(20)
        except subprocess.TimeoutExpired:
            if self._init:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._init, signal.SIGKILL)
            self._container.kill()
            self._container.wait()
        self._container = None
        for folder in self._left_behind:
            with contextlib.suppress(OSError):  # only what is empty by now
                folder.rmdir()

    def run(
        self, *command: str | Path, check: bool = True, stdin: str | None = None, timeout_s: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside as root, as from a login."""
        enter = ["nsenter", "--all", "--target", str(self._init), "--", "env", "-i", "-C", "/"]
        environment = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"]
        words = [*enter, *environment, *map(str, command)]
        done = subprocess.run(words, capture_output=True, text=True, input=stdin, check=False, timeout=timeout_s)
        if check and done.returncode != 0:
            said = f"{done.stdout}{done.stderr}"
            raise RuntimeError(f"{command} inside the machine ended with {done.returncode}:\n{said}")
        return done

    def _boot(self) -> None:
        binds = [f"--bind-ro={host}:{inside}" for inside, host in self._binds.items()]
        name = f"watchdogd-test-{os.getpid()}"
        nspawn = Path("/run/systemd/nspawn")
        folders = (nspawn / "propagate" / name, nspawn / "propagate", nspawn / "locks", nspawn)
        self._left_behind = [folder for folder in folders if not folder.exists()]
        command = ["systemd-nspawn", "-q", "-D", str(self._base), "--volatile=overlay", *binds, "-M", name]
        options = ["--register=no", "--keep-unit", "-b", "systemd.show_status=no"]
        with self._output.open("wb") as output:
            self._container = subprocess.Popen(
                [*DIE_WITH_US, *command, *options], stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        deadline_s = time.monotonic() + 60
        while not self._is_up():
            if self._container.poll() is not None or time.monotonic() > deadline_s:
                said = self._output.read_text(errors="replace")[-4000:]
                raise RuntimeError(f"the container does not boot: {said}")
            time.sleep(0.1)

    def _is_up(self) -> bool:
        self._init = self._find_init()
        if not self._init:
            return False
        state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
        return state in {"running", "degraded"}

    def _find_init(self) -> int:
        """The container's PID 1 as the host counts: the grandchild of nspawn that is called systemd."""
        assert self._container is not None
        waiting = [self._container.pid]
        while waiting:
            pid = waiting.pop()
            try:
                if Path(f"/proc/{pid}/comm").read_text().strip() == "systemd":
                    return pid
                waiting.extend(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
            except OSError:
                continue
        return 0


def _run(command: Sequence[str | Path], timeout_s: float = 300.0) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {done.returncode}: {done.stderr[-2000:]}")
