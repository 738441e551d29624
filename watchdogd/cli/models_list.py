"""`watchdogd models list`: what is installed and loaded, what it did in its exam, and what would fit in."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import msgspec

from watchdogd.background import Standing  # noqa: TC001 - msgspec reads the annotations
from watchdogd.cli.options import add_config_option
from watchdogd.cli.vram import KNOWN_MODELS, Memory, choose_model, measure_memory
from watchdogd.errors import StoreError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from watchdogd.config import TriageSettings
    from watchdogd.triage.ollama import InstalledModel, LoadedModel

T = TypeVar("T")

HELP = "show the models, what they need and how they did in their exams"
DESCRIPTION = (
    "Shows which models the local Ollama has and holds in memory, whether they passed their exam for this version's "
    "prompt, and which model would fit into the memory that is free."
)

TIMEOUT_S = 10.0
GIGABYTE = 1_000_000_000


class ModelRow(msgspec.Struct, frozen=True):
    """One installed model."""

    name: str
    digest: str
    size_bytes: int
    quantisation: str
    parameters: str
    configured: bool
    loaded: bool | None
    """None where the server does not tell."""
    loaded_bytes: int
    vram_bytes: int
    standing: Standing | None
    """Its exam with the prompt of this version; None where it sat none."""


class Advice(msgspec.Struct, frozen=True):
    """A known model, and whether it fits in."""

    name: str
    needs_bytes: int
    speed: str
    quality: str
    fits: bool | None
    """None where the free memory is not known."""
    recommended: bool


class ModelsReport(msgspec.Struct, frozen=True):
    """Everything that `models list` shows."""

    server: str
    version: str
    configured: str
    installed: tuple[ModelRow, ...]
    memory: Memory | None
    """None where the server is on another host, or nothing tells."""
    usable_bytes: int | None
    """Free, and what loaded models would give back."""
    advice: tuple[Advice, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the action's options."""
    add_config_option(parser)
    parser.add_argument("--format", choices=("text", "json"), default="text", help="json: one object")


def run(args: argparse.Namespace) -> int:
    """Print what there is; 0, or 2 where Ollama does not answer."""
    from watchdogd.config import load_config  # noqa: PLC0415 - `--help` needs no settings

    config = load_config(args.config, environ=os.environ)
    report = asyncio.run(gather(config.triage, read_standings(Path(config.store.path))))
    if args.format == "json":
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    else:
        sys.stdout.writelines(f"{line}\n" for line in list_lines(report))
    return 0


def read_standings(path: Path) -> list[Standing]:
    """What the database knows of exams; where it cannot be read, that is said on stderr."""
    from watchdogd.store.standings import look_up_standings  # noqa: PLC0415 - start-up of other commands

    try:
        return look_up_standings(path)
    except StoreError as error:
        sys.stderr.write(f"watchdogd: exams are not shown: {error}\n")
        return []


async def gather(settings: TriageSettings, standings: Sequence[Standing], memory: Memory | None = None) -> ModelsReport:
    """Ask the server; `memory` is measured where it is not given. Raises TriageError."""
    from watchdogd.triage.ollama import OllamaClient  # noqa: PLC0415 - start-up of other commands

    client = OllamaClient(settings.ollama_url, timeout_s=TIMEOUT_S)
    try:
        installed = await client.list_installed()
        version, loaded = await ask_if_known(client.version), await ask_if_known(client.list_loaded)
    finally:
        await client.close()
    if memory is None and is_local(settings.ollama_url):
        memory = await asyncio.to_thread(measure_memory)
    rows = tuple(_make_rows(settings.model, installed, loaded, standings))
    usable = None if memory is None else memory.free_bytes + _given_back(memory, loaded or ())
    passed = [row.name for row in rows if row.standing is not None and row.standing.passed]
    return ModelsReport(
        server=client.place,
        version=version or "of an unknown version",
        configured=settings.model,
        installed=rows,
        memory=memory,
        usable_bytes=usable,
        advice=_advise(usable, passed),
    )


async def ask_if_known(ask: Callable[[], Awaitable[T]]) -> T | None:
    """The answer, None where the server has no such question. Raises TriageError."""
    from watchdogd.triage.connection import EndpointMissingError  # noqa: PLC0415 - as above

    try:
        return await ask()
    except EndpointMissingError:
        return None


