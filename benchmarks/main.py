"""`make bench`: ours beside laurel, ausearch and libauparse's feed, over the same file, in one run.

CPU seconds (user and system, of the whole process, start-up included) and peak memory, each the best of three rounds;
rounds are interleaved, so that a slow moment of the machine hits all alike. Prints a table; passes no judgement.
Needs no root, but for installing what it compares with.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks.match import Runner, Work, ask_work, compare, list_runners

ROOT = Path(__file__).resolve().parent.parent
HERE = Path(__file__).resolve().parent
ROUNDS = 3
DEBIAN_PYTHON = "/usr/bin/python3"
MODES = {
    "lazy": "records put together, no field read",
    "fields": "records put together, every field interpreted",
    "events": "events with all views",
    "both": "events with all views, every field interpreted",
}
LAUREL = """\
directory = "{folder}"
[auditlog]
file = "laurel.log"
size = 1000000000
generations = 1
"""


class Contestant(NamedTuple):
    """A command; `stdin` says that it reads the log from there, else the log is its last argument."""

    name: str
    command: list[str]
    what: str
    stdin: bool = False


class Cost(NamedTuple):
    """What one run took."""

    cpu_s: float
    peak_kib: int


def measure(contestant: Contestant, log: Path) -> Cost:
    """One run; its output goes nowhere. Exits where the program fails."""
    command = contestant.command if contestant.stdin else [*contestant.command, str(log)]
    with log.open("rb") as stdin, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command,
            stdin=stdin if contestant.stdin else subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            cwd=ROOT,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            errors.seek(0)
            sys.exit(f"{contestant.name} failed:\n{errors.read().decode('utf-8', 'replace')}")
    return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss)


def find_corpora() -> Path:
    """The data beside the checkout."""
    return Path(os.environ.get("WATCHDOGD_CORPORA", ROOT.parent / "shared" / "data"))


def find_log(folder: Path) -> Path:
    """The volume log, unpacked into `folder`; by a child, so that this process stays small."""
    packed = find_corpora() / "recorded" / "volume.log.xz"
    if not packed.is_file():
        sys.exit(f"{packed} is missing: set WATCHDOGD_CORPORA to the folder that holds recorded/")
    log = folder / "volume.log"
    unpack = "import lzma, shutil, sys; shutil.copyfileobj(lzma.open(sys.argv[1]), open(sys.argv[2], 'wb'))"
    subprocess.run([sys.executable, "-c", unpack, str(packed), str(log)], check=True)
    return log


def list_ours() -> list[Contestant]:
    """Our own modes, by the Python that runs this."""
    return [
        Contestant(f"watchdogd {mode}", [sys.executable, "-m", "benchmarks.read_log", mode], what)
        for mode, what in MODES.items()
    ]


def list_peers(folder: Path) -> list[Contestant]:
    """Those that are installed; what is missing is said with the line that installs it."""
    peers = []
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"
    if laurel := shutil.which("laurel", path=path):
        config = folder / "laurel.toml"
        config.write_text(LAUREL.format(folder=folder))
        peers.append(
            Contestant("laurel", [laurel, "--config", str(config)], "JSON to a file, its default settings", stdin=True)
        )
    else:
        print("laurel is missing: apt-get install laurel")
    if ausearch := shutil.which("ausearch", path=path):
        peers.append(Contestant("ausearch", [ausearch, "--raw", "-if"], "--raw: records put together and printed"))
    else:
        print("ausearch is missing: apt-get install auditd")
    if Path(DEBIAN_PYTHON).exists() and succeeds([DEBIAN_PYTHON, "-c", "import auparse"]):
        command = [DEBIAN_PYTHON, str(HERE / "feed_auparse.py")]
        peers.append(Contestant("auparse", command, "Python feed: every field's raw value read"))
    else:
        print("the Python auparse is missing: apt-get install python3-audit")
    return peers


def find_sigmahq() -> Path | None:
    """SigmaHQ's Linux rules, where the corpora are."""
    folder = find_corpora() / "third_party" / "sigmahq"
    return folder if folder.is_dir() else None


def borrow_packages(python: Path, folder: Path) -> Path:
    """Debian's Python with the packages of another one of its version: what users run, and built as laurel is.

    The other one where there is none; it may be built without optimisation, which costs a fifth.
    """
    asks = "import sys, sysconfig; print(*sys.version_info[:2], sysconfig.get_path('purelib'))"
    said = [
        subprocess.run([one, "-c", asks], check=True, capture_output=True, text=True).stdout.split()
        for one in (str(python), DEBIAN_PYTHON)
        if Path(one).exists()
    ]
    if len(said) < len((python, DEBIAN_PYTHON)) or said[0][:2] != said[1][:2]:
        return python
    subprocess.run([DEBIAN_PYTHON, "-m", "venv", "--without-pip", str(folder)], check=True)
    [site] = folder.glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text(f"{said[0][2]}\n")
    return folder / "bin" / "python"


