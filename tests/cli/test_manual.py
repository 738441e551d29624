"""Manual pages and completions say what the program takes, and their readers understand them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from watchdogd.cli.completion import write_bash, write_zsh
from watchdogd.cli.grammar import Words, read_grammar
from watchdogd.cli.main import COMMANDS, main
from watchdogd.cli.manual import write_pages

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def grammar() -> Words:
    return read_grammar()


def need(program: str) -> str:
    found = shutil.which(program)
    if found is None and os.environ.get("CI") == "true":
        pytest.fail(f"CI needs {program}")
    return found or pytest.skip(f"needs {program}")


def test_every_command_and_every_option_has_its_place(grammar: Words, capsys: pytest.CaptureFixture[str]) -> None:
    page = write_pages(grammar)["watchdogd.8"].replace("\\-", "-")
    assert [command.path[0] for command in grammar.commands] == list(COMMANDS)
    for node in grammar.walk():
        if not node.path:
            continue
        assert f".SS \\fB{' '.join(node.path)}\\fR" in page
        with pytest.raises(SystemExit):
            main([*node.path, "--help"])
        lines = re.findall(r"^  (-.*?)(?:  |$)", capsys.readouterr().out, re.MULTILINE)
        flags = set(re.findall(r"--[a-z-]+", " ".join(lines)))
        assert flags == {flag for option in node.options for flag in option.flags if flag.startswith("--")}, node.path
        assert all(f"\\fB{flag}\\fR" in page for flag in flags - {"--help"})


def test_the_pages_of_settings_and_rules_have_every_key(grammar: Words) -> None:
    pages = {name: page.replace("\\-", "-") for name, page in write_pages(grammar).items()}
    for key in ("sources.audit_log.path", "triage.model", "webhooks[].url_file", "store.keep"):
        assert f"\\fB{key}\\fR" in pages["watchdogd.yaml.5"]
    for key in ("title", "detection", "correlation", "watchdogd.cooldown"):
        assert f"\\fB{key}\\fR" in pages["watchdogd-rules.5"]


@pytest.mark.parametrize("name", ["watchdogd.8", "watchdogd.yaml.5", "watchdogd-rules.5"])
def test_mandoc_finds_nothing_wrong(grammar: Words, name: str, tmp_path: Path) -> None:
    mandoc = need("mandoc")
    (tmp_path / name).write_text(write_pages(grammar)[name])
    said = subprocess.run(
        [mandoc, "-T", "lint", "-W", "warning", tmp_path / name], capture_output=True, text=True, check=False
    )
    complaints = [
        line for line in said.stdout.splitlines() if "missing date" not in line and "referenced manual" not in line
    ]
    assert complaints == []


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (("",), {"run", "alerts", "install"}),
        (("ver",), {"version", "verdict"}),
        (("alerts", ""), {"list", "show"}),
        (("replay", "--f"), {"--format"}),
        (("replay", "--format", ""), {"text", "json"}),
        (("replay", "--format", "j"), {"json"}),
        (("outbox", "list", "--st"), {"--state"}),
    ],
)
def test_bash_offers(grammar: Words, tmp_path: Path, typed: tuple[str, ...], offered: set[str]) -> None:
    script = tmp_path / "watchdogd"
    script.write_text(write_bash(grammar))
    words = 'source "$0"; COMP_WORDS=(watchdogd "$@"); COMP_CWORD=$#; _watchdogd; printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", words, script, *typed], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    found = set(done.stdout.split())
    assert offered <= found
    assert all(word.startswith(typed[-1]) for word in found)


def test_bash_offers_files_where_a_file_goes(grammar: Words, tmp_path: Path) -> None:
    script = tmp_path / "watchdogd"
    script.write_text(f"compopt() {{ :; }}\n{write_bash(grammar)}")
    (tmp_path / "recorded.log").touch()
    words = (
        'source "$0"; COMP_WORDS=(watchdogd replay "$1"); COMP_CWORD=2; _watchdogd; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", words, script, f"{tmp_path}/rec"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(tmp_path / "recorded.log")]


COMPLETE = """
zmodload zsh/zpty
zpty -b shell zsh -f -i
zpty -w shell "fpath=($1 \\$fpath); autoload -Uz compinit; compinit -u -d $1/dump"
zpty -w shell "bindkey '^I' list-choices; LISTMAX=0"
zpty -w -n shell $'watchdogd alerts \\t'
sleep 2
zpty -w -n shell $'\\C-u'
zpty -w shell 'exit'
while zpty -r shell line; do print -r -- $line; done
"""


def test_zsh_offers(grammar: Words, tmp_path: Path) -> None:
    zsh = need("zsh")
    script = tmp_path / "_watchdogd"
    script.write_text(write_zsh(grammar))
    checked = subprocess.run([zsh, "-n", script], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    done = subprocess.run(
        [zsh, "-f", "-c", COMPLETE, "zsh", tmp_path], capture_output=True, text=True, check=False, timeout=60
    )
    assert re.search(r"list +-- alerts of the past", done.stdout), done.stdout
    assert re.search(r"show +-- one alert", done.stdout), done.stdout
