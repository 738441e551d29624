"""Certificates, keys and proxies of webhooks are tried when the configuration is read."""

from __future__ import annotations

import ssl
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.write.certificates import Certificates, make_certificates
from watchdogd.config import describe, read_config
from watchdogd.transport_checks import make_context

if TYPE_CHECKING:
    from pathlib import Path

    from watchdogd.config import Config
    from watchdogd.errors import Problem


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


def read(folder: Path, *lines: str) -> tuple[Config, list[Problem]]:
    path = folder / "config.yaml"
    path.write_text("webhooks:\n  - name: ops\n    url: https://example.org/\n" + "".join(f"    {x}\n" for x in lines))
    return read_config(path, environ={})


def test_a_certificate_and_its_key_are_fine(tmp_path: Path, certificates: Certificates) -> None:
    config, problems = read(
        tmp_path,
        f"ca_file: {certificates.authority}",
        f"client_certificate: {certificates.client}",
        f"client_key: {certificates.client_key}",
    )
    assert problems == []
    assert config.webhooks[0].client_key == str(certificates.client_key)
    _, problems = read(tmp_path, f"client_certificate: {certificates.server}")  # holds its key, too
    assert problems == []


def test_a_strangers_key_is_told(tmp_path: Path, certificates: Certificates) -> None:
    _, (problem,) = read(
        tmp_path, f"client_certificate: {certificates.server}", f"client_key: {certificates.client_key}"
    )
    assert (problem.place.line, problem.place.column) == (5, 17)
    assert problem.message == f"{certificates.client_key} is not the key of {certificates.server}"


def test_a_key_with_a_passphrase_asks_nobody(tmp_path: Path, certificates: Certificates) -> None:
    locked = tmp_path / "locked.key"
    subprocess.run(
        ["openssl", "ec", "-in", certificates.client_key, "-aes256", "-passout", "pass:x", "-out", locked],
        check=True,
        capture_output=True,
    )
    _, (problem,) = read(tmp_path, f"client_certificate: {certificates.client}", f"client_key: {locked}")
    assert problem.severity == "error"
    assert problem.hint == "both in PEM, the key without a passphrase"


def test_a_key_that_everybody_can_read_is_warned_of(tmp_path: Path, certificates: Certificates) -> None:
    open_key = tmp_path / "open.key"
    open_key.write_text(certificates.client_key.read_text())
    open_key.chmod(0o644)
    _, (problem,) = read(tmp_path, f"client_certificate: {certificates.client}", f"client_key: {open_key}")
    assert problem.severity == "warning"
    assert "every user can read it" in problem.message


def test_a_key_may_be_a_credential(tmp_path: Path, certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "ops.pem").write_text(certificates.server.read_text())
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "config.yaml"
    path.write_text("webhooks: [{name: ops, url: 'https://example.org', client_certificate: ops.pem}]\n")
    (folder / "ops.pem").chmod(0o400)
    config, problems = read_config(path, environ={"CREDENTIALS_DIRECTORY": str(folder)})
    assert problems == []
    assert config.webhooks[0].client_certificate == str(folder / "ops.pem")


def test_a_proxys_password_stays_in_its_file_and_out_of_sight(tmp_path: Path) -> None:
    (tmp_path / "ops.proxy").write_text("http://user:s3cret@proxy.example.org:3128\n")
    (tmp_path / "ops.proxy").chmod(0o600)
    config, problems = read(tmp_path, "proxy_file: ops.proxy")
    assert problems == []
    assert config.webhooks[0].proxy == "http://user:s3cret@proxy.example.org:3128"
    assert "s3cret" not in repr(config)
    assert "s3cret" not in str(describe(config))


@pytest.mark.parametrize("text", ["ftp://user:s3cret@proxy", "user:s3cret@proxy", "http://"])
def test_a_bad_proxy_in_a_file_is_told_without_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "ops.proxy").write_text(text)
    (tmp_path / "ops.proxy").chmod(0o600)
    _, (problem,) = read(tmp_path, "proxy_file: ops.proxy")
    assert problem.message.startswith("the URL in ops.proxy ")
    assert "s3cret" not in str(problem)


def test_nothing_older_than_tls_1_2() -> None:
    context = make_context(None, None, None)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
