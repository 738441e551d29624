"""Gathers what triage is told beside the alert: package, related alerts, earlier cases. Off the loop, bounded."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from watchdogd.background import Background

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from watchdogd.background import Case, Package, RelatedAlert
    from watchdogd.entities import Alert
    from watchdogd.store.verdicts import Verdicts

RELATED_WITHIN_MS = 6 * 3_600_000
RELATED = 10
_DELETED = " (deleted)"


class Gatherer:
    """One per daemon. A thread of its own reads packages' databases and hashes files: nobody else waits for it."""

    def __init__(
        self,
        verdicts: Verdicts,
        describe_package: Callable[[str], Package | None],
        choose_cases: Callable[[Alert, Sequence[Case]], tuple[Case, ...]],
        host: str,
    ) -> None:
        """`choose_cases` finds those like an alert among the shipped ones and the operator's, which it is given."""
        self._verdicts = verdicts
        self._describe_package = describe_package
        self._choose_cases = choose_cases
        self._host = host
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="hashing")
        self._cases: tuple[Case, ...] = ()

    async def load(self) -> None:
        """Read the operator's verdicts again. Raises StoreError."""
        self._cases = await self._verdicts.load_cases()

    async def gather(self, alert: Alert) -> Background:
        """The background of one alert. Raises StoreError."""
        return Background(
            package=await self._find_package(alert),
            related=await self._find_related(alert),
            cases=self._choose_cases(alert, self._cases),
        )

    async def _find_package(self, alert: Alert) -> Package | None:
        """Of this host's own files only: what a container calls /usr/bin/x is another file."""
        process = alert.process
        if process is None or process.exe is None or process.container is not None or alert.host != self._host:
            return None
        if process.exe.endswith(_DELETED):
            return None
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._describe_package, process.exe)

    async def _find_related(self, alert: Alert) -> tuple[RelatedAlert, ...]:
        return await self._verdicts.related(alert, RELATED_WITHIN_MS, RELATED)

    def close(self) -> None:
        """Let the thread end, after what it does now."""
        self._thread.shutdown(wait=False, cancel_futures=True)
