"""Asks the running daemon by its control socket."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from watchdogd.errors import WatchdogdError
from watchdogd.reports import Refusal, Request

if TYPE_CHECKING:
    import argparse

AnswerT = TypeVar("AnswerT", bound=msgspec.Struct)

ANSWER_BYTES = 64 << 20


def add_socket_option(parser: argparse.ArgumentParser) -> None:
    """`--socket PATH`; not given, it is the configuration's."""
    parser.add_argument(
        "--socket", type=Path, metavar="PATH", help="control socket of the daemon (default: the configuration's)"
    )


def choose_socket(args: argparse.Namespace) -> Path:
    """The socket that was named, else the configuration's, else the default where that cannot be read.

    A broken configuration is no reason not to ask the daemon, which keeps the old one.
    """
    from watchdogd.config import ControlSettings, read_config  # noqa: PLC0415 - `--help` needs no settings

    if args.socket is not None:
        return Path(args.socket)
    try:
        config, _ = read_config(args.config, environ=dict(os.environ))
    except WatchdogdError:
        return Path(ControlSettings().path)
    return Path(config.control.path)


def ask(
    path: Path, what: str, kind: type[AnswerT], timeout_s: float, arguments: msgspec.Struct | None = None
) -> AnswerT:
    """The daemon's answer. Raises WatchdogdError with what to do where there is none."""
    request = Request(what) if arguments is None else Request(what, msgspec.Raw(msgspec.json.encode(arguments)))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(timeout_s)
        try:
            client.connect(os.fspath(path))
            client.sendall(msgspec.json.encode(request) + b"\n")
            line = _read_line(client)
        except (FileNotFoundError, ConnectionRefusedError):
            raise WatchdogdError(
                f"no watchdogd answers at {path}: it is not running, or was started with another control.path "
                "(systemctl status watchdogd)"
            ) from None
        except PermissionError:
            raise WatchdogdError(f"{path} may be asked by root only: run this with sudo") from None
        except TimeoutError:
            raise WatchdogdError(f"watchdogd did not answer within {timeout_s:g} s: see its journal") from None
        except OSError as error:
            raise WatchdogdError(f"{path} cannot be asked: {error.strerror or error}") from error
    if not line:
        raise WatchdogdError(f"watchdogd at {path} ended before it answered (systemctl status watchdogd)")
    try:
        return msgspec.json.decode(line, type=kind)
    except msgspec.MsgspecError as error:
        try:
            refusal = msgspec.json.decode(line, type=Refusal)
        except msgspec.MsgspecError:
            raise WatchdogdError(
                f"the answer of watchdogd at {path} cannot be read ({error}): is the running daemon of this version?"
            ) from None
        raise WatchdogdError(f"watchdogd refuses: {refusal.error}") from None


def _read_line(client: socket.socket) -> bytes:
    parts: list[bytes] = []
    size = 0
    while not parts or not parts[-1].endswith(b"\n"):
        part = client.recv(1 << 16)
        size += len(part)
        if not part or size > ANSWER_BYTES:
            break
        parts.append(part)
    return b"".join(parts)
