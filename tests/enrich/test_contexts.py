"""Contexts: told by paths that the kernel resolved, and by package ownership; never by a name."""

from __future__ import annotations

import pytest

from watchdogd.enrich.context import CONTEXTS, Contexts
from watchdogd.entities import Process, ProcessKey


def make_process(exe: str | None, *argv: str, cwd: str | None = "/root") -> Process:
    key = ProcessKey("", 1, 0)
    return Process(key, 1, None, exe, "x", argv, cwd, 0, "root", 0, "root", "1", None)


def test_the_nearest_context_is_first_and_each_is_named_once() -> None:
    lineage = [make_process(exe) for exe in ("/bin/sh", "/usr/bin/dpkg", "/usr/bin/apt-get", "/usr/sbin/cron")]
    assert Contexts().describe(make_process("/usr/bin/install"), lineage) == ("package_manager", "scheduled_job")


@pytest.mark.parametrize(
    "exe", ["/tmp/apt", "/home/ann/usr/bin/apt", "/usr/bin/apt (deleted)", "/usr/local/bin/apt", None]
)
def test_a_name_alone_is_nothing(exe: str | None) -> None:
    assert Contexts().describe(make_process(exe, "apt", "install"), []) == ()


def test_a_script_counts_where_an_interpreter_runs_it() -> None:
    script = "/usr/bin/unattended-upgrade"
    assert Contexts().describe(make_process("/usr/bin/python3.11", "python3", script), []) == ("package_manager",)


@pytest.mark.parametrize(
    "argv",
    [
        ("python3", "-c", "import os", "/usr/bin/unattended-upgrade"),
        ("python3", "/tmp/usr/bin/unattended-upgrade"),
        ("python3", "/usr/bin/../../tmp/unattended-upgrade"),
        ("python3", "unattended-upgrade"),
        ("/usr/bin/unattended-upgrade",),
        (),
    ],
)
def test_a_script_that_is_not_the_one_does_not(argv: tuple[str, ...]) -> None:
    assert Contexts().describe(make_process("/usr/bin/python3.11", *argv), []) == ()


@pytest.mark.parametrize("exe", ["/tmp/python3", "/usr/bin/vim"])
def test_a_script_counts_only_below_an_interpreter_of_the_system(exe: str) -> None:
    assert Contexts().describe(make_process(exe, "python3", "/usr/bin/salt-call"), []) == ()


def test_a_script_counts_beside_its_interpreter() -> None:
    contexts = Contexts({"own": ["/usr/bin/python3"]})
    process = make_process("/usr/bin/python3", "python3", "/usr/bin/salt-call")
    assert contexts.describe(process, [process]) == ("own", "configuration_management")


def test_a_relative_script_is_found_from_its_folder() -> None:
    process = make_process("/usr/bin/python3", "python3", "bin/salt-call", cwd="/usr")
    assert Contexts().describe(process, []) == ("configuration_management",)


def test_what_no_package_holds_stands_for_nothing_unless_named() -> None:
    contexts = Contexts({"backup": ["/opt/own/backup"]}, lambda path: path == "/usr/bin/apt")
    assert contexts.describe(make_process("/usr/bin/apt"), []) == ("package_manager",)
    assert contexts.describe(make_process("/usr/bin/borg"), []) == ()
    assert contexts.describe(make_process("/opt/own/backup"), []) == ("backup",)


def test_what_is_remembered_is_bounded() -> None:
    contexts = Contexts()
    for number in range(10_000):
        contexts.describe(make_process(f"/tmp/{number}"), [])
    assert len(contexts._known) <= 4_096


def test_patterns_are_absolute_and_no_pattern_covers_a_folder_that_users_write() -> None:
    for patterns in CONTEXTS.values():
        for pattern in patterns:
            assert pattern.startswith(("/usr/", "/opt/", "/sbin/", "/bin/", "/var/cfengine/"))
            assert not pattern.startswith("/usr/local/")
