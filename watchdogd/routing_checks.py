"""What is allowed of sinks in the configuration and leaves somebody without the alerts that count."""

from __future__ import annotations

from typing import TYPE_CHECKING

from watchdogd.entities import Label, Level
from watchdogd.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from watchdogd.entities import Rule
    from watchdogd.errors import Place
    from watchdogd.webhook_settings import WebhookSettings

_WORST = (Level.HIGH, Level.CRITICAL)


def warn_routes(
    webhooks: Sequence[WebhookSettings], place_of: Callable[..., Place], *, journald: bool, triage: bool
) -> Iterator[Problem]:
    """Warnings about high and critical alerts that reach no webhook, or nobody; and about verdicts that never come."""
    if not webhooks:
        if not journald:
            message = "alerts reach nobody: journald.enabled is false, and there are no webhooks"
            yield Problem(place_of("journald", "enabled"), message, hint="name a webhook", severity="warning")
        return
    yield from _warn_levels(webhooks, place_of, journald=journald)
    if not journald:
        yield from _warn_narrow(webhooks, place_of)
    for index, webhook in enumerate(webhooks):
        wanted = webhook.match.verdicts
        if wanted and Label.UNTRIAGED not in wanted and not triage:
            place = place_of("webhooks", index, "match", "verdicts")
            message = f"triage is off, so every alert is untriaged, and {webhook.name} does not want these"
            hint = "it gets high and critical ones that no other webhook hears of, and nothing else"
            yield Problem(place, message, hint=hint, severity="warning")


def warn_names(
    webhooks: Sequence[WebhookSettings], rules: Iterable[Rule], place_of: Callable[..., Place]
) -> Iterator[Problem]:
    """Warnings about rules and tags in `match` that there are not: such a receiver waits for ever."""
    ids: set[str] = set()
    titles: set[str] = set()
    tags: set[str] = set()
    for rule in rules:
        ids.add(rule.id.casefold())
        titles.add(rule.title.casefold())
        tags.update(tag.casefold() for tag in rule.tags)
    for index, webhook in enumerate(webhooks):
        match = webhook.match
        for key, names, known, said in (
            ("rules", match.rules, ids | titles, "no rule has that id or title"),
            ("tags", match.tags, tags, "no rule has that tag"),
        ):
            for number, name in enumerate(names):
                if name.casefold() not in known:
                    place = place_of("webhooks", index, "match", key, number)
                    message = f"webhooks[{index}].match.{key}[{number}] {name!r}: {said}"
                    yield Problem(place, message, hint="see `watchdogd rules list`", severity="warning")


def _warn_levels(
    webhooks: Sequence[WebhookSettings], place_of: Callable[..., Place], *, journald: bool
) -> Iterator[Problem]:
    missed = [level for level in _WORST if not any(_hears(webhook, level) for webhook in webhooks)]
    if not missed:
        return
    webhook = webhooks[0]
    by_level = webhook.min_level.rank > missed[0].rank
    keys = ("min_level",) if by_level else ("match", "levels")
    whom = "no webhook, only the journal" if journald else "nobody: journald is off, and no webhook takes them"
    said = " and ".join(level.value for level in missed)
    yield Problem(
        place_of("webhooks", 0, *keys),
        f"{said} alerts reach {whom}",
        hint="at least one webhook should have them: see min_level and match.levels",
        severity="warning",
    )


def _warn_narrow(webhooks: Sequence[WebhookSettings], place_of: Callable[..., Place]) -> Iterator[Problem]:
    """Without the journal, where rules or tags narrow every webhook that hears of a level."""
    for level in _WORST:
        hearing = [index for index, webhook in enumerate(webhooks) if _hears(webhook, level)]
        if hearing and all(webhooks[index].match.rules or webhooks[index].match.tags for index in hearing):
            key = "rules" if webhooks[hearing[0]].match.rules else "tags"
            yield Problem(
                place_of("webhooks", hearing[0], "match", key),
                f"{level} alerts of other rules reach nobody: journald is off, and match narrows each webhook",
                hint="switch journald on, or let one webhook have them all",
                severity="warning",
            )


def _hears(webhook: WebhookSettings, level: Level) -> bool:
    return webhook.min_level.rank <= level.rank and (not webhook.match.levels or level in webhook.match.levels)
