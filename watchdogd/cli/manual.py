"""Manual pages, made from the command line's parsers and the schemas of configuration and rules (man(7))."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any, Final

import msgspec

from watchdogd import __version__
from watchdogd.resources import find_resource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from watchdogd.cli.grammar import Option, Words

Schema = dict[str, Any]

_ABOUT: Final = """\
watchdogd reads the audit log as auditd writes it, the kernel's audit socket, the journal and the host's metrics,
judges every event by Sigma rules, asks a local model (Ollama) what to make of a hit, and writes the alert to the
journal and to webhooks. The model advises; it can never talk an alert away.

It is run by systemd: "systemctl enable --now watchdogd". "systemctl reload watchdogd" loads configuration and rules
anew, waits for it, and fails where they were refused. Alerts are read by "journalctl -t watchdogd" and "watchdogd
alerts list"."""

_EXITS: Final = {
    "0": "fine",
    "1": "a check found an error, or a sink took no test alert",
    "2": "usage, configuration, unreadable input, a rule that cannot be loaded, a refused reload, or no daemon",
}
_ENVIRONMENT: Final = {
    "OLLAMA_URL, OLLAMA_MODEL, AI_ENABLED": "stronger than triage.ollama_url, triage.model and triage.enabled",
    "CREDENTIALS_DIRECTORY": "set by systemd (LoadCredential=): where files named by settings are looked for first",
}
_FILES: Final = {
    "/etc/watchdogd/config.yaml": "the configuration, watchdogd.yaml(5)",
    "/etc/watchdogd/rules": "your own rules, watchdogd-rules(5)",
    "/etc/watchdogd/credentials": "secrets of webhooks, root's alone; settings name them as credentials/NAME",
    "/usr/share/watchdogd/rules": "the rules that come with watchdogd",
    "/etc/audit/rules.d/50-watchdogd.rules": "what the kernel is asked to record",
    "/var/lib/watchdogd/watchdogd.db": "alerts, deliveries, checkpoints (SQLite)",
    "/run/watchdogd/control.sock": "where the daemon answers the commands",
}
_CONFIGURATION: Final = """\
A YAML file; every key may be left out and has its default then. What is saved takes effect within seconds; sources,
database, control socket, health and api need a restart. "watchdogd check" reports every mistake with line and column,
"watchdogd check --help" says more. The file that is installed shows every key with its default and a comment.

Names end in their unit: _s is seconds. Relative paths count from the file's folder. A name that ends in _file names a
file that holds a secret; it is looked for among systemd's credentials first."""
_RULES: Final = """\
Rules are Sigma, one or more YAML documents in a file: rules, correlations and filters. Every .yml and .yaml file in
and below the folders of rules.folders is read, except in folders named tests. Folders are layers: a rule takes the
place of the one with the same id in a folder above. What is saved is in force within a second; while anything is
broken, the rules from before stay in force.

"watchdogd check" reports every mistake with line and column, "watchdogd rules test" runs the samples beside the
rules, "watchdogd rules explain RULE LOG" shows part by part why a rule did or did not match, "watchdogd replay"
judges a recorded log."""


def write_pages(grammar: Words) -> dict[str, str]:
    """Every page by its file name."""
    return {
        "watchdogd.8": write_commands(grammar),
        "watchdogd.yaml.5": write_configuration(_load("config")),
        "watchdogd-rules.5": write_rules(_load("rule")),
    }


def _load(name: str) -> Schema:
    return msgspec.json.decode((find_resource("schemas") / f"{name}.schema.json").read_bytes(), type=Schema)


def write_commands(grammar: Words) -> str:
    """watchdogd(8)."""
    parts = [
        _head("WATCHDOGD", 8, "watchdogd - host security watchdog by Sigma rules and a local model"),
        ".SH SYNOPSIS\n.B watchdogd\n.I COMMAND\n.RI [ OPTION ...]\n",
        ".SH DESCRIPTION\n" + _paragraphs(_ABOUT),
        ".SH COMMANDS\n",
    ]
    for command in grammar.commands:
        parts.extend(_write_command(node) for node in command.walk())
    parts += [
        ".SH EXIT STATUS\n" + "".join(_item(_bold(code), said) for code, said in _EXITS.items()),
        ".SH ENVIRONMENT\n" + "".join(_item(_bold(name), said) for name, said in _ENVIRONMENT.items()),
        ".SH FILES\n" + "".join(_item(f"\\fI{_escape(path)}\\fR", said) for path, said in _FILES.items()),
        _see_also("watchdogd.yaml(5)", "watchdogd-rules(5)", "auditd(8)", "journalctl(1)", "systemctl(1)"),
    ]
    return "".join(parts)


def _write_command(command: Words) -> str:
    places = [option for option in command.options if not option.flags]
    title = " ".join([_bold(" ".join(command.path)), *(_name_place(option) for option in places)])
    said = f"{command.help[:1].upper()}{command.help[1:]}."
    options = [option for option in command.options if option.flags != ("-h", "--help")]
    return f".SS {title}\n{_escape(said)}\n" + "".join(_item(_name_option(option), option.help) for option in options)


def _name_place(option: Option) -> str:
    return f"[\\fI{_escape(option.value)}\\fR" + (" ...]" if option.many else "]")


def _name_option(option: Option) -> str:
    value = f" \\fI{_escape(option.value)}\\fR" if option.value else ""
    return ", ".join(_bold(flag) for flag in option.flags) + value if option.flags else value.strip()


