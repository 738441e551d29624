"""The desk of triage by itself; tests/test_pipeline.py has it within the pipeline."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from tests.triage.conftest import make_alert
from watchdogd.background import NO_BACKGROUND
from watchdogd.config import TriageSettings
from watchdogd.entities import Label, Verdict
from watchdogd.ports import SystemClock
from watchdogd.routes import Routes
from watchdogd.telemetry import Counters
from watchdogd.triage_desk import TriageDesk

if TYPE_CHECKING:
    from watchdogd.background import Background
    from watchdogd.entities import Alert


class Model:
    """Notes when it is warm; nobody asks it anything."""

    breaker_state = "closed"

    def __init__(self, *, loads: bool = True) -> None:
        self.warm = asyncio.Event()
        self.begun = asyncio.Event()
        self._loads = loads

    async def identify(self) -> tuple[str, ...]:
        return ()

    async def ask(self, alert: Alert, background: Background) -> Verdict:  # noqa: ARG002 - of no interest here
        return Verdict(label=Label.UNTRIAGED, by="none")

    async def warm_up(self) -> None:
        self.begun.set()
        if not self._loads:
            await asyncio.sleep(3600)
        self.warm.set()

    async def close(self) -> None:
        self.warm.clear()


async def gather(_: Alert) -> Background:
    return NO_BACKGROUND


def make_desk(model: Model | None) -> TriageDesk:
    return TriageDesk(
        model,
        TriageSettings(),
        Routes(()),
        cast("Any", None),
        gather,
        lambda alert: alert.id,
        Counters(),
        SystemClock(),
    )


async def test_the_model_that_a_reload_names_is_warmed_up_as_the_first_one_is() -> None:
    first, second = Model(), Model()
    desk = make_desk(first)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        task = group.create_task(desk.warm_up())
        await first.warm.wait()
        first.warm.clear()
        desk.replace(None, TriageSettings())
        desk.replace(second, TriageSettings(model="other"))
        await second.warm.wait()
        assert not first.warm.is_set()
        task.cancel()


async def test_a_model_that_was_replaced_while_it_loaded_does_not_keep_the_next_one_cold() -> None:
    first, second = Model(loads=False), Model()
    desk = make_desk(first)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        task = group.create_task(desk.warm_up())
        await first.begun.wait()
        desk.replace(second, TriageSettings(model="other"))
        await second.warm.wait()
        task.cancel()


async def test_what_is_shed_leaves_no_alert_in_memory() -> None:
    """A storm sheds thousands before the first of them is settled."""
    desk = make_desk(Model())
    most = TriageSettings().waiting_limit
    for number in range(3 * most):
        desk.take(make_alert(id=f"{number:064d}"), f"question {number}")
    held = [question for question in desk._questions.values() if hasattr(question, "alert")]
    assert len(desk._questions) == 3 * most
    assert len(held) == most
