"""A peer of the benchmark, run by a Python that has zargunlite and pysigma-backend-sqlite: lines parsed, rules asked.

It knows nothing of events: each line is a row, so rules about processes find no column and are skipped.
"""

import json
import re
import resource
import sqlite3
import sys
import time
from pathlib import Path

from sigma.backends.sqlite import sqliteBackend
from sigma.collection import SigmaCollection
from sigma.exceptions import SigmaError
from zargunlite.core import ZargunCore
from zargunlite.model import ZircoliteRule

FIELD = re.compile(r'([^ =]+)=("[^"]*"|[^ ]*)')
NAME = re.compile(r"[A-Za-z0-9_]+")


def convert(folder: Path) -> list[ZircoliteRule]:
    """Every rule that the backend can put in SQL."""
    backend = sqliteBackend()
    rules = []
    for path in sorted(folder.rglob("*.yml")):
        try:
            queries = backend.convert(SigmaCollection.from_yaml(path.read_text()))
        except SigmaError as error:
            print(path.stem, error, file=sys.stderr)
            continue
        queries = [query.replace("<TABLE_NAME>", "logs") for query in queries]
        rules.append(ZircoliteRule(title=path.stem, rule=queries))
    return rules


def read(path: Path) -> list[dict[str, str]]:
    """A row for each line."""
    rows = []
    with path.open(encoding="utf-8", errors="backslashreplace") as log:
        for line in log:
            row = {}
            for name, value in FIELD.findall(line.rstrip("\n")):
                if NAME.fullmatch(name):
                    row[name] = value.strip('"')
            rows.append(row)
    return rows


def main() -> None:
    """Print what it took, the rules' conversion left out."""
    rules = convert(Path(sys.argv[1]))
    asked = matches = 0
    started = time.process_time()
    with ZargunCore() as core:
        core.load_data(read(Path(sys.argv[2])))
        for rule in rules:
            try:
                matches += core.execute_zircolite_rule(rule).count
                asked += 1
            except (sqlite3.Error, re.error) as error:
                print(rule.title, error, file=sys.stderr)
    cpu_s = time.process_time() - started
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"cpu_s": cpu_s, "peak_kib": peak_kib, "rules": asked, "matches": matches}))


main()
