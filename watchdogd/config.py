"""Settings: their types and defaults, and how file, environment and flags become one of them.

`config.yaml` documents every key for people. Defaults < file < environment < flags. Secrets come from files.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta, field

from watchdogd import conversion, secret_files
from watchdogd.api_settings import ApiSettings, complain_socket_path, complete_api
from watchdogd.context_checks import warn_contexts
from watchdogd.entities import Level
from watchdogd.errors import ConfigError, Place, Problem, ProblemsError
from watchdogd.file_settings import FileIntegritySettings
from watchdogd.grouping_settings import GroupingSettings, InhibitSettings
from watchdogd.health_settings import HealthSettings
from watchdogd.marks import MarkedDocument, load_documents, read_text
from watchdogd.quantities import complain_keep, complain_max_size
from watchdogd.resources import find_packaged_rules
from watchdogd.routing_checks import warn_routes
from watchdogd.setting_types import FilePath, RuleId, Settings, Text, Timeout, Url
from watchdogd.webhook_settings import WebhookSettings, complete_webhooks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

DEFAULT_PATH = Path("/etc/watchdogd/config.yaml")
PACKAGED = "packaged"
"""In `rules.folders`: the rules that come with watchdogd."""

_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_ENVIRONMENT = {
    "OLLAMA_URL": "triage.ollama_url",
    "OLLAMA_MODEL": "triage.model",
    "AI_ENABLED": "triage.enabled",
}

ContextName = Annotated[
    str,
    Meta(
        max_length=64,
        pattern=r"^[a-z][a-z0-9_]*\Z",
        extra={"form": "small letters, digits and underscores, as rules write it after `Context:`"},
    ),
]
UnitName = Annotated[
    str,
    Meta(
        max_length=255,
        pattern=r"^[A-Za-z0-9:_.@\\-]+\.(service|socket|timer|scope|mount|target)\Z",
        extra={"form": "a unit's whole name, as `nginx.service`"},
    ),
]
ProgramPattern = Annotated[
    str,
    Meta(
        max_length=4096,
        pattern=r"^/(?!.*//)(?!(.*/)?\.\.?(/|\Z))[^\x00-\x1f]+\Z",
        extra={"form": "an absolute path of a program, without `..` and `//`; `*` and `?` are wildcards"},
    ),
]


class AuditLogSettings(Settings, frozen=True, kw_only=True):
    """The log that auditd writes."""

    enabled: bool = True
    path: FilePath = "/var/log/audit/audit.log"
    status_path: FilePath = "/run/watchdogd-audit/status"


class AuditNetlinkSettings(Settings, frozen=True, kw_only=True):
    """The kernel's audit socket, read beside the log."""

    enabled: bool = True


class HostMetricsSettings(Settings, frozen=True, kw_only=True):
    """The host's own figures, as events."""

    enabled: bool = True
    interval_s: Annotated[float, Meta(ge=1, le=3600)] = 10.0


class JournalSettings(Settings, frozen=True, kw_only=True):
    """Entries of the journal: logins, sudo, cron, the kernel, and units that are named."""

    enabled: bool = True
    units: tuple[UnitName, ...] = ()


class AuthLogSettings(Settings, frozen=True, kw_only=True):
    """A syslog file in place of the journal."""

    enabled: bool = False
    path: FilePath = "/var/log/auth.log"


class SourcesSettings(Settings, frozen=True, kw_only=True):
    """Where events come from."""

    audit_log: AuditLogSettings = field(default_factory=AuditLogSettings)
    audit_netlink: AuditNetlinkSettings = field(default_factory=AuditNetlinkSettings)
    journal: JournalSettings = field(default_factory=JournalSettings)
    auth_log: AuthLogSettings = field(default_factory=AuthLogSettings)
    host_metrics: HostMetricsSettings = field(default_factory=HostMetricsSettings)
    file_integrity: FileIntegritySettings = field(default_factory=FileIntegritySettings)


class RulesSettings(Settings, frozen=True, kw_only=True):
    """Folders of Sigma rules as written (`rule_folders` resolves them), and what is changed about their rules."""

    folders: tuple[Text, ...] = ()
    disabled: tuple[RuleId, ...] = ()
    levels: dict[RuleId, Level] = field(default_factory=dict)
    placeholders: FilePath | None = None
    places: Annotated[dict[str, Place], Meta(extra={"internal": True})] = field(default_factory=dict)
    """Where `disabled.ID` and `levels.ID` stand."""


def _default_deadlines() -> dict[Level, float]:
    slow = dict.fromkeys((Level.INFORMATIONAL, Level.LOW, Level.MEDIUM), 60.0)
    return {**slow, Level.HIGH: 5.0, Level.CRITICAL: 0.0}


UnloweredFloor = Annotated[
    str, Meta(pattern=r"^webhooks\Z", extra={"form": "webhooks: no verdict may lower high or critical"})
]


