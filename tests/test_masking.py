"""What is a secret is masked, what is evidence is not."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdogd.masking import MASK, mask_argv, mask_secrets

S = "hunter2Zq"


@pytest.mark.parametrize(
    "text",
    [
        f"mysql -u root -p{S} db",
        f"mysqldump --password={S}",
        f"sshpass -p {S} ssh a@b",
        f"curl -u admin:{S} https://h/",
        f"curl https://user:{S}@host.example/x",
        f"git clone https://{S}{S}{S}@github.com/x/y",
        f"psql postgres://app:{S}@10.0.0.1/db",
        f"curl -H 'Authorization: Bearer {S}{S}'",
        f"curl -H 'authorization: Basic {S}{S}'",
        f"env DB_PASSWORD={S} ./run",
        f"PGPASSWORD={S} pg_dump",
        f'curl -d {{"password": "{S}"}} http://x',
        f"curl -d 'user=a&passwd={S}&x=1' http://x",
        f"tool --api-key {S}",
        f"tool --token={S} --verbose",
        f"AWS_SECRET_ACCESS_KEY={S}",
        f"openssl enc -pass pass:{S}",
        f"redis-cli -a {S} ping",
        f"vault login hvs.{S}{S}{S}",
        f"x ghp_{S}{S}{S} y",
        f"x xoxb-{S}{S} y",
        f"x eyJhbGciOiJI.eyJ{S}{S}.{S} y",
        f"echo -----BEGIN RSA PRIVATE KEY----- {S} -----END RSA PRIVATE KEY-----",
        f"curl https://hooks.slack.com/services/T0/B0/{S}",
        f"export github_token='{S}'",
        f"app secret_key: {S}",
    ],
)
def test_secret_is_masked(text: str) -> None:
    made = mask_secrets(text)
    assert S not in made
    assert MASK in made


def test_aws_key_id_is_masked() -> None:
    assert mask_secrets("aws AKIAIOSFODNN7EXAMPLE x") == f"aws {MASK} x"


@pytest.mark.parametrize(
    "text",
    [
        "cat /etc/passwd /etc/shadow",
        "ls -la /root/.ssh/authorized_keys",
        "passwd bob",
        "grep -r token_count src",
        "ld -plugin-opt=-pass-through=-lgcc",
        "ssh -p 2222 a@b",
        "git clone https://github.com/x/y",
        "apt-get install -y libpam-pwquality",
        "curl http://10.0.0.1:8080/a@b",
        "tar -p -xf a.tar",
    ],
)
def test_evidence_is_not_masked(text: str) -> None:
    assert mask_secrets(text) == text


@given(st.text(max_size=300))
def test_masking_never_fails_and_is_stable(text: str) -> None:
    once = mask_secrets(text)
    assert mask_secrets(once).count(MASK) >= once.count(MASK) - 1


@pytest.mark.parametrize(
    "text",
    [
        f"sshpass -p {S} ssh -p 22 a@b",
        f"sshpass -p{S} scp x a@b:",
        f"/usr/bin/docker login -u a -p {S} registry.example",
        f"smbclient -U bob%{S} //h/share",
        f"ldapsearch -x -w {S} -D cn=admin",
        f"openssl rsa -passin pass:{S} -in k.pem",
        f"openssl enc -aes-256-cbc -k {S} -in f",
        f"7z a -p{S} f.7z x",
        f"zip -P {S} f.zip x",
        f"useradd -p {S} bob",
        f"lftp -u bob,{S} ftp.example",
        f"mongosh -u a -p {S}",
        f"snmpwalk -v2c -c {S} host",
        f"xfreerdp /v:host /u:bob /p:{S}",
        f"curl -b x -H Cookie:\u00a0session={S}",
        f"az storage --account-key {S}",
        f"sh -c mysql -uroot -p{S} <x.sql",
        f"x npm_{S}{S}{S}{S} y",
    ],
)
def test_secret_of_a_known_option_is_masked(text: str) -> None:
    assert S not in mask_secrets(text)
    assert S not in " ".join(mask_argv(text.split(" ")))


@pytest.mark.parametrize(
    "text",
    [
        "docker run -p 8080:80 nginx",
        "nc -l -p 8080",
        "nmap -p 22,80 host",
        "redis-cli -p 6379 ping",
        "mysql -u root -p db",
        "mkdir -p login -p a",
        "mysql --password-file /etc/my.pass",
        "docker login --password-stdin",
        "tool --token-file=/run/token",
        "openssl s_client -key k.pem -connect h:443",
        "smbclient -L //host",
        "ldapsearch -h host -b dc=x",
        "snmpwalk -v2c host",
    ],
)
def test_ordinary_options_are_not_masked(text: str) -> None:
    assert mask_secrets(text) == text
    assert mask_argv(text.split(" ")) == tuple(text.split(" "))


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (("sshpass", "-p", f"{S} {S}", "ssh", "h"), f"sshpass -p {MASK} ssh h"),
        (("curl", "-u", f"bob:{S} {S}", "h"), f"curl -u bob:{MASK} h"),
        (("tool", "--password", f"-{S}"), f"tool --password -{S}"),
        (("sshpass", "-p", f"-{S}", "ssh"), f"sshpass -p {MASK} ssh"),
        (("sh", "-c", f"mysql -p{S} x"), f"sh -c mysql -p{MASK} x"),
        (("x", "", f"--api-key={S}"), f"x  --api-key={MASK}"),
    ],
)
def test_arguments_are_masked_by_what_stands_before_them(argv: tuple[str, ...], shown: str) -> None:
    assert " ".join(mask_argv(argv)) == shown


@given(st.lists(st.text(max_size=40)))
def test_no_argument_gets_lost(argv: list[str]) -> None:
    assert len(mask_argv(argv)) == len(argv)


@pytest.mark.parametrize(
    "text", ["-", "a-", "a_", "password", "pass=", 'pass="', " ", "http://", "mysql -p", "mysql -px ", "cookie: ",
             "-----BEGIN PRIVATE KEY-----", "token-", "-u a", "eyJaaaaaaaa."],
)  # fmt: skip
def test_the_cost_of_masking_is_linear(text: str) -> None:
    started = time.process_time()
    mask_secrets(text * (1_000_000 // len(text)))
    assert time.process_time() - started < 30  # a quadratic pattern takes hours; linear: under a second


_PARTS = (
    *(
        "password",
        "PWD=",
        " --token ",
        "-u a:b",
        "://",
        "a@",
        "Bearer ",
        "cookie: ",
        "AKIA",
        "ghp_",
        "xoxb-",
        "eyJ",
        ".",
    ),
    *("/p:", "pass:", "x" * 20, "0123456789", " ", "=", ":", '"', "\n", "mysql ", "-p", "hooks.slack.com/services/"),
    *("-----BEGIN PRIVATE KEY-----", "private_key", "/api/webhooks/1", "npm_", "SG.", ":AA", "sk-"),
)


@given(st.lists(st.sampled_from(_PARTS), max_size=12).map("".join))
def test_no_shape_is_left_out_for_want_of_its_mark(text: str) -> None:
    """Beyond ASCII every shape is looked for, whatever the text holds."""
    assert mask_secrets(f"\u00e9\n{text}") == f"\u00e9\n{mask_secrets(text)}"
