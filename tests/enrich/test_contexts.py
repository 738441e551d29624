"""Contexts: told by paths that the kernel resolved, and by package ownership; never by a name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.decode.conftest import decode_lines
from watchdogd.enrich.baseline import Baseline
from watchdogd.enrich.context import CONTEXTS, Contexts
from watchdogd.enrich.enricher import Enricher
from watchdogd.enrich.identity import Identity
from watchdogd.enrich.own import OwnProcesses
from watchdogd.enrich.process import ProcessTree
from watchdogd.entities import Process, ProcessKey
from watchdogd.ports import SystemClock

if TYPE_CHECKING:
    from watchdogd.entities import Event


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


def test_what_packages_say_is_asked_again_once_they_have_changed() -> None:
    known: dict[str, bool] = {}
    contexts = Contexts(is_packaged=known.get)
    process = make_process("/usr/bin/apt", "apt", "update")
    assert (contexts.is_packaged("/usr/bin/apt"), contexts.describe(process, [])) == (None, ("package_manager",))
    known["/usr/bin/apt"] = False
    assert contexts.is_packaged("/usr/bin/apt") is None
    contexts.forget()
    assert (contexts.is_packaged("/usr/bin/apt"), contexts.describe(process, [])) == (False, ())


def test_contexts_of_the_administrator_s_own_can_be_replaced() -> None:
    contexts = Contexts({"deployment": ["/opt/deploy"]})
    process = make_process("/opt/deploy", "deploy")
    assert contexts.describe(process, []) == ("deployment",)
    contexts.replace_added({"backup": ["/opt/dep*"]})
    assert contexts.describe(process, []) == ("backup",)


def test_views_say_whether_a_package_holds_the_program_on_this_host_only() -> None:
    contexts = Contexts(is_packaged=lambda path: path.startswith("/usr/"))

    enricher = Enricher(
        ProcessTree(), Identity(SystemClock()), Baseline(), OwnProcesses(()), host="here", contexts=contexts
    )

    def say(exe: str, node: str = "node=here ") -> object:
        return enricher.enrich(write_event(exe, node)).views[0].fields.get("ImagePackaged")

    assert [say("/usr/bin/id"), say("/tmp/id"), say("/usr/bin/id", "node=other ")] == ["true", "false", None]


def write_event(exe: str, node: str) -> Event:
    line = (
        f"{node}type=SYSCALL msg=audit(1700000000.001:1): arch=c000003e syscall=101 success=yes exit=0 items=0 ppid=1 "
        f'pid=2 auid=0 uid=0 gid=0 euid=0 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 tty=pts0 ses=1 comm="x" exe="{exe}"'
    )
    (event,) = decode_lines([line.encode()])
    return event
