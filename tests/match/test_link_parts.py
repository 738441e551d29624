"""What a correlation is made of, where that alerts by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.match.conftest import link_folders
from tests.match.test_link import write
from tests.match.test_link_correlations import RULES, A, B, correlate
from watchdogd.entities import Part

if TYPE_CHECKING:
    from pathlib import Path

    from watchdogd.entities import Rule


def link(tmp_path: Path, *documents: str) -> dict[str, Rule]:
    ruleset = link_folders(write(tmp_path / "a", "r.yml", *RULES, *documents))
    return {rule.title: rule for rule in ruleset.rules}


def test_a_correlation_that_lets_its_rules_alert_knows_them_and_they_it(tmp_path: Path) -> None:
    aliases = "{who: {a: User, b: ParentUser}}"
    rules = link(
        tmp_path, correlate(rules="[a, b]", group_by="who", aliases=aliases, generate="true"), correlate(8, "other")
    )
    top = rules["Top 7"]
    assert top.parts == (Part(A, ("who",), ("User",)), Part(B, ("who",), ("ParentUser",)))
    assert top.timespan_ms == 600_000
    assert rules["B"].part_of == (("ParentUser",),)


def test_rules_that_do_not_alert_are_no_parts(tmp_path: Path) -> None:
    rules = link(tmp_path, correlate(rules="[a, b]"))
    assert (rules["Top 7"].parts, rules["Top 7"].timespan_ms) == ((), 0)


def test_parts_are_found_at_every_depth(tmp_path: Path) -> None:
    lower = correlate(6, "lower", rules="[a]", group_by="[Image, User]", generate="true")
    rules = link(tmp_path, lower, correlate(7, "top", rules="[lower, b]", group_by="User", generate="true"))
    lower_id = rules["Top 6"].id
    assert rules["Top 7"].parts == (
        Part(lower_id, ("User",), ("User",)),
        Part(A, ("User",), ("User",)),
        Part(B, ("User",), ("User",)),
    )
    assert rules["Top 6"].part_of == (("User",),)
