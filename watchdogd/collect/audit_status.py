"""What the kernel says of its own losses, as a root timer unit writes it down: `auditctl -s` needs CAP_AUDIT_CONTROL.

Whoever has that capability can switch auditing off, so the daemon does not have it and reads a file instead
(systemd/watchdogd-audit-status.service).
"""

from __future__ import annotations

import logging
import os
import re
import stat
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from pathlib import Path

    from watchdogd.entities import Event
    from watchdogd.ports import Clock
    from watchdogd.telemetry import Counters

STATUS_NAME: Final = "status"
FILE_BYTES: Final = 4096
STALE_MS: Final = 120_000
"""Four times the timer's interval."""

SAY_EVERY_S: Final = 60.0
_FAILURES_SAID: Final = 2
"""The first may only be too early: the timer starts when the daemon does."""


_FIELD: Final = re.compile(rb"^([a-z_]{1,40}) ([0-9]{1,10})(?: [a-z ]*)?$", re.MULTILINE)
_COUNTERS: Final = ("kernel_lost", "audit_status_stale")

_log = logging.getLogger("watchdogd.collect")


class AuditStatus(msgspec.Struct, frozen=True):
    """`auditctl -s`: what matters of it. `lost` counts since boot, or since `auditctl --reset-lost`."""

    enabled: int
    failure: int
    pid: int
    rate_limit: int
    backlog_limit: int
    lost: int
    backlog: int
    rules: int | None = None
    """Lines of `auditctl -l`; None where the unit that writes the status is an older one, or could not ask."""


class KernelLosses:
    """Counts what the kernel has lost since this was made; an `EventSource` that has no events.

    `latest` is the last status that could be used. Losses before the first one are not ours to count: the baseline is
    the first status that is fresh.
    """

    def __init__(self, path: Path, counters: Counters, clock: Clock) -> None:
        self._path = path
        self._counters = counters
        self._clock = clock
        self._unsaid = 0
        self._said_s = -SAY_EVERY_S
        self._failures = 0
        self.latest: AuditStatus | None = None
        for name in _COUNTERS:
            counters.add(f"collect_{name}_total", 0)

    @property
    def known(self) -> AuditStatus | None:
        """The last status while it is still one of now."""
        return self.latest if self._failures < _FAILURES_SAID else None

    def sample(self) -> tuple[Event, ...]:
        """Look at the file once. Never raises, whatever it holds."""
        try:
            status = read_status(self._path, self._clock.now_ms())
        except OSError as error:
            self._note_trouble(f"cannot be read ({error.strerror})")
            return ()
        except ValueError as error:
            self._note_trouble(str(error))
            return ()
        if self._failures >= _FAILURES_SAID:
            _log.info("%s: is of use again", self._path)
        self._failures = 0
        previous, self.latest = self.latest, status
        self._note_lost(status, previous)
        if status.enabled == 0 and (previous is None or previous.enabled):
            _log.warning("the kernel's audit is switched off (auditctl -e 1 switches it on): nothing is recorded")
        return ()

    def _note_lost(self, status: AuditStatus, previous: AuditStatus | None) -> None:
        if previous is not None:
            # Less than before: it was reset in between, and what is there now came since.
            lost = status.lost - previous.lost if status.lost >= previous.lost else status.lost
            self._counters.add("collect_kernel_lost_total", lost)
            self._unsaid += lost
        now_s = self._clock.monotonic_s()
        if self._unsaid and now_s - self._said_s >= SAY_EVERY_S:
            _log.warning(
                "the kernel lost %d audit records: raise its backlog (-b in the audit rules), or audit less",
                self._unsaid,
            )
            self._unsaid, self._said_s = 0, now_s

    def _note_trouble(self, trouble: str) -> None:
        self._failures += 1
        if self._failures == _FAILURES_SAID:
            self._counters.add("collect_audit_status_stale_total")
            _log.info(
                "%s %s: what the kernel loses is not known (systemctl status watchdogd-audit-status.timer)",
                self._path,
                trouble,
            )


def read_status(path: Path, now_ms: int) -> AuditStatus:
    """The status in this file. OSError where it cannot be read; ValueError, in words, where it is of no use."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:  # noqa: PTH123 (a descriptor)
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise ValueError("is no ordinary file")
        age_ms = now_ms - about.st_mtime_ns // 1_000_000
        if age_ms > STALE_MS:
            raise ValueError(f"is {age_ms // 1000} s old")
        found = dict(_FIELD.findall(file.read(FILE_BYTES)))
    values = {name: int(found.get(name.encode(), b"-1")) for name in AuditStatus.__struct_fields__}
    rules = values.pop("rules")
    missing = [name for name, value in values.items() if value < 0]
    if missing:
        raise ValueError(f"lacks {', '.join(missing)}")
    return AuditStatus(**values, rules=None if rules < 0 else rules)
