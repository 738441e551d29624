"""The schemas for editors: what watchdogd accepts they accept, and they see what a person mistypes most."""

from __future__ import annotations

import datetime as dt
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
SCHEMAS = ROOT / "docs" / "schemas"
MISTAKES = ROOT / "tests" / "match" / "mistakes"
CONFIGS = ROOT / "tests" / "config"

WRONG_RULES = (
    "action_global", "bad_date", "bad_id", "bad_level", "bad_status", "condition_not_text", "correlation_condition",
    "correlation_no_condition", "correlation_no_rules", "correlation_no_timespan", "correlation_no_type",
    "correlation_operator", "correlation_timespan", "correlation_type", "correlation_unknown_key", "empty_selection",
    "filter_no_rules", "logsource_is_text", "modifier_unknown", "no_condition", "no_detection", "no_id", "no_logsource",
    "no_title", "own_cooldown", "own_key_unknown", "own_value_unknown", "tag_without_namespace", "tags_not_a_list",
    "value_is_a_map", "yaml_list_at_the_top", "detections_misspelt",
)  # fmt: skip
WRONG_CONFIGS = (
    "bad_keep_alive", "bad_level", "boolean_as_text", "key_in_the_wrong_section", "list_at_the_top", "list_is_text",
    "list_of_wrong_things", "negative_and_zero", "number_as_text", "out_of_range", "section_is_a_list",
    "text_as_number", "unknown_key", "unknown_nested_key", "webhook_bad_name",
)  # fmt: skip


def load(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads((SCHEMAS / f"{name}.schema.json").read_text(encoding="utf-8")))


def read(path: Path) -> list[Any]:
    """Documents as an editor sees them: a date is what is written."""
    return [as_json(document) for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))]


def as_json(value: Any) -> Any:  # noqa: ANN401 - YAML holds anything
    if isinstance(value, dict):
        return {str(key): as_json(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [as_json(inner) for inner in value]
    return value.isoformat() if isinstance(value, dt.date) else value


def find_errors(schema: jsonschema.Draft202012Validator, path: Path) -> list[str]:
    return [f"{path}: {error.message}" for document in read(path) for error in schema.iter_errors(document)]


def test_they_say_what_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "generate_schemas.py", "--check"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_our_own_rules_are_fine() -> None:
    schema = load("rule")
    paths = [path for path in (ROOT / "rules").rglob("*.yml") if "tests" not in path.relative_to(ROOT / "rules").parts]
    assert len(paths) >= 24
    assert [error for path in paths for error in find_errors(schema, path)] == []


def test_the_rules_of_sigmahq_are_fine(corpora: Path) -> None:
    schema = load("rule")
    paths = sorted((corpora / "third_party" / "sigmahq").rglob("*.yml"))
    assert len(paths) >= 248
    assert [error for path in paths for error in find_errors(schema, path)] == []


def test_what_is_only_doubtful_is_fine() -> None:
    """Warnings are no business of a schema."""
    schema = load("rule")
    doubtful = [
        path.with_suffix(".yml")
        for path in sorted(MISTAKES.glob("*.txt"))
        if ": error: " not in path.read_text(encoding="utf-8") and path.stem not in ("no_level", "empty_file")
    ]
    assert len(doubtful) > 40
    assert [error for path in doubtful for error in find_errors(schema, path)] == []


@pytest.mark.parametrize("name", WRONG_RULES)
def test_a_mistake_in_a_rule_is_seen(name: str) -> None:
    assert find_errors(load("rule"), MISTAKES / f"{name}.yml")


def test_a_rule_that_changes_another_is_fine() -> None:
    schema = load("rule")
    rule_id = "5f0b3f4e-6a1c-4a53-9a7e-0f6f1f7d1c01"
    assert schema.is_valid({"id": rule_id, "level": "low"})
    assert schema.is_valid({"id": rule_id, "watchdogd": {"disabled": True}, "description": "noisy here"})
    assert not schema.is_valid({"id": rule_id})
    assert not schema.is_valid({"id": rule_id, "level": "low", "tags": []})


def test_the_configuration_as_shipped_is_fine() -> None:
    schema = load("config")
    assert find_errors(schema, ROOT / "config.yaml") == []
    text = re.sub(r"^#(?=\s+(- )?[\w-]+:)", "", (ROOT / "config.yaml").read_text(encoding="utf-8"), flags=re.MULTILINE)
    document = yaml.safe_load(text)
    assert document["webhooks"][0]["name"] == "ops"
    assert schema.is_valid(document)


def test_every_setting_that_its_file_explains_is_explained() -> None:
    schema = json.loads((SCHEMAS / "config.schema.json").read_text(encoding="utf-8"))
    assert schema["properties"]["triage"]["properties"]["num_ctx"]["description"].startswith("Tokens of question")
    webhook = schema["properties"]["webhooks"]["items"]["properties"]
    assert webhook["secret_file"]["description"].startswith("The signing secret")
    assert "secret" not in webhook


@pytest.mark.parametrize("name", WRONG_CONFIGS)
def test_a_mistake_in_the_configuration_is_seen(name: str) -> None:
    assert find_errors(load("config"), CONFIGS / f"{name}.yaml")
