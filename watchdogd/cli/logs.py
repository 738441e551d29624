"""The daemon's own messages on stderr: one line each, with a priority where the journal reads them."""

from __future__ import annotations

import logging
import os
import sys

from watchdogd.write.formats.text import escape_controls

_PRIORITIES = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}


class LineFormatter(logging.Formatter):
    """One physical line a message: what came from outside cannot forge a second one.

    Lines of our own text (a list of problems) are kept apart as lines with the same prefix. With `priorities` each
    begins with `<n>`, which systemd takes for the syslog priority (sd-daemon(3)).
    """

    def __init__(self, *, priorities: bool) -> None:
        super().__init__("%(message)s" if priorities else "%(asctime)s %(levelname)s %(message)s")
        self._priorities = priorities

    def format(self, record: logging.LogRecord) -> str:
        """The message as it is written."""
        prefix = f"<{_PRIORITIES.get(record.levelno, 6)}>" if self._priorities else ""
        return "\n".join(prefix + escape_controls(line) for line in super().format(record).split("\n"))


def set_up_logs(level: str = "info") -> None:
    """Send watchdogd's messages to stderr; other libraries' only from WARNING on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(priorities="JOURNAL_STREAM" in os.environ))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("watchdogd").setLevel(level.upper())
