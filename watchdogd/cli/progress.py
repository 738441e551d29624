"""How far reading has come, on stderr where that is a terminal; elsewhere nothing."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rich.progress import Progress, ProgressColumn, TaskID

    from watchdogd.entities import Record

_REFRESH_S = 0.1
_PACKED = (".gz", ".xz", ".zst")


class Bar:
    """A bar on stderr where that is a terminal; elsewhere nothing. `columns` is called where a person looks only."""

    def __init__(self, columns: Callable[[], Sequence[ProgressColumn]], *, transient: bool) -> None:
        self.bar = _open_bar(columns, transient=transient)

    def __enter__(self) -> Self:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()


class ReadProgress:
    """Bytes read of all files, and lines; how much is left is not known where one is packed or a pipe.

    It draws only when told to (no thread), and `hide` takes it off the screen, so that results can be printed on the
    same terminal.
    """

    def __init__(self, files: Sequence[str]) -> None:
        self._bar = _open_bar(_list_columns, transient=True, auto_refresh=False)
        self._task: TaskID | None = None
        self._files = files
        self._bytes = 0
        self._lines = 0
        self._drawn_s = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.hide()

    def follow(self, batches: Iterable[list[Record]]) -> Iterator[list[Record]]:
        """The same batches; each that passes is counted."""
        for batch in batches:
            if self._bar is not None:
                self._bytes += sum([len(record.data) + 1 for record in batch])
                self._lines += len(batch)
                self._draw(self._bar)
            yield batch

    def hide(self) -> None:
        """Take the bar off the screen until more was read."""
        if self._bar is not None:
            self._bar.stop()

    def _draw(self, bar: Progress) -> None:
        now_s = time.monotonic()
        if now_s - self._drawn_s < _REFRESH_S:
            return
        self._drawn_s = now_s
        if self._task is None:
            self._task = bar.add_task("reading", total=_measure(self._files), lines=0)
        bar.start()
        bar.update(self._task, completed=self._bytes, lines=self._lines, refresh=True)


def _list_columns() -> Sequence[ProgressColumn]:
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn  # noqa: PLC0415 -- as below

    return (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TextColumn("{task.fields[lines]:,} lines"),
        TimeRemainingColumn(),
    )


def _open_bar(
    columns: Callable[[], Sequence[ProgressColumn]], *, transient: bool, auto_refresh: bool = True
) -> Progress | None:
    if not sys.stderr.isatty():
        return None
    from rich.console import Console  # noqa: PLC0415 -- only where a person looks
    from rich.progress import Progress  # noqa: PLC0415

    return Progress(
        *columns(),
        console=Console(stderr=True, markup=False, highlight=False),
        auto_refresh=auto_refresh,
        transient=transient,
        redirect_stdout=False,
        redirect_stderr=False,
    )


def _measure(files: Sequence[str]) -> int | None:
    """Bytes of all files together, None where that cannot be told before they are read."""
    if any(name.endswith(_PACKED) or not Path(name).is_file() for name in files):
        return None
    return sum(Path(name).stat().st_size for name in files)
