"""`watchdogd replay --triage on --compare A,B`: the alerts on which models differ, and what each says."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import msgspec

from watchdogd.errors import TriageError
from watchdogd.write.formats.text import escape_controls

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from watchdogd.config import Config
    from watchdogd.entities import Alert
    from watchdogd.triage.comparison import Opinion

_ID_CHARS = 12


def read_models(text: str) -> tuple[str, ...]:
    """The names between commas. Raises TriageError where they are not at least two that differ."""
    names = tuple(name.strip() for name in text.split(","))
    if len(names) < 2 or not all(names) or len(set(names)) < len(names):  # noqa: PLR2004 - else nothing to compare
        raise TriageError(f"--compare needs the names of models that differ, as in phi3:mini,llama3.2:3b: {text!r}")
    return names


async def compare(alerts: Iterable[Alert], config: Config, models: Sequence[str], *, as_json: bool) -> None:
    """Print a line for each alert that the models label differently, and on stderr how many there were.

    Raises TriageError where no server answers, or a model is not installed.
    """
    from watchdogd.background import Background  # noqa: PLC0415 -- start-up of other commands
    from watchdogd.triage.cases import choose_cases  # noqa: PLC0415
    from watchdogd.triage.comparison import Comparison, differ  # noqa: PLC0415
    from watchdogd.triage.ollama import OllamaClient  # noqa: PLC0415
    from watchdogd.triage.scorer import Scorer  # noqa: PLC0415

    client = OllamaClient(config.triage.ollama_url, timeout_s=config.triage.timeout_s)
    asked = differing = 0
    try:
        comparison = Comparison(models, config.triage, client, Scorer())
        await comparison.check()
        for alert in alerts:
            opinions = await comparison.ask(alert, Background(cases=choose_cases(alert, ())))
            asked += 1
            if differ(opinions):
                differing += 1
                lines = [_to_json(alert, opinions)] if as_json else describe(alert, opinions)
                sys.stdout.writelines(f"{line}\n" for line in lines)
                sys.stdout.flush()
    finally:
        await client.close()
    sys.stderr.write(f"{differing} of {asked} alerts: the models differ\n")


def describe(alert: Alert, opinions: Sequence[Opinion]) -> Iterator[str]:
    """The alert, and below it what each model says."""
    yield escape_controls(f"{alert.id[:_ID_CHARS]}  {alert.level.value}  {alert.rule.title}")
    width = max(len(opinion.model) for opinion in opinions)
    for opinion in opinions:
        share = "" if opinion.malicious is None else f"malicious {opinion.malicious:.2f}"
        said = share or opinion.error or ""
        yield escape_controls(f"  {opinion.model:{width}}  {opinion.label:10}  {said}").rstrip()


def _to_json(alert: Alert, opinions: Sequence[Opinion]) -> str:
    document = {
        "alert_id": alert.id,
        "level": alert.level.value,
        "rule": {"id": alert.rule.id, "title": alert.rule.title},
        "opinions": opinions,
    }
    return msgspec.json.encode(document).decode()
