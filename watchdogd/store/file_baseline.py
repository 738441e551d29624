"""What each watched file was like when it was last looked at: the table `files`, and whose files are in it.

A row changes in the transaction that holds the alerts about the change: what a crash forgets is found again.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import msgspec

from watchdogd.file_states import FileRow, FileState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

MAKE_FILES: Final = (
    # The baseline of file integrity. kind: file_states.FileState. sha256, link_target, capabilities: null where there
    # is none. xattrs: JSON, name to digest. package: what brought the file, where that is known.
    """CREATE TABLE files (
        path BLOB PRIMARY KEY,
        kind TEXT NOT NULL,
        mode INTEGER NOT NULL,
        uid INTEGER NOT NULL,
        gid INTEGER NOT NULL,
        size INTEGER NOT NULL,
        mtime_ns INTEGER NOT NULL,
        ctime_ns INTEGER NOT NULL,
        device INTEGER NOT NULL,
        inode INTEGER NOT NULL,
        sha256 BLOB,
        link_target BLOB,
        capabilities BLOB,
        xattrs BLOB,
        package TEXT
    ) WITHOUT ROWID""",
    # Patterns of which every file is in the baseline: what is new below them is news.
    """CREATE TABLE file_patterns (
        pattern TEXT PRIMARY KEY,
        built_ms INTEGER NOT NULL
    ) WITHOUT ROWID""",
)

PAGE_ROWS: Final = 500
_INT64: Final = 1 << 63
_COLUMNS: Final = (
    "path, kind, mode, uid, gid, size, mtime_ns, ctime_ns, device, inode, sha256, link_target, capabilities, xattrs, "
    "package"
)
_INSERT: Final = f"INSERT OR REPLACE INTO files ({_COLUMNS}) VALUES ({', '.join('?' * 15)})"  # noqa: S608 - our names
_INSERT_NEW: Final = (
    f"INSERT INTO files ({_COLUMNS}) VALUES ({', '.join('?' * 15)}) ON CONFLICT DO UPDATE SET "  # noqa: S608 - as above
    + ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS.split(", ")[1:])
)


def write_files(connection: sqlite3.Connection, rows: Iterable[FileRow]) -> None:
    """Write or forget what is known of these paths, in order; part of a caller's transaction."""
    for row in rows:
        if row.state is None:
            connection.execute("DELETE FROM files WHERE path = ?", (row.path,))
        else:
            connection.execute(_INSERT, (row.path, *_as_columns(row.state), row.package))


def refresh_files(connection: sqlite3.Connection, rows: Iterable[FileRow]) -> None:
    """As `write_files`, but what is known of a later moment stays."""
    for row in rows:
        if row.state is None:
            write_files(connection, (row,))
            continue
        columns = (row.path, *_as_columns(row.state), row.package)
        connection.execute(f"{_INSERT_NEW} WHERE excluded.ctime_ns >= files.ctime_ns", columns)


def load_files(connection: sqlite3.Connection, paths: Sequence[bytes]) -> dict[bytes, FileRow]:
    """What is known of these paths, by path."""
    known = {}
    for start in range(0, len(paths), PAGE_ROWS):
        some = paths[start : start + PAGE_ROWS]
        query = f"SELECT {_COLUMNS} FROM files WHERE path IN ({', '.join('?' * len(some))})"  # noqa: S608 - our names
        known.update({row[0]: _as_row(row) for row in connection.execute(query, tuple(some))})
    return known


def list_below(connection: sqlite3.Connection, folder: bytes, limit: int) -> list[bytes]:
    """Known paths below a folder, at most `limit`."""
    first, past = folder + b"/", folder + b"0"  # the character after the slash
    query = "SELECT path FROM files WHERE path > ? AND path < ? LIMIT ?"
    return [path for (path,) in connection.execute(query, (first, past, limit))]


def iterate_files(connection: sqlite3.Connection) -> Iterator[FileRow]:
    """All of it, in the order of paths, page by page: between pages nothing is held."""
    last = b""
    while True:
        query = f"SELECT {_COLUMNS} FROM files WHERE path > ? ORDER BY path LIMIT {PAGE_ROWS}"  # noqa: S608 - as above
        rows = connection.execute(query, (last,)).fetchall()
        yield from map(_as_row, rows)
        if len(rows) < PAGE_ROWS:
            return
        last = rows[-1][0]


def count_files(connection: sqlite3.Connection) -> int:
    """How many paths are known."""
    (count,) = connection.execute("SELECT count(*) FROM files").fetchone()
    return int(count)


def load_built(connection: sqlite3.Connection) -> dict[str, int]:
    """Patterns of which every file is known, and since when (ms)."""
    return dict(connection.execute("SELECT pattern, built_ms FROM file_patterns").fetchall())


def mark_built(connection: sqlite3.Connection, patterns: Sequence[str], now_ms: int, anew: str = "") -> None:
    """Note that just these patterns are: others are forgotten, so that whoever adds one again begins quietly.

    The time of those that were built before stays, but for `anew`.
    """
    connection.execute(
        f"DELETE FROM file_patterns WHERE pattern NOT IN ({', '.join('?' * len(patterns))}) OR pattern = ?",  # noqa: S608
        (*patterns, anew),
    )
    connection.executemany(
        "INSERT OR IGNORE INTO file_patterns (pattern, built_ms) VALUES (?, ?)",
        [(pattern, now_ms) for pattern in patterns],
    )


def free_pages(connection: sqlite3.Connection) -> None:
    """Give back the memory of pages that a scan has read and written; the next statement reads its own again."""
    connection.execute("PRAGMA shrink_memory")


def open_read_only(path: Path) -> sqlite3.Connection:
    """The daemon's database for another process that only reads. Raises sqlite3.Error."""
    return sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=30.0, isolation_level=None)


def _as_columns(state: FileState) -> tuple[object, ...]:
    return (
        state.kind,
        state.mode,
        state.uid,
        state.gid,
        *(_wrap(number) for number in (state.size, state.mtime_ns, state.ctime_ns, state.device, state.inode)),
        state.sha256,
        state.link_target,
        state.capabilities,
        msgspec.json.encode(state.xattrs) if state.xattrs else None,
    )


def _wrap(number: int) -> int:
    """As SQLite's 64 bits with a sign: inode numbers may use them all."""
    return number - 2 * _INT64 if number >= _INT64 else number


def _as_row(row: tuple[object, ...]) -> FileRow:
    """Raises msgspec.ValidationError where the table holds what is not ours."""
    path, *columns, xattrs, package = row
    state = msgspec.convert(
        [*columns, msgspec.json.decode(xattrs, type=dict[str, bytes]) if isinstance(xattrs, bytes) else {}],
        FileState,
        builtin_types=(bytes,),
    )
    if state.inode < 0:
        state = msgspec.structs.replace(state, inode=state.inode + 2 * _INT64)
    return msgspec.convert([path, state, package], FileRow, builtin_types=(bytes,))
