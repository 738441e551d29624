"""What is kept on disk: each content is read once, and nothing that is damaged gets in the way."""

from __future__ import annotations

import importlib.metadata
import sys
from typing import TYPE_CHECKING

import msgspec
import pytest

from watchdogd.errors import RuleError
from watchdogd.match.cache import RuleCache, find_installed
from watchdogd.match.library import load_rules, read_files
from watchdogd.telemetry import Counters

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from watchdogd.match.syntax import FileReading, RuleSet

RULE = """\
title: {title}
id: {number:08d}-1111-4111-8111-111111111111
level: high
logsource: {{product: linux, category: process_creation}}
detection:
  selection:
    Image: /opt/evil/{title}
  condition: selection
"""


class Asked:
    """The reader process, and which files it was asked about."""

    def __init__(self) -> None:
        self.names: list[list[str]] = []

    def __call__(self, paths: Sequence[Path], placeholders: Path | None) -> list[FileReading]:
        self.names.append([path.name for path in paths])
        return read_files(paths, placeholders)


@pytest.fixture
def asked() -> Asked:
    return Asked()


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    folder = tmp_path / "rules"
    folder.mkdir()
    for number, title in enumerate(("one", "two", "three")):
        (folder / f"{title}.yml").write_text(RULE.format(title=title, number=number))
    return folder


def load(tmp_path: Path, rules: Path, asked: Asked, counters: Counters | None = None) -> RuleSet:
    """As a daemon that starts anew; its database would be `state.db`."""
    cache = RuleCache(tmp_path / "state.db", counters or Counters(), read=asked)
    found = load_rules([rules], read=cache.read)
    cache.save(found, 1)
    return found


def test_unchanged_files_are_not_read_again(tmp_path: Path, rules: Path, asked: Asked) -> None:
    assert load(tmp_path, rules, asked) == load(tmp_path, rules, asked)
    assert asked.names == [["one.yml", "three.yml", "two.yml"]]


def test_only_what_changed_is_read_and_what_is_gone_is_forgotten(tmp_path: Path, rules: Path, asked: Asked) -> None:
    load(tmp_path, rules, asked)
    (rules / "two.yml").write_text(RULE.format(title="second", number=1))
    (rules / "three.yml").rename(rules / "moved.yaml")
    found = load(tmp_path, rules, asked)
    assert asked.names[1:] == [["moved.yaml", "two.yml"]]
    assert found == load_rules([rules])
    (rules / "one.yml").unlink()
    load(tmp_path, rules, asked)
    (rules / "one.yml").write_text(RULE.format(title="one", number=0))
    load(tmp_path, rules, asked)
    assert asked.names[2:] == [["one.yml"]]


def test_a_broken_file_is_told_again_without_being_read_again(tmp_path: Path, rules: Path, asked: Asked) -> None:
    (rules / "two.yml").write_text("title: [broken\n")
    cache = RuleCache(tmp_path / "state.db", Counters(), read=asked)
    said = []
    for _ in range(2):
        with pytest.raises(RuleError) as caught:
            load_rules([rules], read=cache.read)
        cache.save(None, 1)
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert f"{rules}/two.yml:2:1: error" in said[0]
    assert len(asked.names) == 1
    assert cache.load_last_good() is None


def test_an_unreadable_file_is_asked_about_each_time(tmp_path: Path, rules: Path, asked: Asked) -> None:
    (rules / "folder.yml").mkdir()
    for _ in range(2):
        with pytest.raises(RuleError, match="is a directory"):
            load(tmp_path, rules, asked)
    (rules / "folder.yml").rmdir()
    assert load(tmp_path, rules, asked).rules


