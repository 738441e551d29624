"""What a look at the rule files sees, and what wakes it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from watchdog.observers.api import BaseObserver

from watchdogd.match.watch import RuleWatcher, Target, look
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    folder = tmp_path / "rules"
    (folder / "theme").mkdir(parents=True)
    (folder / "theme" / "one.yml").write_text("one")
    (folder / "two.yaml").write_text("two")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "three.yml").write_text("three")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    return folder


def lead_elsewhere(link: Path, target: Path) -> None:
    link.unlink()
    link.symlink_to(target)


CHANGES: dict[str, Callable[[Path], Any]] = {
    "written": lambda rules: (rules / "two.yaml").write_text("TWO"),
    "added": lambda rules: (rules / "new.yml").write_text(""),
    "removed": lambda rules: (rules / "two.yaml").unlink(),
    "renamed": lambda rules: (rules / "two.yaml").rename(rules / "2.yaml"),
    "behind a link": lambda rules: (rules / "linked" / "three.yml").write_text("THREE"),
    "link led elsewhere": lambda rules: lead_elsewhere(rules / "linked", rules / "theme"),
    "folder gone": shutil.rmtree,
    "file became a folder": lambda rules: lead_elsewhere(rules / "two.yaml", rules / "theme"),
    "settings": lambda rules: (rules.parent / "config.yaml").write_text("late_after_s: 1"),
}
NO_CHANGES: dict[str, Callable[[Path], Any]] = {
    "nothing": lambda _: None,
    "an editor's own file": lambda rules: (rules / ".two.yaml.swp").write_text("x"),
    "no rule": lambda rules: (rules / "notes.txt").write_text("x"),
    "a sample": lambda rules: shutil.copytree(rules / "theme", rules / "tests"),
    "a reading": lambda rules: (rules / "two.yaml").read_text(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_is_another_fingerprint(rules: Path, change: Callable[[Path], Any]) -> None:
    files = [rules.parent / "config.yaml"]
    before = look([rules], files).fingerprint
    change(rules)
    assert look([rules], files).fingerprint != before


@pytest.mark.parametrize("change", NO_CHANGES.values(), ids=NO_CHANGES)
def test_what_is_no_rule_is_none(rules: Path, change: Callable[[Path], Any]) -> None:
    files = [rules.parent / "config.yaml"]
    before = look([rules], files).fingerprint
    change(rules)
    assert look([rules], files).fingerprint == before


def test_folders_behind_links_and_the_links_themselves_are_watched(rules: Path) -> None:
    top = rules.parent
    (top / "current").symlink_to("rules")
    targets = look([top / "current"], [top / "config.yaml"]).targets
    assert Target(rules, recursive=True) in targets
    assert Target(top / "elsewhere", recursive=True) in targets
    assert {"current", "rules", "config.yaml"} <= targets[Target(top, recursive=False)]
    assert "linked" in targets[Target(rules, recursive=False)]


def test_of_a_missing_folder_the_nearest_that_is_there_is_watched(tmp_path: Path) -> None:
    targets = look([tmp_path / "a" / "b" / "rules"], []).targets
    assert targets[Target(tmp_path, recursive=False)] == {"a"}


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    assert look([tmp_path / "one"], []).targets


class Watched:
    """A watcher of one folder; `changes` are the fingerprints that it told of."""

    def __init__(self, rules: Path, poll_s: float = 3600.0) -> None:
        self.rules = rules
        self.seen = look([rules], []).fingerprint
        self.changes: list[str] = []
        self.told = asyncio.Event()
        self.counters = Counters()
        self.watcher = RuleWatcher(
            lambda: look([rules], []), lambda: self.seen, self.note, self.counters, poll_s=poll_s
        )

    async def note(self) -> None:
        self.seen = look([self.rules], []).fingerprint
        self.changes.append(self.seen)
        self.told.set()

    async def wait(self) -> None:
        await asyncio.wait_for(self.told.wait(), 30)
        self.told.clear()

    @contextlib.asynccontextmanager
    async def running(self) -> Any:  # noqa: ANN401 - an async context manager
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.watcher.run())
            while not self.watcher._watched:  # noqa: ASYNC110 - a thread makes them
                await asyncio.sleep(0.01)
            yield
            task.cancel()


async def test_the_kernel_wakes_it_and_what_comes_at_once_is_one_change(rules: Path) -> None:
    watched = Watched(rules)
    async with watched.running():
        for number in range(50):
            (rules / f"{number}.yml").write_text("")
        await watched.wait()
        assert watched.changes == [look([rules], []).fingerprint]
        (rules / "linked" / "three.yml").unlink()
        await watched.wait()
        shutil.rmtree(rules)
        await watched.wait()
        rules.mkdir()  # noqa: ASYNC240 - what the test is about
        await watched.wait()
        (rules / "again.yml").write_text("")
        await watched.wait()
    assert watched.counters.snapshot() == {}


async def test_what_was_changed_before_it_watched_is_found(rules: Path) -> None:
    watched = Watched(rules)
    (rules / "two.yaml").write_text("changed")
    async with watched.running():
        await watched.wait()


async def test_without_inotify_the_poll_finds_it(rules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "inotify watch limit reached")

    monkeypatch.setattr(BaseObserver, "schedule", refuse)
    watched = Watched(rules, poll_s=0.05)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(watched.watcher.run())
        (rules / "two.yaml").write_text("changed")
        await watched.wait()
        task.cancel()
    assert watched.counters.get("match_watch_errors_total") >= 1
