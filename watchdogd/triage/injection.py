"""Orders to the model inside the evidence: what is withheld of them, and whether the model gave in to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from watchdogd.triage.fusion import weigh_shares
from watchdogd.triage.guard import find_instruction
from watchdogd.triage.prompt import host_texts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from watchdogd.background import Background
    from watchdogd.entities import Alert, FieldValue, Process

WITHHELD = "[text withheld]"
MOVED_BY = 2.0
"""Log-odds that an order may move an opinion by, as any other text would."""


def withhold_orders(alert: Alert) -> Alert | None:
    """The alert without the texts that read like orders to a model; None where some would be left."""
    fields = {name: _hide_value(value) for name, value in alert.fields.items()}
    hidden = msgspec.structs.replace(
        alert,
        process=None if alert.process is None else _hide_process(alert.process),
        lineage=tuple(_hide_process(process) for process in alert.lineage),
        fields=fields,
        matched={name: _hide(text) for name, text in alert.matched.items()},
    )
    return hidden if find_instruction(host_texts(hidden)) is None else None


def withhold_from(background: Background) -> Background:
    """The background without such texts: they ordered something about another alert, which told of them."""
    replace = msgspec.structs.replace
    return replace(
        background,
        related=tuple(replace(related, command=_hide(related.command)) for related in background.related),
        cases=tuple(
            replace(case, document={name: _hide(text) for name, text in case.document.items()})
            for case in background.cases
        ),
    )


def differ(shares: Mapping[str, float], without: Mapping[str, float]) -> bool:
    """Whether a model says something else with the orders than without: another label, or far from as sure."""
    if max(shares, key=shares.__getitem__) != max(without, key=without.__getitem__):
        return True
    return abs(weigh_shares(shares) - weigh_shares(without)) > MOVED_BY


def _hide(text: str) -> str:
    return WITHHELD if find_instruction((text,)) is not None else text


def _hide_value(value: FieldValue | tuple[FieldValue, ...]) -> FieldValue | tuple[FieldValue, ...]:
    if isinstance(value, tuple):
        parts = tuple(_hide(part) if isinstance(part, str) else part for part in value)
        together = " ".join(str(part) for part in parts if part is not None)
        return parts if find_instruction((together,)) is None else (WITHHELD,)
    return _hide(value) if isinstance(value, str) else value


def _hide_process(process: Process) -> Process:
    argv = tuple(map(_hide, process.argv))
    if find_instruction((" ".join(argv),)) is not None:  # spread over arguments
        argv = (*argv[:1], WITHHELD)
    named = {name: getattr(process, name) for name in ("exe", "comm", "cwd", "user", "login", "unit")}
    return msgspec.structs.replace(
        process, argv=argv, **{name: text if text is None else _hide(text) for name, text in named.items()}
    )