def write_configuration(schema: Schema) -> str:
    """watchdogd.yaml(5)."""
    parts = [
        _head("WATCHDOGD.YAML", 5, "watchdogd.yaml - configuration of watchdogd"),
        ".SH DESCRIPTION\n" + _paragraphs(_CONFIGURATION),
        ".SH SETTINGS\n",
    ]
    for name, section in schema["properties"].items():
        parts.append(
            f".SS {_escape(name)}\n" + (f"{_text(section['description'])}\n" if "description" in section else "")
        )
        below = _walk_settings(schema, name, section)
        parts.extend(
            _item(f"{_bold(path)} {_describe(setting)}", setting.get("description", "")) for path, setting in below
        )
    parts += [
        ".SH FILES\n" + _item("\\fI/etc/watchdogd/config.yaml\\fR", "what the service reads"),
        _see_also("watchdogd(8)", "watchdogd-rules(5)"),
    ]
    return "".join(parts)


def _walk_settings(root: Schema, path: str, setting: Schema) -> Iterator[tuple[str, Schema]]:
    setting = _resolve(root, setting)
    items = _resolve(root, setting.get("items") or {})
    if setting.get("properties"):
        for name, below in setting["properties"].items():
            yield from _walk_settings(root, f"{path}.{name}", below)
    elif items.get("properties"):
        for name, below in items["properties"].items():
            yield from _walk_settings(root, f"{path}[].{name}", below)
    else:
        yield path, setting


def _resolve(root: Schema, schema: Schema) -> Schema:
    """What a `$ref` within the document stands for; what stands beside it counts, too."""
    if "$ref" not in schema:
        return schema
    found = root
    for word in schema["$ref"].removeprefix("#/").split("/"):
        found = found[word]
    return {**found, **{key: value for key, value in schema.items() if key != "$ref"}}


def _describe(setting: Schema) -> str:
    """Kind, range and default in brackets."""
    kinds = setting.get("type", [])
    names = [kind for kind in ([kinds] if isinstance(kinds, str) else kinds) if kind != "null"]
    parts = [" or ".join(names)] if names else []
    if "enum" in setting:
        parts = [", ".join(str(value) for value in setting["enum"] if value is not None)]
    least, most = setting.get("minimum"), setting.get("maximum")
    if least is not None or most is not None:
        parts.append(f"{'' if least is None else f'from {least} '}{'' if most is None else f'up to {most}'}".strip())
    if setting.get("default") not in (None, "", [], {}):
        default = setting["default"]
        shown = default if isinstance(default, list) else [default]
        parts.append("default " + ", ".join(msgspec.json.encode(value).decode() for value in shown))
    return _escape(f"({'; '.join(part for part in parts if part)})") if parts else ""


def write_rules(schema: Schema) -> str:
    """watchdogd-rules(5)."""
    parts = [
        _head("WATCHDOGD-RULES", 5, "watchdogd-rules - Sigma rules as watchdogd reads them"),
        ".SH DESCRIPTION\n" + _paragraphs(_RULES),
        ".SH KEYS\n",
    ]
    for name, key in schema["properties"].items():
        key = _resolve(schema, key)  # noqa: PLW2901 - the same, resolved
        parts.append(_item(f"{_bold(name)} {_describe(key)}", key.get("description", "")))
        for below, inner in (key.get("properties") or {}).items():
            inner = _resolve(schema, inner)  # noqa: PLW2901 - as above
            parts.append(_item(f"{_bold(f'{name}.{below}')} {_describe(inner)}", inner.get("description", "")))
    parts += [
        ".SH FILES\n",
        _item("\\fI/usr/share/watchdogd/rules\\fR", "the rules that come with watchdogd; an update writes them anew"),
        _item("\\fI/etc/watchdogd/rules\\fR", "your own: the same id takes the place of a packaged rule"),
        _see_also("watchdogd(8)", "watchdogd.yaml(5)", "https://sigmahq.io/docs"),
    ]
    return "".join(parts)


def _head(title: str, section: int, name: str) -> str:
    return (
        '.\\" Made by watchdogd from its own command line and schemas.\n'
        f'.TH {_escape(title)} {section} "" "watchdogd {__version__}" "watchdogd"\n'
        f".SH NAME\n{_escape(name)}\n"
    )


def _paragraphs(text: str) -> str:
    return ".PP\n".join(f"{_text(paragraph)}\n" for paragraph in text.split("\n\n"))


def _item(tag: str, text: str) -> str:
    said = _text(text) or "\\&"
    return f".TP\n{tag.rstrip()}\n{said}\n"


def _see_also(*pages: str) -> str:
    said = []
    for page in pages:
        name, bracket, section = page.partition("(")
        said.append(f"{_bold(name)}({section}" if bracket else _escape(page))
    return ".SH SEE ALSO\n" + ",\n".join(said) + "\n"


def _bold(text: str) -> str:
    return f"\\fB{_escape(text)}\\fR"


def _text(text: str) -> str:
    """Lines of at most 80 characters, as mandoc wants them."""
    return "\n".join(map(_escape, textwrap.wrap(text, 72, break_long_words=False, break_on_hyphens=False)))


def _escape(text: str) -> str:
    """As man(7) wants it: hyphens that can be copied, no request at a line's beginning."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped[:1] in {".", "'"} else escaped
