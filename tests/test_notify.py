"""What systemd hears while something takes long."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from watchdogd import notify as module
from watchdogd.notify import telling_alive

if TYPE_CHECKING:
    import pytest


async def test_systemd_hears_that_it_goes_on_as_long_as_it_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[tuple[str, ...]] = []
    monkeypatch.setattr(module, "TELL_EVERY_S", 0.01)
    monkeypatch.setattr(module, "notify", lambda *texts: heard.append(texts))
    with telling_alive(asyncio.get_running_loop()):
        async with asyncio.timeout(10):
            while len(heard) < 3:  # noqa: ASYNC110 - there is nothing else to wait for
                await asyncio.sleep(0.01)
    assert all("WATCHDOG=1" in texts for texts in heard)
    count = len(heard)
    await asyncio.sleep(0.05)
    assert len(heard) == count