def is_local(url: str) -> bool:
    """Whether the server is on this host, whose memory can be measured."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def list_lines(report: ModelsReport) -> Iterator[str]:
    """The report for a person, one line each."""
    yield f"Ollama {report.version} at {report.server}"
    yield ""
    heads = ("", "MODEL", "SIZE", "QUANT", "IN MEMORY", "EXAM")
    yield from _align([heads, *(_describe_row(row) for row in report.installed)])
    if not any(row.configured for row in report.installed):
        yield f"* {report.configured}: configured, but not installed (watchdogd models pull {report.configured})"
    if any(row.loaded is None for row in report.installed):
        yield "What is in memory is unknown: this server has no /api/ps (it is an old Ollama, or another server)"
    yield ""
    yield _describe_memory(report)
    yield from _align([_describe_advice(advice) for advice in report.advice])


def describe_standing(standing: Standing | None) -> str:
    """An exam in a few words."""
    if standing is None:
        return "not examined: its opinion carries no weight"
    verdict = "passed" if standing.passed else "failed: its opinion carries no weight"
    interval = f"{standing.auroc:.2f} ({standing.auroc_low:.2f}-{standing.auroc_high:.2f})"
    obeyed = f"{standing.obeyed} of {standing.injections} injections obeyed"
    return f"{verdict}; AUROC {interval}, scorer {standing.scorer_auroc:.2f}; {obeyed}"


def _make_rows(
    configured: str,
    installed: Sequence[InstalledModel],
    loaded: Sequence[LoadedModel] | None,
    standings: Sequence[Standing],
) -> Iterator[ModelRow]:
    from watchdogd.triage.ollama import is_same_model  # noqa: PLC0415 - as above
    from watchdogd.triage.prompt import TEMPLATE_VERSION  # noqa: PLC0415
    from watchdogd.triage.standings import KnownStandings  # noqa: PLC0415

    known = KnownStandings(standings)
    in_memory = {model.name: model for model in loaded or ()}
    for model in installed:
        held = in_memory.get(model.name)
        yield ModelRow(
            name=model.name,
            digest=model.digest,
            size_bytes=model.size_bytes,
            quantisation=model.quantisation,
            parameters=model.parameters,
            configured=is_same_model(model.name, configured),
            loaded=None if loaded is None else held is not None,
            loaded_bytes=0 if held is None else held.size_bytes,
            vram_bytes=0 if held is None else held.vram_bytes,
            standing=known.find(model.name, model.digest, TEMPLATE_VERSION),
        )


def _given_back(memory: Memory, loaded: Sequence[LoadedModel]) -> int:
    """What loaded models hold of this kind of memory: another model would take their place."""
    if memory.kind == "VRAM":
        return sum(model.vram_bytes for model in loaded)
    return sum(model.size_bytes - model.vram_bytes for model in loaded)


def _advise(usable: int | None, passed: Sequence[str]) -> tuple[Advice, ...]:
    best = None if usable is None else choose_model(usable, passed)
    return tuple(
        Advice(
            name=model.name,
            needs_bytes=model.needs_bytes,
            speed=model.speed,
            quality=model.quality,
            fits=None if usable is None else model.needs_bytes <= usable,
            recommended=model is best,
        )
        for model in KNOWN_MODELS
    )


def _describe_row(row: ModelRow) -> tuple[str, ...]:
    held = "?" if row.loaded is None else "-"
    if row.loaded:
        held = f"{_in_gigabytes(row.vram_bytes)} VRAM"
        if rest := row.loaded_bytes - row.vram_bytes:
            held = f"{held if row.vram_bytes else ''} {_in_gigabytes(rest)} RAM".strip()
    mark = "*" if row.configured else ""
    size = _in_gigabytes(row.size_bytes)
    return mark, row.name, size, row.quantisation or "?", held, describe_standing(row.standing)


def _describe_memory(report: ModelsReport) -> str:
    if report.memory is None:
        return "memory: unknown; models that serve triage, and what they need:"
    memory = report.memory
    free = f"{_in_gigabytes(memory.free_bytes)} of {_in_gigabytes(memory.total_bytes)} {memory.kind} free"
    usable = report.usable_bytes or 0
    more = f", {_in_gigabytes(usable)} without the loaded models" if usable > memory.free_bytes else ""
    return f"memory: {free}{more} ({memory.told_by}); what fits in:"


def _describe_advice(advice: Advice) -> tuple[str, ...]:
    fits = {None: "", True: "fits", False: "does not fit"}[advice.fits]
    traits = f"{advice.speed}, {advice.quality}"
    recommended = "<- recommended" if advice.recommended else ""
    return "", advice.name, f"about {_in_gigabytes(advice.needs_bytes)}", traits, fits, recommended


def _align(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    widths[0] = 1
    for row in rows:
        yield "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def _in_gigabytes(count: int) -> str:
    return f"{count / GIGABYTE:.1f} GB"
