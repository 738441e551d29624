"""Packages as pacman's database has them, made by hand: real ones are made in tests/host."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

from watchdogd.pacman import LOCAL

if TYPE_CHECKING:
    from pathlib import Path

SAFE = frozenset(range(0x21, 0x7F)) - frozenset(b"#=\\")


def quote(path: bytes) -> bytes:
    """As bsdtar writes it in mtree(5)."""
    return b"".join(bytes((byte,)) if byte in SAFE else b"\\%03o" % byte for byte in path)


def install(root: Path, name: str, mtree: str | bytes | None = None, files: str = "", backup: str = "") -> Path:
    """A folder `NAME-VERSION-RELEASE`; `mtree` as text is packed. The list is of its paths if none is given."""
    folder = root / LOCAL / name
    folder.mkdir(parents=True)
    if isinstance(mtree, str):
        files = files or "".join(
            line.split()[0].removeprefix("./") + "/" * ("type=dir" in line) + "\n"
            for line in mtree.splitlines()
            if line.startswith("./") and not line.startswith("./.")
        )
        mtree = gzip.compress(mtree.encode())
    if mtree is not None:
        (folder / "mtree").write_bytes(mtree)
    (folder / "files").write_text(f"%FILES%\n{files}\n" + f"%BACKUP%\n{backup}\n" * bool(backup))
    return folder