class FloorSettings(Settings, frozen=True, kw_only=True):
    """By the rule's level, whom an alert reaches whatever its verdict says; of high and critical there is no choice."""

    critical: UnloweredFloor = "webhooks"
    high: UnloweredFloor = "webhooks"
    medium: Literal["webhooks", "journald"] = "journald"
    low: Literal["webhooks", "journald"] = "journald"
    informational: Literal["webhooks", "journald"] = "journald"

    def allows_journald(self, level: Level) -> bool:
        """Whether a verdict may keep an alert of that level in the journal alone."""
        return level.rank <= Level.MEDIUM.rank and getattr(self, level.value) == "journald"


class TriageSettings(Settings, frozen=True, kw_only=True):
    """What the model is asked, how long it may take, and what its verdict may do."""

    enabled: bool = True
    ollama_url: Url = "http://127.0.0.1:11434"
    model: Annotated[str, Meta(min_length=1, max_length=200)] = "phi3:mini"
    num_ctx: Annotated[int, Meta(ge=512, le=1_048_576)] = 4096
    num_predict: Annotated[int, Meta(ge=16, le=65_536)] = 256
    temperature: Annotated[float, Meta(ge=0, le=2)] = 0.0
    seed: Annotated[int, Meta(ge=0, le=2_147_483_647)] = 42
    keep_alive: Annotated[
        str,
        Meta(
            pattern=r"^(0|-?(\d+(\.\d+)?(ms|s|m|h))+)\Z",
            extra={"form": "a duration like '30m', '1h30m', '0', or '-1m' (for ever)"},
        ),
    ] = "30m"
    timeout_s: Timeout = 60.0
    deadline_s: dict[Level, Annotated[float, Meta(ge=0, le=86_400)]] = field(default_factory=_default_deadlines)
    max_in_flight: Annotated[int, Meta(ge=1, le=64)] = 1
    raise_on_malicious: bool = False
    benign_to_journald: bool = False
    floor: FloorSettings = field(default_factory=FloorSettings)
    language: Literal["en", "es"] = "en"
    breaker_failures: Annotated[int, Meta(ge=1, le=1000)] = 5
    breaker_open_s: Timeout = 30.0
    budget_per_minute: Annotated[int, Meta(ge=1, le=60_000)] = 30
    questions_per_group: Annotated[int, Meta(ge=1, le=1000)] = 5
    group_s: Timeout = 300.0
    waiting_limit: Annotated[int, Meta(ge=1, le=10_000)] = 256
    cache_s: Annotated[float, Meta(ge=0, le=31 * 86_400)] = 86_400.0


class StoreSettings(Settings, frozen=True, kw_only=True):
    """The one database."""

    path: FilePath = "/var/lib/watchdogd/watchdogd.db"
    keep: Annotated[str, Meta(extra={"check": complain_keep})] = "90d"
    max_size: Annotated[str, Meta(extra={"check": complain_max_size})] = "1GiB"


class JournaldSettings(Settings, frozen=True, kw_only=True):
    """Alerts to the journal."""

    enabled: bool = True
    mask: bool = True


class ControlSettings(Settings, frozen=True, kw_only=True):
    """The socket that `watchdogd reload` and `watchdogd status` ask."""

    path: Annotated[str, Meta(min_length=1, extra={"path": True, "check": complain_socket_path})] = (
        "/run/watchdogd/control.sock"
    )


class LogSettings(Settings, frozen=True, kw_only=True):
    """What the daemon says of itself."""

    level: Literal["debug", "info", "warning", "error"] = "info"


class Config(Settings, frozen=True, kw_only=True):
    """Everything that can be set. `path` is the file it came from, None for the defaults."""

    sources: SourcesSettings = field(default_factory=SourcesSettings)
    rules: RulesSettings = field(default_factory=RulesSettings)
    triage: TriageSettings = field(default_factory=TriageSettings)
    store: StoreSettings = field(default_factory=StoreSettings)
    journald: JournaldSettings = field(default_factory=JournaldSettings)
    webhooks: tuple[WebhookSettings, ...] = ()
    grouping: GroupingSettings = field(default_factory=GroupingSettings)
    inhibit_rules: tuple[InhibitSettings, ...] = ()
    health: HealthSettings = field(default_factory=HealthSettings)
    contexts: dict[ContextName, tuple[ProgramPattern, ...]] = field(default_factory=dict)
    control: ControlSettings = field(default_factory=ControlSettings)
    api: ApiSettings = field(default_factory=ApiSettings)
    log: LogSettings = field(default_factory=LogSettings)
    late_after_s: Annotated[float, Meta(gt=0)] = 3600.0
    path: Annotated[str | None, Meta(extra={"internal": True})] = None
    warnings: Annotated[tuple[Problem, ...], Meta(extra={"internal": True})] = ()


def find_config(given: Path | None, default: Path = DEFAULT_PATH) -> Path | None:
    """Choose the file: the given one, else /etc/watchdogd/config.yaml where it exists, else None (the defaults)."""
    if given is not None:
        return given
    return default if default.exists() else None


def load_config(
    path: Path | None, *, environ: Mapping[str, str], overrides: Mapping[str, object] | None = None
) -> Config:
    """Read the settings: defaults < file < environment < `overrides` (flags by dotted name; None is "not given").

    Raises ConfigError with every mistake of all three; what is odd but usable is in `Config.warnings`.
    """
    config, problems = read_config(path, environ=environ, overrides=overrides)
    if any(problem.severity == "error" for problem in problems):
        raise ConfigError(tuple(problems))
    return config


