"""One check under atheris (libFuzzer): `python -m fuzz.guided line CORPUS -max_total_time=30`."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["watchdogd.decode"]):
    from fuzz.checks import CHECKS


def main() -> None:
    """Never returns: libFuzzer ends the process."""
    check = CHECKS[sys.argv[1]]
    atheris.Setup([sys.argv[0], *sys.argv[2:]], check)
    atheris.Fuzz()


main()
