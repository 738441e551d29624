"""`python -m fuzz SECONDS`: every check for its share of the time, then the cost of long lines. Exit 1 on a finding."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from fuzz import cost, mutation
from fuzz.checks import CHECKS

ROOT = Path(__file__).resolve().parent.parent
MAX_LEN = {"line": 2_000, "feed": 8_000}
_EVENT_LINES = 12
_SLICES = 3
FALLBACK = [
    b'type=EXECVE msg=audit(1.000:1): argc=2 a0="a" a1_len=4 a1[0]=6162',
    b"type=CWD msg=audit(1.000:2): cwd=2F",
]
"""Where there are no recordings."""


def gather_seeds() -> dict[str, list[bytes]]:
    """Of every log beside the checkout: the first line of each type, and a few stretches of lines."""
    corpora = Path(os.environ.get("WATCHDOGD_CORPORA", ROOT.parent / "shared" / "data"))
    lines: dict[bytes, bytes] = {}
    stretches: list[bytes] = []
    for log in sorted(corpora.rglob("*.log")) if corpora.is_dir() else []:
        found = log.read_bytes().split(b"\n")
        for line in found:
            lines.setdefault(line.partition(b" msg=")[0][:64], line[:1000])
        step = max(_EVENT_LINES, len(found) // _SLICES)
        stretches += [b"\n".join(found[at : at + _EVENT_LINES]) for at in range(0, len(found), step)]
    if not lines:
        print(f"{corpora} is absent: two made-up lines are the only seeds (set WATCHDOGD_CORPORA)")
        return {"line": FALLBACK, "feed": [b"\n".join(FALLBACK)]}
    return {"line": list(lines.values()), "feed": stretches}


def run_guided(name: str, seeds: list[bytes], seconds: int) -> bool:
    """Under atheris, in a process of its own: libFuzzer ends it. True where nothing was found."""
    with tempfile.TemporaryDirectory(prefix="watchdogd-fuzz-") as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for number, seed in enumerate(seeds):
            (corpus / f"{number:05}").write_bytes(seed)
        options = [f"-max_total_time={seconds}", f"-max_len={MAX_LEN[name]}", "-verbosity=0", "-print_final_stats=1"]
        command = [sys.executable, "-m", "fuzz.guided", name, str(corpus), *options, f"-artifact_prefix={ROOT}/.cache/"]
        return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def run_check(name: str, seeds: list[bytes], seconds: int) -> bool:
    """True where nothing was found."""
    print(f"{name}: {seconds} s from {len(seeds)} seeds", flush=True)
    if importlib.util.find_spec("atheris") is not None:
        return run_guided(name, seeds, seconds)
    try:
        tried = mutation.run(CHECKS[name], seeds, seconds)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
        print(f"{name}: {type(error).__name__}: {error}", *getattr(error, "__notes__", []), sep="\n")
        return False
    print(f"{name}: {tried} inputs")
    return True


def main() -> int:
    """Run everything, whatever is found."""
    seconds = int(sys.argv[1])
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed: mutation by hypothesis instead, which no coverage guides")
    (ROOT / ".cache").mkdir(exist_ok=True)
    seeds = gather_seeds()
    passed = [run_check(name, seeds[name], max(1, seconds // len(CHECKS))) for name in CHECKS]
    excesses = cost.find_excesses()
    print(*excesses, sep="\n")
    print(f"1 MB against 10 kB: {len(cost.TYPES) * len(cost.SHAPES)} shapes, {len(excesses)} over {cost.LIMIT}")
    return 0 if all(passed) and not excesses else 1


if __name__ == "__main__":
    sys.exit(main())