def read_config(
    path: Path | None, *, environ: Mapping[str, str], overrides: Mapping[str, object] | None = None
) -> tuple[Config, list[Problem]]:
    """As `load_config`, but mistakes are returned beside what could be read; for `check`, not for use.

    Raises ConfigError only where the file cannot be read at all.
    """
    document, problems = _read_document(path)
    folder = path.absolute().parent if path is not None else None
    config, found = conversion.convert_document(Config, document, folder)
    problems += found
    origins: dict[str, Place] = {}
    for name, value, place in _read_layers(environ, overrides or {}, problems):
        converted, found = conversion.convert_value(Config, name, value, place)
        problems += found
        if not found:
            config, origins[name] = conversion.replace_value(config, name, converted), place

    def place_of(*keys: str | int) -> Place:
        return origins.get(conversion.name_of(keys)) or document.place_value(*keys)

    triage = config.triage
    if triage.num_predict >= triage.num_ctx:
        problems.append(
            Problem(
                place_of("triage", "num_predict"),
                f"triage.num_predict ({triage.num_predict}) must be less than triage.num_ctx ({triage.num_ctx})",
                hint="the context holds the question and the answer",
            )
        )
    problems += warn_contexts(config.contexts, place_of)
    search = secret_files.Search(folder, environ.get("CREDENTIALS_DIRECTORY"))
    webhooks = tuple(complete_webhooks(config.webhooks, place_of, search, problems))
    problems += warn_routes(webhooks, place_of, journald=config.journald.enabled, triage=config.triage.enabled)
    api = complete_api(config.api, place_of, search, problems)
    problems.sort(key=lambda problem: (problem.place.path, problem.place.line or 0, problem.place.column or 0))
    source = str(path.absolute()) if path is not None else None
    rules = msgspec.structs.replace(config.rules, places=_place_rules(config.rules, document))
    config = msgspec.structs.replace(
        config, rules=rules, webhooks=webhooks, api=api, warnings=tuple(problems), path=source
    )
    return config, problems


def rule_folders(config: Config, given: Sequence[Path], cwd: Path) -> tuple[Path, ...]:
    """Choose the rule folders, lowest layer first: those given, else the configuration's, else ./rules, else packaged.

    `given` is what `--rules` says. `./rules` counts only beside a `config.yaml` in the working directory. A
    configuration that names no folders has the packaged rules and, above them, its own `rules` where that is there.
    """
    if given:
        return tuple(given)
    folder = Path(config.path).parent if config.path is not None else cwd
    if config.rules.folders:
        named = (find_packaged_rules() if name == PACKAGED else folder / name for name in config.rules.folders)
        return _drop_repeated(named)
    if (cwd / "config.yaml").is_file() and (cwd / "rules").is_dir():
        return (cwd / "rules",)
    if config.path is not None and (folder / "rules").is_dir():
        return _drop_repeated((find_packaged_rules(), folder / "rules"))
    return (find_packaged_rules(),)


def describe(config: Config) -> dict[str, Any]:
    """Return every setting as plain data that may be shown and logged: no secret in it."""
    return conversion.describe(config)


def _drop_repeated(folders: Iterable[Path]) -> tuple[Path, ...]:
    """Each folder once, by whatever name: in a checkout the packaged rules and `rules` are one."""
    return tuple({folder.resolve(): folder for folder in folders}.values())


def _place_rules(rules: RulesSettings, document: MarkedDocument) -> dict[str, Place]:
    disabled = enumerate(rules.disabled)
    places = {f"disabled.{rule_id}": document.place_value("rules", "disabled", index) for index, rule_id in disabled}
    return places | {f"levels.{rule_id}": document.place("rules", "levels", rule_id) for rule_id in rules.levels}


def _read_document(path: Path | None) -> tuple[MarkedDocument, list[Problem]]:
    empty = MarkedDocument("defaults" if path is None else str(path), None, None)
    if path is None:
        return empty, []
    try:
        text = read_text(path)
    except ProblemsError as error:
        raise ConfigError(error.problems) from None
    documents, problems = load_documents(text, str(path))
    if len(documents) > 1:
        problems.append(Problem(documents[1].place(), "a second document: a configuration is one", hint="remove '---'"))
    return (documents[0] if documents else empty), problems


def _read_layers(
    environ: Mapping[str, str], overrides: Mapping[str, object], problems: list[Problem]
) -> Iterator[tuple[str, object, Place]]:
    for variable, name in _ENVIRONMENT.items():
        text = environ.get(variable)
        if text is None:
            continue
        place = Place(f"environment variable {variable}")
        if name != "triage.enabled":
            yield name, text, place
        elif text.lower() in _BOOLEANS:
            yield name, _BOOLEANS[text.lower()], place
        else:
            message = f"{name} must be true, false, 1, 0, yes or no, not {text[:40]!r}"
            problems.append(Problem(place, message))
    for name, value in overrides.items():
        if value is not None:
            yield name, value, Place("command line")
