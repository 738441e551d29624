"""Exam results at hand: what the triager asks before it believes a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from watchdogd.background import Standing


class KnownStandings:
    """Exams by the model's bytes and the prompt's version; its name is only a name, two may be the same bytes."""

    def __init__(self, standings: Iterable[Standing] = ()) -> None:
        """Of several exams of the same bytes and prompt, the newest counts."""
        self._by_key: dict[tuple[str, str], Standing] = {}
        for standing in sorted(standings, key=lambda standing: standing.examined_ms):
            self.add(standing)

    def add(self, standing: Standing) -> None:
        """From now on this exam counts for its model."""
        self._by_key[standing.digest, standing.prompt_version] = standing

    def find(self, model: str, digest: str, prompt_version: str) -> Standing | None:  # noqa: ARG002 - the port names it
        """The newest exam of just these bytes and this prompt; None where there was none, or the digest is unknown."""
        return self._by_key.get((digest, prompt_version)) if digest else None

    def find_by_name(self, model: str, prompt_version: str) -> Standing | None:
        """The newest exam under this name and this prompt, to be shown: the name may mean other bytes by now."""
        found = [one for one in self._by_key.values() if (one.model, one.prompt_version) == (model, prompt_version)]
        return max(found, key=lambda standing: standing.examined_ms, default=None)
