"""`python -m watchdogd`: the command line."""

import sys

from watchdogd.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
