#!/usr/bin/env python3
"""Write watchdogd/match/attack.json, ATT&CK's tactics and techniques, from a wheel of pySigma 0.11.

    pip download --no-deps pysigma==0.11.23
    tools/generate_attack.py pysigma-0.11.23-py3-none-any.whl            # writes the file
    tools/generate_attack.py pysigma-0.11.23-py3-none-any.whl --check    # exit 1 where the file differs

That is the last series that carries ATT&CK's names inside; later ones download them when they are asked. Only ids and
names are taken. ATT&CK is a registered trademark of The MITRE Corporation, whose terms allow its use.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

TARGET = Path(__file__).resolve().parent.parent / "watchdogd" / "match" / "attack.json"
MEMBER = "sigma/data/mitre_attack.py"
LATER_TACTICS = ("stealth", "defense-impairment")
"""Into these two ATT&CK has split defense-evasion since; SigmaHQ's rules name them."""


def read_wheel(path: Path) -> dict[str, Any]:
    """Every constant of the module, read as literals: nothing of the wheel is run."""
    with zipfile.ZipFile(path) as wheel:
        tree = ast.parse(wheel.read(MEMBER))
    return {
        statement.target.id: ast.literal_eval(statement.value)
        for statement in tree.body
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value
    }


def build_table(found: dict[str, Any]) -> dict[str, Any]:
    """Return what watchdogd.match.attack reads."""
    tactics_of = found["mitre_attack_techniques_tactics_mapping"]
    return {
        "version": found["mitre_attack_version"],
        "tactics": {name: number for number, name in sorted(found["mitre_attack_tactics"].items())},
        "later_tactics": list(LATER_TACTICS),
        "techniques": {
            number: [name, sorted(tactics_of.get(number, ()))]
            for number, name in sorted(found["mitre_attack_techniques"].items())
        },
    }


def render(table: dict[str, Any]) -> str:
    """JSON with a technique on each line, so that a newer version shows as a difference that can be read."""
    techniques = ",\n".join(
        f"    {json.dumps(number)}: {json.dumps(value, ensure_ascii=False)}"
        for number, value in table.pop("techniques").items()
    )
    head = json.dumps(table, indent=2).removesuffix("\n}")
    return f'{head},\n  "techniques": {{\n{techniques}\n  }}\n}}\n'


def main() -> None:
    """Write or check the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    text = render(build_table(read_wheel(args.wheel)))
    if args.check:
        sys.exit(0 if TARGET.read_text(encoding="utf-8") == text else f"{TARGET} differs from what would be written")
    TARGET.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
