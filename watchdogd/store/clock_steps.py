"""The wall clock may be set while deliveries wait for a time of day: what is due moves with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3

    from watchdogd.ports import Clock

LEAST_STEP_MS = 1000
"""Less is not worth a write; smaller steps add up until they are."""


class ClockSteps:
    """Compares the wall clock with the monotonic one. Used on the store's thread and, to look only, on the loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset_ms = measure_offset_ms(clock)

    def find_ms(self) -> int:
        """How far the wall clock was set since the last step that was settled; 0 where it was not."""
        step_ms = measure_offset_ms(self._clock) - self._offset_ms
        return step_ms if abs(step_ms) >= LEAST_STEP_MS else 0

    def settle(self, step_ms: int) -> None:
        """What waits has been moved by so much."""
        self._offset_ms += step_ms


def measure_offset_ms(clock: Clock) -> int:
    """How far the wall clock is ahead of the monotonic one: changes only where it is set, or after a suspend."""
    return clock.now_ms() - round(clock.monotonic_s() * 1000)


def move_waiting(connection: sqlite3.Connection, step_ms: int) -> None:
    """Move due time and age of everything that waits to a clock that was set by so much."""
    connection.execute(
        "UPDATE deliveries SET due_ms = due_ms + ?1, created_ms = created_ms + ?1, "
        "next_try_ms = CASE next_try_ms WHEN 0 THEN 0 ELSE next_try_ms + ?1 END WHERE state = 'pending'",
        (step_ms,),
    )
    connection.execute(
        "UPDATE troubles SET paused_until_ms = paused_until_ms + ?1, down_since_ms = down_since_ms + ?1 "
        "WHERE paused_until_ms <> 0",
        (step_ms,),
    )


def find_step_back_ms(connection: sqlite3.Connection, now_ms: int) -> int:
    """How far the clock was set back since the last commit of an earlier run: 0, or a negative number.

    How far it was set forward cannot be told from downtime.
    """
    query = (
        "SELECT max(coalesce((SELECT max(saved_ms) FROM checkpoints), 0), "
        "coalesce((SELECT max(created_ms) FROM deliveries WHERE state = 'pending'), 0))"
    )
    (last_ms,) = connection.execute(query).fetchone()
    return min(0, now_ms - last_ms) if last_ms - now_ms >= LEAST_STEP_MS else 0


def mend_step_back(connection: sqlite3.Connection, now_ms: int) -> int:
    """After a start: move what waits back with the clock. How far, as `find_step_back_ms`."""
    step_ms = find_step_back_ms(connection, now_ms)
    if step_ms:
        move_waiting(connection, step_ms)
        connection.execute("UPDATE checkpoints SET saved_ms = min(saved_ms, ?)", (now_ms,))
    return step_ms
