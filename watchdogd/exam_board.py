"""Exams as the running daemon knows them: the database keeps them, triage asks them, the control socket brings more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from watchdogd.store.standings import load_standings, save_standing
from watchdogd.triage.prompt import TEMPLATE_VERSION
from watchdogd.triage.standings import KnownStandings

if TYPE_CHECKING:
    from watchdogd.background import Standing
    from watchdogd.store.database import Store


class ExamBoard:
    """All exams so far; `known` is what triage asks."""

    def __init__(self, store: Store, known: KnownStandings) -> None:
        self._store = store
        self.known = known

    @classmethod
    async def open(cls, store: Store) -> ExamBoard:
        """With what the database has. Raises StoreError."""
        return cls(store, KnownStandings(await load_standings(store)))

    async def keep(self, standing: Standing) -> Standing:
        """Store an exam; from then on it counts. Raises StoreError, and then the earlier one still counts."""
        await save_standing(self._store, standing)
        self.known.add(standing)
        return standing

    def look_up(self, model: str | None) -> Standing | None:
        """The newest exam under this name with the prompt of this version; the model's bytes may be others by now."""
        return None if model is None else self.known.find_by_name(model, TEMPLATE_VERSION)