def list_work(folder: Path, log: Path) -> list[Runner]:
    """Those that matching is compared with; zargunlite's Python is that of the folder that WATCHDOGD_PEERS names."""
    runners = [
        Runner("laurel", "decodes, matches nothing", partial(_work, peer, log))
        for peer in list_peers(folder)
        if peer.name == "laurel"
    ]
    python = Path(os.environ.get("WATCHDOGD_PEERS", ROOT / ".venv-peers")) / "bin/python"
    sigmahq = find_sigmahq()
    if (
        sigmahq is not None
        and python.exists()
        and succeeds([str(python), "-c", "import zargunlite, sigma.backends.sqlite"])
    ):
        python = borrow_packages(python, folder / "peers")
        command = [str(python), str(HERE / "feed_zargunlite.py"), str(sigmahq), str(log)]
        runners.append(Runner("zargunlite", "each line a row in SQLite", partial(ask_work, command)))
    else:
        print(
            "zargunlite is missing: python3 -m venv .venv-peers && "
            ".venv-peers/bin/pip install zargunlite pysigma-backend-sqlite"
        )
    return runners


def _work(peer: Contestant, log: Path) -> Work:
    cost = measure(peer, log)
    return Work(cost.cpu_s, cost.peak_kib, 0, 0)


def succeeds(command: list[str]) -> bool:
    """True where the command ends well."""
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def describe_versions() -> str:
    """What ran."""
    parts = [f"Python {sys.version.split()[0]}", f"Linux {os.uname().release}"]
    if shutil.which("dpkg-query"):
        done = subprocess.run(
            ["dpkg-query", "-W", "-f", "${Package} ${Version}\n", "laurel", "auditd", "python3-audit"],
            check=False,
            capture_output=True,
            text=True,
        )
        parts += done.stdout.split("\n")[:-1]
    return ", ".join(parts)


def run_rounds(contestants: list[Contestant], log: Path) -> dict[str, Cost]:
    """The best of each."""
    runs: dict[str, list[Cost]] = {contestant.name: [] for contestant in contestants}
    for _ in range(ROUNDS):
        for contestant in contestants:
            runs[contestant.name].append(measure(contestant, log))
    return {
        name: Cost(min(cost.cpu_s for cost in costs), min(cost.peak_kib for cost in costs))
        for name, costs in runs.items()
    }


def print_table(contestants: list[Contestant], costs: dict[str, Cost], lines: int) -> None:
    """Ratios are of throughput: 2.00 is twice as many lines in a CPU second."""
    references = [name for name in ("laurel", "auparse", "ausearch") if name in costs]
    # A child's peak begins with what its parent had when it was started: below that nothing can be said.
    floor_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"{'':18} {'CPU s':>6} {'lines/s':>9} {'peak MiB':>8}" + "".join(f" {'x ' + name:>10}" for name in references)
    )
    for contestant in contestants:
        cost = costs[contestant.name]
        ratios = "".join(f" {costs[name].cpu_s / cost.cpu_s:>10.2f}" for name in references)
        peak = f"{'<' if cost.peak_kib <= floor_kib else ''}{cost.peak_kib / 1024:.0f}"
        rate = f"{lines / cost.cpu_s:,.0f}"
        print(f"{contestant.name:18} {cost.cpu_s:6.2f} {rate:>9} {peak:>8}{ratios}  {contestant.what}")


def print_memory(log: Path, folder: Path) -> None:
    """Peak memory over half the file, all of it, and twice as much."""
    half = folder / "half.log"
    double = folder / "double.log"
    with log.open("rb") as source, half.open("wb") as target:
        while target.tell() < log.stat().st_size // 2:
            target.write(source.readline())
    with double.open("wb") as target:
        for _ in range(2):
            with log.open("rb") as source:
                shutil.copyfileobj(source, target)
    for contestant in list_ours():
        peaks = [measure(contestant, path).peak_kib / 1024 for path in (half, log, double)]
        print(f"{contestant.name:18} peak MiB over half, whole, double: {', '.join(f'{peak:.1f}' for peak in peaks)}")


def main() -> None:
    """Run everything."""
    with tempfile.TemporaryDirectory(prefix="watchdogd-bench-") as name:
        folder = Path(name)
        log = find_log(folder)
        with log.open("rb") as source:
            lines = sum(1 for _ in source)
        print(f"{describe_versions()}; {lines:,} lines, {log.stat().st_size:,} bytes; best of {ROUNDS}")
        contestants = [*list_ours(), *list_peers(folder)]
        print_table(contestants, run_rounds(contestants, log), lines)
        print()
        subprocess.run([sys.executable, "-m", "benchmarks.split", str(log)], check=True, cwd=ROOT)
        print()
        print_memory(log, folder)
        print()
        python = borrow_packages(Path(sys.executable), folder / "ours")
        print(f"matching runs on {'this Python' if str(python) == sys.executable else 'Debian' + chr(39) + 's Python'}")
        compare(list_runners(log, find_sigmahq(), ROOT / "rules", list_work(folder, log), str(python)))


if __name__ == "__main__":
    main()
