#!/usr/bin/env python3
"""Write docs/schemas/rule.schema.json and config.schema.json, by which editors complete and check what is typed.

    tools/generate_schemas.py            # writes the files
    tools/generate_schemas.py --check    # exit 1 where one of them differs from what would be written

The configuration's comes from its types, with config.yaml's own comments as descriptions; the rules' from what the
reader accepts. A schema cannot say everything: `watchdogd check` does.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import msgspec
from msgspec import inspect
from sigma.modifiers import modifier_mapping

from watchdogd.config import Config
from watchdogd.entities import Level
from watchdogd.match import syntax
from watchdogd.match.attack import load_attack
from watchdogd.match.read_correlation import _KINDS, _OPERATORS

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "schemas"
DRAFT = "https://json-schema.org/draft/2020-12/schema"
LEVELS = [str(level) for level in Level]
UUID = "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"
DATE = "^[0-9]{4}[-/][0-9]{1,2}[-/][0-9]{1,2}$"
SERVICES = ("auditd", "sshd", "sudo", "auth", "cron", "syslog")
Schema = dict[str, Any]


def describe_config() -> Schema:
    """Return the schema of config.yaml."""
    comments = read_comments((ROOT / "config.yaml").read_text(encoding="utf-8"))
    schema = describe_type(inspect.type_info(Config), "", comments)
    head = {
        "$schema": DRAFT,
        "$id": "https://watchdogd.invalid/schemas/config.schema.json",
        "title": "watchdogd configuration",
    }
    return {**head, **schema}


def read_comments(text: str) -> dict[str, str]:
    """Comment above each key, by dotted name (`webhooks[].url`); keys that are commented out count."""
    found: dict[str, str] = {}
    above: list[str] = []
    path: list[tuple[int, str]] = []
    for line in text.splitlines():
        plain = re.sub(r"^#(?=  )", "", line) if re.match(r"#\s+(- )?[\w-]+:( |$)", line) else line
        if match := re.match(r"( *)(- )?([\w-]+):", plain):
            indent = len(match[1]) + len(match[2] or "")
            path = [(column, name) for column, name in path if column < indent]
            name = ".".join(name for _, name in path) + ("[]" if path and path[0][1] == "webhooks" else "")
            dotted = f"{name}.{match[3]}".lstrip(".")
            if above:
                found[dotted] = " ".join(above)
            path.append((indent, match[3]))
            above = []
        elif match := re.match(r"\s*# ?(.*)", line):
            above.append(match[1])
        else:
            above = []
    return found


def describe_type(info: Any, name: str, comments: dict[str, str]) -> Schema:  # noqa: ANN401, PLR0911 - one for each kind
    """Return the schema of one setting."""
    extra: dict[str, Any] = {}
    if isinstance(info, inspect.Metadata):
        info, extra = info.type, dict(info.extra or {})
    if isinstance(info, inspect.UnionType):
        inner = describe_type(
            next(kind for kind in info.types if not isinstance(kind, inspect.NoneType)), name, comments
        )
        return {**inner, "type": [inner["type"], "null"]}
    match info:
        case inspect.StructType():
            fields = [field for field in info.fields if not is_internal(field)]
            inner_name = f"{name}." if name else ""
            schema: Schema = {
                "type": ["object", "null"],
                "additionalProperties": False,
                "properties": {
                    field.name: describe_field(field, f"{inner_name}{field.name}", comments) for field in fields
                },
            }
            required = [field.name for field in fields if field.required]
            return {**schema, "required": required} if required else schema
        case inspect.DictType():
            keys = describe_type(info.key_type, name, comments)
            return {
                "type": ["object", "null"],
                "propertyNames": {key: value for key, value in keys.items() if key != "type"},
                "additionalProperties": describe_type(info.value_type, name, comments),
            }
        case inspect.VarTupleType():
            return {"type": ["array", "null"], "items": describe_type(info.item_type, f"{name}[]", comments)}
        case inspect.EnumType():
            return {"type": "string", "enum": [str(member) for member in info.cls]}
        case inspect.LiteralType():
            return {"type": "string", "enum": list(info.values)}
        case inspect.BoolType():
            return {"type": "boolean"}
    return describe_scalar(info, extra)


def describe_scalar(info: Any, extra: dict[str, Any]) -> Schema:  # noqa: ANN401 - StrType, IntType or FloatType
    """Return the schema of a text or a number, with its bounds."""
    if isinstance(info, inspect.StrType):
        bounds = {"minLength": info.min_length, "maxLength": info.max_length}
        pattern = {"pattern": info.pattern.replace(r"\Z", "$")} if info.pattern else {}
        told = {"errorMessage": f"must be {extra['form']}"} if "form" in extra else {}
        return {"type": "string", **{key: value for key, value in bounds.items() if value}, **pattern, **told}
    bounds = {"minimum": info.ge, "maximum": info.le, "exclusiveMinimum": info.gt, "exclusiveMaximum": info.lt}
    kind = "integer" if isinstance(info, inspect.IntType) else "number"
    return {"type": kind, **{key: value for key, value in bounds.items() if value is not None}}


def describe_field(field: inspect.Field, name: str, comments: dict[str, str]) -> Schema:
    """Return the schema of a setting with its comment and its default."""
    schema = describe_type(field.type, name, comments)
    if name in comments:
        schema["description"] = comments[name]
    default = field.default
    if default is not msgspec.NODEFAULT and not isinstance(default, msgspec.Struct) and default not in ((), ""):
        schema["default"] = msgspec.to_builtins(default)
    return schema


def is_internal(field: inspect.Field) -> bool:
    """Return whether the program sets the field, and no file can."""
    kind = field.type
    return isinstance(kind, inspect.Metadata) and bool((kind.extra or {}).get("internal"))


def describe_rule() -> Schema:
    """Return the schema of one document of a rule file: a rule, a correlation, a filter, or a change to a rule."""
    common = describe_head()
    return {
        "$schema": DRAFT,
        "$id": "https://watchdogd.invalid/schemas/rule.schema.json",
        "title": "Sigma rule for watchdogd",
        "description": "One document of a rule file, as watchdogd reads it. `watchdogd check` says more.",
        "type": "object",
        "properties": common,
        "required": ["id"],
        "if": {"required": ["correlation"]},
        "then": {"required": ["title"], "not": {"anyOf": [{"required": ["detection"]}, {"required": ["filter"]}]}},
        "else": {
            "if": {"required": ["filter"]},
            "then": {"required": ["title", "logsource"], "not": {"required": ["detection"]}},
            "else": {"anyOf": [{"required": ["title", "logsource", "detection"]}, describe_amendment()]},
        },
        "$defs": describe_definitions(),
    }


def describe_amendment() -> Schema:
    """Return the schema of a document that changes a rule which stands elsewhere."""
    allowed = ("id", "level", "description", "watchdogd")
    return {
        "description": "Changes a rule that stands elsewhere: `level`, or `watchdogd: {disabled: true}`.",
        "propertyNames": {"enum": list(allowed)},
        "anyOf": [{"required": ["level"]}, {"required": ["watchdogd"]}],
    }


def describe_head() -> Schema:
    """Return what every document may have."""
    texts: Schema = {"type": "array", "items": {"type": "string"}}
    attack = load_attack()
    tags = [f"attack.{name}" for name in attack.tactic_names]
    return {
        "title": {"type": "string", "minLength": 1, "maxLength": 256, "description": "What an alert is called."},
        "id": {"type": "string", "pattern": UUID, "description": "A random UUID (`uuidgen`). Alert ids depend on it."},
        "name": {"type": "string", "description": "By it, or by the id, correlations and filters refer to the rule."},
        "taxonomy": {"type": "string"},
        "related": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["id", "type"],
                "properties": {
                    "id": {"type": "string", "pattern": UUID},
                    "type": {
                        "enum": ["derived", "obsolete", "obsoletes", "merged", "renamed", "similar", "correlation"]
                    },
                },
            },
        },
        "status": {"enum": ["stable", "test", "experimental", "deprecated", "unsupported"]},
        "description": {"type": "string", "description": "What it means that this rule matches."},
        "license": {"type": "string"},
        "author": {"type": "string"},
        "references": texts,
        "date": {"type": "string", "pattern": DATE},
        "modified": {"type": "string", "pattern": DATE},
        "logsource": {"$ref": "#/$defs/logsource"},
        "detection": {"$ref": "#/$defs/detection"},
        "fields": texts,
        "falsepositives": {**texts, "description": "What harmless things look like this."},
        "level": {"enum": LEVELS, "description": "Decides how an alert is routed; no verdict lowers it."},
        "tags": {
            "type": "array",
            "items": {"anyOf": [{"enum": tags}, {"type": "string", "pattern": r"^[a-z0-9_-]+\.[A-Za-z0-9._-]+$"}]},
            "description": "ATT&CK: `attack.execution`, `attack.t1059.004`.",
        },
        "scope": texts,
        "correlation": {"$ref": "#/$defs/correlation"},
        "filter": {"$ref": "#/$defs/filter"},
        "watchdogd": {"$ref": "#/$defs/watchdogd"},
    }


def describe_definitions() -> Schema:
    """Return the larger parts."""
    modifiers = "|".join(sorted(modifier_mapping))
    scalar: Schema = {"type": ["string", "number", "boolean", "null"]}
    selection: Schema = {
        "type": "object",
        "minProperties": 1,
        "propertyNames": {"pattern": rf"^[^|]*(\|({modifiers}))*$"},
        "additionalProperties": {"anyOf": [scalar, {"type": "array", "items": scalar}]},
        "description": "All fields must match; a list is any of its values.",
    }
    definition: Schema = {
        "anyOf": [
            {"$ref": "#/$defs/selection"},
            {"type": "array", "minItems": 1, "items": {"anyOf": [scalar, {"$ref": "#/$defs/selection"}]}},
            {"type": ["string", "number"]},
        ]
    }
    condition: Schema = {"anyOf": [{"type": "string"}, {"type": "array", "minItems": 1, "items": {"type": "string"}}]}
    names: Schema = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    return {
        "logsource": {
            "type": "object",
            "minProperties": 1,
            "properties": {
                "product": {"anyOf": [{"const": "linux"}, {"type": "string"}]},
                "category": {"anyOf": [{"enum": [*syntax.CATEGORIES]}, {"type": "string"}]},
                "service": {"anyOf": [{"enum": list(SERVICES)}, {"type": "string"}]},
                "definition": {"type": "string"},
            },
            "anyOf": [{"required": [key]} for key in ("product", "category", "service")],
        },
        "selection": selection,
        "definition": definition,
        "detection": {
            "type": "object",
            "required": ["condition"],
            "minProperties": 2,
            "properties": {"condition": {**condition, "description": "`sel and not 1 of filter_*`"}},
            "additionalProperties": {"$ref": "#/$defs/definition"},
        },
        "filter": {
            "type": "object",
            "required": ["rules", "condition"],
            "properties": {
                "rules": {**names, "description": "Ids or names, or `any`."},
                "condition": {"type": "string"},
            },
            "additionalProperties": {"$ref": "#/$defs/definition"},
        },
        "correlation": describe_correlation(names),
        "watchdogd": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "triage": {"enum": ["auto", "always", "never"], "description": "Whether the model is asked."},
                "group_by": names,
                "cooldown": {"type": "string", "pattern": "^(0|[1-9][0-9]{0,5})[smhd]$"},
                "notify": names,
                "disabled": {"type": "boolean"},
            },
        },
    }


def describe_correlation(names: Schema) -> Schema:
    """Return the schema of a correlation."""
    number: Schema = {"type": "number"}
    bounds: Schema = {
        "type": "object",
        "additionalProperties": False,
        "minProperties": 1,
        "properties": {
            **dict.fromkeys(_OPERATORS, number),
            "field": names,
            "percentile": {"type": "number", "minimum": 0, "maximum": 100},
        },
    }
    return {
        "type": "object",
        "required": ["type", "rules", "timespan"],
        "additionalProperties": False,
        "properties": {
            "type": {"enum": list(_KINDS)},
            "rules": names,
            "group-by": names,
            "timespan": {"type": "string", "pattern": "^[0-9]+[smhdwMy]$", "description": "In the events' own time."},
            "condition": {"anyOf": [bounds, {"type": "string"}]},
            "aliases": {
                "type": "object",
                "additionalProperties": {"type": "object", "additionalProperties": {"type": "string"}},
            },
            "generate": {"type": "boolean", "description": "Its rules alert by themselves, too."},
        },
        "if": {"properties": {"type": {"enum": ["temporal", "temporal_ordered"]}}},
        "else": {"required": ["condition"]},
    }


def main() -> None:
    """Write or check the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    for name, schema in (("config", describe_config()), ("rule", describe_rule())):
        path = TARGET / f"{name}.schema.json"
        text = json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
        if args.check and (not path.exists() or path.read_text(encoding="utf-8") != text):
            sys.exit(f"{path} differs from what would be written: run tools/generate_schemas.py")
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
