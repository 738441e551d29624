"""Certificates of our own, made with openssl: an authority, a server for 127.0.0.1 and a client."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import msgspec
import pytest

if TYPE_CHECKING:
    from pathlib import Path


class Certificates(msgspec.Struct, frozen=True):
    """Paths of PEM files."""

    authority: Path
    server: Path
    """With its key."""
    client: Path
    client_key: Path


def make_certificates(folder: Path) -> Certificates:
    """Make all of them; they hold for two days. Skips the test where there is no openssl."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl (apt-get install openssl)")
    new = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    authority, authority_key = folder / "ca.pem", folder / "ca.key"
    # Python 3.13 takes no authority without the one, and nothing that it has signed without the other.
    usage = ("-addext", "keyUsage=critical,digitalSignature,keyCertSign,cRLSign")
    run(*new, "-x509", "-subj", "/CN=test authority", *usage, "-keyout", authority_key, "-out", authority)
    signed = ("-CA", authority, "-CAkey", authority_key, *usage, "-addext", "authorityKeyIdentifier=keyid")
    paths = {}
    for name, extra in (("server", ("-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost")), ("client", ())):
        certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
        run(*new, "-x509", "-subj", f"/CN={name}", *extra, *signed, "-keyout", key, "-out", certificate)
        paths[name] = (certificate, key)
    server = folder / "server.pem"
    server.write_text("".join(path.read_text() for path in paths["server"]))
    return Certificates(authority, server, *paths["client"])


def run(*command: str | Path) -> None:
    """Run openssl, silently where it succeeds."""
    subprocess.run(command, check=True, capture_output=True)
