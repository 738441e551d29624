"""The guard refuses what it must. These tests touch nothing and run everywhere."""

from __future__ import annotations

import multiprocessing
import shutil
from typing import TYPE_CHECKING

import msgspec
import pytest

from tests.host import guard

if TYPE_CHECKING:
    from pathlib import Path

HARMLESS = guard.Machine(euid=0, init="bash", auditd_pid=0)


def test_a_test_machine_is_accepted() -> None:
    assert guard.find_refusal(HARMLESS, {}) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"euid": 1000}, "needs root"), ({"init": "systemd"}, "PID 1 is systemd"), ({"auditd_pid": 812}, "pid 812")],
)
def test_what_may_be_a_real_host_is_refused(change: dict[str, int | str], reason: str) -> None:
    refusal = guard.find_refusal(msgspec.structs.replace(HARMLESS, **change), {})
    assert refusal is not None
    assert reason in refusal


@pytest.mark.parametrize("change", [{"init": "systemd"}, {"auditd_pid": 812}])
def test_permission_is_given_by_the_exact_word(change: dict[str, int | str]) -> None:
    machine = msgspec.structs.replace(HARMLESS, **change)
    assert guard.find_refusal(machine, {guard.PERMISSION: "1"}) is None
    assert guard.find_refusal(machine, {guard.PERMISSION: "yes"}) is not None


def test_permission_does_not_replace_root() -> None:
    assert guard.find_refusal(msgspec.structs.replace(HARMLESS, euid=1), {guard.PERMISSION: "1"}) == "needs root"


def test_missing_programs_are_named_by_their_package() -> None:
    assert guard.find_missing("auditd", "auditctl", "mmdebstrap", which=lambda _: None) == (
        "needs: apt-get install -y --no-install-recommends auditd mmdebstrap"
    )
    assert guard.find_missing("auditd", which=lambda name: f"/usr/sbin/{name}") is None


def test_refusals_skip_here_and_fail_in_ci() -> None:
    with pytest.raises(pytest.skip.Exception, match="needs root"):
        guard.skip_or_fail("needs root", {})
    with pytest.raises(pytest.fail.Exception, match="CI must run this: needs root"):
        guard.skip_or_fail("needs root", {"CI": "true"})


def _try_lock(folder: Path) -> str:
    try:
        with guard.hold_lock((folder,), timeout_s=0.0):
            return "held"
    except TimeoutError as error:
        return str(error)


def test_only_one_may_hold_the_lock(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        with guard.hold_lock((tmp_path,)):
            assert "has been held by another test run" in pool.apply(_try_lock, (tmp_path,))
        assert pool.apply(_try_lock, (tmp_path,)) == "held"


def test_a_link_in_the_locks_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / guard.LOCK_NAME).symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic link"), guard.hold_lock((tmp_path,)):
        pass
    assert not (tmp_path / "victim").exists()


@pytest.mark.skipif(shutil.which("auditctl") is None, reason="asks the real auditctl")
def test_the_machine_can_be_looked_at() -> None:
    machine = guard.look_at_machine()
    assert machine.init
    assert machine.auditd_pid >= 0