def test_other_placeholders_are_another_reading(tmp_path: Path, rules: Path, asked: Asked) -> None:
    lists = tmp_path / "lists.yaml"
    lists.write_text("tools: [nmap]\n")
    (rules / "one.yml").write_text(
        RULE.format(title="one", number=0).replace("Image: /opt/evil/one", "Image|expand: '%tools%'")
    )
    cache = RuleCache(tmp_path / "state.db", Counters(), read=asked)
    first = load_rules([rules], placeholders=lists, read=cache.read)
    cache.save(first, 1)
    assert load_rules([rules], placeholders=lists, read=cache.read) == first
    assert len(asked.names) == 1
    lists.write_text("tools: [ncat]\n")
    assert load_rules([rules], placeholders=lists, read=cache.read) == load_rules([rules], placeholders=lists) != first


@pytest.mark.parametrize("damage", [b"", b"\x00", b"\xff" * 100, b"\x93\x01", b"\x83"])
def test_a_damaged_cache_is_counted_and_made_anew(tmp_path: Path, rules: Path, asked: Asked, damage: bytes) -> None:
    good = load(tmp_path, rules, asked)
    for name in ("state.rules-cache", "state.rules-last-good"):
        (tmp_path / name).write_bytes(damage)
    counters = Counters()
    assert RuleCache(tmp_path / "state.db", counters).load_last_good() is None
    assert load(tmp_path, rules, asked, counters) == good
    assert counters.get("match_cache_unreadable_total") == 2
    assert len(asked.names) == 2
    assert load(tmp_path, rules, asked, counters) == good
    assert len(asked.names) == 2


def test_other_code_reads_everything_anew(
    tmp_path: Path, rules: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(tmp_path, rules, asked)
    monkeypatch.setattr("watchdogd.match.cache.name_version", lambda: "another")
    load(tmp_path, rules, asked)
    assert len(asked.names) == 2


def test_libraries_are_known_by_the_names_of_their_metadata(tmp_path: Path) -> None:
    names = ("pysigma", "google_re2", "pyyaml")
    found = find_installed(sys.path, names)
    assert [entry.partition("-")[0] for entry in found] == list(names)
    assert found[2] == f"pyyaml-{importlib.metadata.version('PyYAML')}"
    for name in ("PyYAML-6.0.2.egg-info", "pySigma-1.0.dist-info", "yaml", "other-3.dist-info"):
        (tmp_path / name).mkdir()
    folders = [str(tmp_path / "gone"), str(tmp_path), *sys.path]
    assert find_installed(folders, names) == ["pysigma-1.0", found[1], "pyyaml-6.0.2"]
    assert find_installed([], names) == []


def test_the_last_good_set_is_the_one_that_was_saved(tmp_path: Path, rules: Path, asked: Asked) -> None:
    good = load(tmp_path, rules, asked)
    (rules / "two.yml").write_text("title: [broken\n")
    cache = RuleCache(tmp_path / "state.db", Counters())
    kept = cache.load_last_good()
    assert kept is not None
    assert (cache.decode_rules(kept), kept.time_ms) == (good, 1)
    assert sorted(kept.titles.values()) == ["one", "three", "two"]


def test_a_last_good_set_of_another_shape_is_counted(tmp_path: Path, rules: Path, asked: Asked) -> None:
    load(tmp_path, rules, asked)
    cache = RuleCache(tmp_path / "state.db", counters := Counters())
    kept = cache.load_last_good()
    assert kept is not None
    assert cache.decode_rules(msgspec.structs.replace(kept, rules=msgspec.Raw(msgspec.msgpack.encode([1])))) is None
    assert counters.get("match_cache_unreadable_total") == 1


def test_a_folder_that_takes_no_file_is_counted(tmp_path: Path, rules: Path, asked: Asked) -> None:
    counters = Counters()
    cache = RuleCache(tmp_path / "gone" / "state.db", counters, read=asked)
    cache.save(load_rules([rules], read=cache.read), 1)
    assert counters.get("match_cache_unwritten_total") == 2
    assert not (tmp_path / "gone").exists()


def test_nothing_but_the_two_files_is_left(tmp_path: Path, rules: Path, asked: Asked) -> None:
    load(tmp_path, rules, asked)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rules", "state.rules-cache", "state.rules-last-good"]
