"""Unix sockets that the daemon listens on: its own account's alone, taken over from a daemon that was killed."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class UnixListener:
    """One name. What of it is another daemon's is left to that one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identity: tuple[int, int] | None = None

    def bind(self, backlog: int) -> socket.socket:
        """Listen there, mode 0600 from the first moment on. Raises OSError, also where somebody else answers there."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            if self._path.is_socket() and not self._is_answered():
                self._path.unlink()
            mask = os.umask(0o177)
            try:
                listener.bind(str(self._path))
            finally:
                os.umask(mask)
            status = self._path.lstat()
            self._identity = (status.st_dev, status.st_ino)
            listener.listen(backlog)
        except OSError:
            listener.close()
            raise
        return listener

    def remove(self) -> None:
        """Take the name away, unless it is another socket's by now."""
        with contextlib.suppress(OSError):  # gone already, which is what is wanted
            status = self._path.lstat()
            if (status.st_dev, status.st_ino) == self._identity:
                self._path.unlink()

    def _is_answered(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(1.0)
            try:
                client.connect(str(self._path))
            except (ConnectionRefusedError, FileNotFoundError):
                return False
        return True
