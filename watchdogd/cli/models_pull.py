"""`watchdogd models pull`: download a model, with a bar where a person looks."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import aclosing
from typing import TYPE_CHECKING

from watchdogd.cli.options import add_config_option
from watchdogd.cli.progress import Bar

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from rich.progress import ProgressColumn, TaskID

    from watchdogd.triage.ollama import OllamaClient, PullStep

HELP = "download a model"
DESCRIPTION = "Downloads a model by the local Ollama, and prints its name and digest."

TIMEOUT_S = 30.0
_ID_CHARS = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the action's options."""
    add_config_option(parser)
    parser.add_argument("model", metavar="MODEL", help="name as Ollama's library knows it (phi3:mini)")


def run(args: argparse.Namespace) -> int:
    """Download; 0 where the model is there, 2 where not. Interrupted, the next try goes on from there."""
    from watchdogd.config import load_config  # noqa: PLC0415 - `--help` needs no settings
    from watchdogd.triage.ollama import OllamaClient  # noqa: PLC0415

    config = load_config(args.config, environ=os.environ)
    client = OllamaClient(config.triage.ollama_url, timeout_s=TIMEOUT_S)
    digest = asyncio.run(pull(client, args.model))
    sys.stdout.write(f"{args.model}  {digest or 'digest unknown'}\n")
    return 0


async def pull(client: OllamaClient, model: str) -> str | None:
    """Download the model and return its digest. Raises TriageError."""
    try:
        with PullProgress() as progress:
            async with aclosing(client.pull(model)) as steps:
                async for step in steps:
                    progress.show(step)
        return await client.digest(model)
    finally:
        await client.close()


class PullProgress(Bar):
    """A bar for each part of the model on stderr, where that is a terminal; elsewhere nothing."""

    def __init__(self) -> None:
        super().__init__(_list_columns, transient=False)
        self._tasks: dict[str, TaskID] = {}

    def show(self, step: PullStep) -> None:
        """Move the bar of the part that the step is about; a step without one is shown as a line."""
        if self.bar is None:
            return
        if not step.total_bytes:
            self.bar.console.print(step.status, style="dim")
            return
        if step.layer not in self._tasks:
            name = step.layer.removeprefix("sha256:")[:_ID_CHARS]
            self._tasks[step.layer] = self.bar.add_task(name, total=step.total_bytes)
        self.bar.update(self._tasks[step.layer], completed=step.completed_bytes)


def _list_columns() -> Sequence[ProgressColumn]:
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn  # noqa: PLC0415 - for a person

    return (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
