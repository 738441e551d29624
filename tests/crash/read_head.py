"""The daemon with one mistake put in: its checkpoint is where reading stands, not the lowest open line."""

from __future__ import annotations

import sys
from unittest.mock import patch

from watchdogd import assembly
from watchdogd.cli.main import main
from watchdogd.entities import Checkpoint, Position
from watchdogd.store.ledger import OffsetLedger


class ReadHeadLedger(OffsetLedger):
    """Believes that what was read was judged."""

    _head: Position | None = None

    def open(self, position: Position) -> None:
        self._head = position
        super().open(position)

    def checkpoint(self) -> Checkpoint | None:
        honest = super().checkpoint()
        if honest is None or self._head is None:
            return honest
        return Checkpoint(honest.source, honest.path, self._head.file_id, self._head.end)


with patch.object(assembly, "OffsetLedger", ReadHeadLedger):  # fails where the name has moved
    sys.exit(main())
