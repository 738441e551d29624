"""The doctor's rounds: every check at the same time, none for longer than its time, none that can end the others."""

from __future__ import annotations

import subprocess
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from watchdogd.cli.doctor_findings import Finding, needs_root, unknown
from watchdogd.errors import WatchdogdError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from watchdogd.cli.doctor_site import Site


class Check(NamedTuple):
    """A check: what it is about, and how it looks."""

    group: str
    name: str
    look: Callable[[Site], Iterable[Finding]]


def make_rounds(checks: Sequence[Check], site: Site, timeout_s: float) -> list[Finding]:
    """What all checks find, in their order. Never raises: a check that fails or hangs is itself a finding."""
    results: dict[int, list[Finding]] = {}

    def look(number: int, check: Check) -> None:
        results[number] = _look(check, site)

    workers = [
        threading.Thread(target=look, args=(number, check), name=check.name, daemon=True)
        for number, check in enumerate(checks)
    ]
    for worker in workers:
        worker.start()
    deadline_s = time.monotonic() + timeout_s
    for worker in workers:
        worker.join(max(0.0, deadline_s - time.monotonic()))
    found: list[Finding] = []
    for number, check in enumerate(checks):
        late = unknown(check.name, f"Nothing was found out within {timeout_s:g} s.", "watchdogd doctor --timeout 60")
        findings = results.get(number, [late])
        found += [msgspec.structs.replace(finding, group=check.group) for finding in findings]
    return found


def _look(check: Check, site: Site) -> list[Finding]:
    found: list[Finding] = []
    try:
        found.extend(check.look(site))  # what was found before it failed is kept
    except PermissionError as error:
        found.append(needs_root(check.name, error.filename or "What this check looks at"))
    except subprocess.TimeoutExpired as error:
        tool = error.cmd[0] if isinstance(error.cmd, list) else str(error.cmd)
        found.append(unknown(check.name, f"{tool} did not answer within {error.timeout:g} s."))
    except (OSError, WatchdogdError, ValueError) as error:
        found.append(unknown(check.name, f"It could not be looked at: {error}."))
    except Exception as error:  # noqa: BLE001 - our own fault, on text that others wrote: it must not end the rounds
        found.append(unknown(check.name, f"The check itself failed ({type(error).__name__}): please report this."))
    return found
