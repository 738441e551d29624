from __future__ import annotations

import os
import re
from pathlib import Path

import certifi
import msgspec
import pytest
import yaml

from watchdogd.config import (
    AuditLogSettings,
    Config,
    RulesSettings,
    TriageSettings,
    describe,
    find_config,
    load_config,
    read_config,
    rule_folders,
)
from watchdogd.conversion import list_settings
from watchdogd.entities import Level
from watchdogd.errors import ConfigError, Place
from watchdogd.marks import caret_lines
from watchdogd.resources import find_packaged_rules, find_resource
from watchdogd.webhook_settings import WebhookSettings

FIXTURES = Path(__file__).parent / "config"
SHIPPED = Path(__file__).parents[1] / "config.yaml"


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text)
    return path


def secret_file(folder: Path, name: str, text: str, mode: int = 0o600) -> Path:
    path = folder / name
    path.write_text(text)
    path.chmod(mode)
    return path


def problems_of(path: Path, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(path, environ=environ)
    return [str(problem).removeprefix(f"{path.parent}/") for problem in caught.value.problems]


# Every kind of mistake: a file, and beside it what must be said about it.


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_kind_of_mistake_is_named_with_its_place(
    path: Path, *, update_golden: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(FIXTURES)
    try:
        _, problems = read_config(Path(path.name), environ={})
    except ConfigError as error:
        problems = list(error.problems)
    text = path.read_text(errors="replace")
    said = "".join(f"{problem}\n{caret_lines(problem, text)}\n" for problem in problems).replace(f"{FIXTURES}/", "")
    golden = path.with_suffix(".txt")
    if update_golden:
        golden.write_text(said)
    assert said == golden.read_text()


def test_the_fixtures_cover_at_least_25_kinds() -> None:
    golden = [path.read_text() for path in FIXTURES.glob("*.txt")]
    assert sum(": error: " in text for text in golden) >= 25


def test_each_mistake_names_line_and_column() -> None:
    said = (FIXTURES / "many_at_once.txt").read_text()
    places = re.findall(r"^many_at_once\.yaml:(\d+):(\d+): error:", said, re.MULTILINE)
    assert [line for line, _ in places] == ["3", "4", "6", "8", "9", "12", "13", "16", "16", "17"]


# The shipped file.


def uncomment(text: str) -> str:
    """Commented-out settings become settings: there the `#` is the first character and no prose follows."""
    return re.sub(r"^#(?! \S|$)", "", text, flags=re.MULTILINE)


def names_in(data: object, prefix: str = "") -> set[str]:
    if isinstance(data, list):
        return set().union(*(names_in(item, f"{prefix[:-1]}[].") for item in data)) if data else set()
    if not isinstance(data, dict) or prefix in ("triage.deadline_s.", "webhooks[].headers."):
        return set()
    return {f"{prefix}{key}" for key in data}.union(
        *(names_in(value, f"{prefix}{key}.") for key, value in data.items())
    )


def test_the_shipped_file_states_the_defaults() -> None:
    shipped = load_config(SHIPPED, environ={})
    assert shipped.rules.folders == ("packaged", "rules")
    assert (shipped.rules.disabled, shipped.rules.levels, shipped.rules.placeholders) == ((), {}, None)
    assert msgspec.structs.replace(shipped, rules=RulesSettings(), path=None) == Config()
    assert shipped.warnings == ()


def test_the_shipped_file_writes_every_default_out() -> None:
    live = yaml.safe_load(SHIPPED.read_text())
    default = describe(Config())
    live["api"]["tokens"] = live["api"]["tokens"] or []  # an example stands there
    for section in default.keys() - {"rules", "webhooks", "inhibit_rules"}:
        assert live[section] == default[section]


def test_the_shipped_file_mentions_every_key_and_no_other() -> None:
    data = yaml.safe_load(uncomment(SHIPPED.read_text()))
    assert names_in(data) == set(list_settings(Config))


def test_the_shipped_webhook_states_the_defaults() -> None:
    (example,) = yaml.safe_load(uncomment(SHIPPED.read_text()))["webhooks"]
    default = msgspec.to_builtins(WebhookSettings(name="ops"))
    for key in ("timeout_s", "connect_timeout_s", "max_in_flight", "min_level", "give_up_s"):
        assert example[key] == default[key]


def test_the_shipped_webhook_can_be_used_as_it_stands(tmp_path: Path) -> None:
    named = "url_file|ca_file|client_certificate|client_key|proxy|proxy_file|template_file"
    text = re.sub(rf".*({named}):.*\n", "", uncomment(SHIPPED.read_text()))
    secret_file(tmp_path, "ops.secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n")
    secret_file(tmp_path, "ops.headers", "Authorization: Bearer t0ken\n")
    secret_file(tmp_path, "grafana.token", "0123456789abcdef\n")
    config = load_config(write(tmp_path, text), environ={})
    (webhook,) = config.webhooks
    assert (webhook.name, webhook.url) == ("ops", "https://alerts.example.org/watchdogd")
    assert webhook.secret == "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    assert webhook.headers == {"X-Host-Group": "web", "Authorization": "Bearer t0ken"}
    assert config.warnings == ()


# Layers: defaults < file < environment < flags.


def test_no_file_and_an_empty_file_are_the_defaults(tmp_path: Path) -> None:
    assert load_config(None, environ={}) == Config()
    empty = load_config(write(tmp_path, "# nothing\n"), environ={})
    assert msgspec.structs.replace(empty, path=None) == Config()


def test_the_defaults_are_those_that_are_promised() -> None:
    config = Config()
    assert config.sources.audit_log == AuditLogSettings(enabled=True, path="/var/log/audit/audit.log")
    assert config.triage.model == "phi3:mini"
    assert config.triage.temperature == 0
    assert config.triage.deadline_s == {
        Level.CRITICAL: 0,
        Level.HIGH: 5,
        Level.MEDIUM: 60,
        Level.LOW: 60,
        Level.INFORMATIONAL: 60,
    }
    assert not config.triage.benign_to_journald
    assert not config.triage.raise_on_malicious


def test_file_environment_and_flags_override_in_this_order(tmp_path: Path) -> None:
    path = write(tmp_path, "triage: {model: from-file, ollama_url: http://file:1, seed: 7}\n")
    environ = {"OLLAMA_MODEL": "from-env", "OLLAMA_URL": "http://env:2", "AI_ENABLED": "no"}
    overrides: dict[str, object] = {"triage.model": "from-flag", "log.level": None}
    triage = load_config(path, environ=environ, overrides=overrides).triage
    assert (triage.model, triage.ollama_url, triage.seed, triage.enabled) == ("from-flag", "http://env:2", 7, False)


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("YES", True), ("1", True), ("False", False), ("0", False)]
)
def test_ai_enabled_takes_six_words_in_any_case(text: str, *, value: bool) -> None:
    assert load_config(None, environ={"AI_ENABLED": text}).triage.enabled is value


@pytest.mark.parametrize("text", ["", "on", "off", "2", "ja", " true", "\x1b[31m"])
def test_any_other_word_in_ai_enabled_is_an_error_that_names_it(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^environment variable AI_ENABLED: error: triage\.enabled must be true, "):
        load_config(None, environ={"AI_ENABLED": text})


def test_mistakes_of_all_layers_are_reported_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, "log: {level: loud}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path, environ={"OLLAMA_URL": "x", "OLLAMA_MODEL": ""}, overrides={"store.path": ""})
    assert [problem.place.path for problem in caught.value.problems] == [
        str(path),
        "command line",
        "environment variable OLLAMA_MODEL",
        "environment variable OLLAMA_URL",
    ]


def test_an_overridden_mistake_in_the_file_is_still_a_mistake(tmp_path: Path) -> None:
    path = write(tmp_path, "triage: {model: 3}\n")
    assert problems_of(path, OLLAMA_MODEL="fine") == [
        "config.yaml:1:17: error: triage.model must be text, not 3 (put it in quotes)"
    ]


def test_a_contradiction_names_the_layer_that_made_it(tmp_path: Path) -> None:
    path = write(tmp_path, "triage: {num_ctx: 1024}\n")
    with pytest.raises(ConfigError, match=r"^command line: error: triage\.num_predict \(2048\) must be less"):
        load_config(path, environ={}, overrides={"triage.num_predict": 2048})


def test_a_flag_that_names_no_setting_is_our_own_mistake() -> None:
    with pytest.raises(KeyError):
        load_config(None, environ={}, overrides={"triage.nope": 1})


def test_deadlines_add_to_their_defaults(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "triage: {deadline_s: {high: 2}}\n"), environ={})
    assert config.triage.deadline_s[Level.HIGH] == 2
    assert config.triage.deadline_s[Level.MEDIUM] == 60


def test_relative_paths_count_from_the_files_folder(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "store: {path: state/w.db}\n"), environ={})
    assert config.store.path == str(tmp_path / "state/w.db")


# Files that cannot be read.


def test_a_missing_file_a_folder_and_an_unreadable_file_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nope\.yaml: error: does not exist"):
        load_config(tmp_path / "nope.yaml", environ={})
    with pytest.raises(ConfigError, match="is a directory, not a file"):
        load_config(tmp_path, environ={})
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ConfigError, match="cannot be read: Too many levels of symbolic links"):
        load_config(tmp_path / "loop", environ={})


def test_config_is_found_where_it_is_promised(tmp_path: Path) -> None:
    default = tmp_path / "etc.yaml"
    assert find_config(None, default) is None
    default.touch()
    assert find_config(None, default) == default
    assert find_config(Path("given"), default) == Path("given")


def test_rule_folders_follow_the_contract(tmp_path: Path) -> None:
    path = write(tmp_path, "rules: {folders: [mine, /abs]}\n")
    configured = load_config(path, environ={})
    elsewhere = tmp_path / "cwd"
    elsewhere.mkdir()
    assert rule_folders(configured, [Path("given")], elsewhere) == (Path("given"),)
    assert rule_folders(configured, [], elsewhere) == (tmp_path / "mine", Path("/abs"))
    assert rule_folders(Config(), [], elsewhere) == (find_resource("rules"),)
    (elsewhere / "rules").mkdir()
    assert rule_folders(Config(), [], elsewhere) == (find_resource("rules"),)
    (elsewhere / "config.yaml").touch()
    assert rule_folders(Config(), [], elsewhere) == (elsewhere / "rules",)


def test_packaged_rules_are_a_layer_by_name(tmp_path: Path) -> None:
    packaged = find_resource("rules")
    (tmp_path / "rules").mkdir()
    named = load_config(write(tmp_path, "rules: {folders: [packaged, rules]}\n"), environ={})
    assert rule_folders(named, [], Path("/")) == (packaged, tmp_path / "rules")
    silent = load_config(write(tmp_path, "late_after_s: 1\n"), environ={})
    assert rule_folders(silent, [], Path("/")) == (packaged, tmp_path / "rules")
    (tmp_path / "rules").rmdir()
    assert rule_folders(silent, [], Path("/")) == (packaged,)
    (tmp_path / "rules").symlink_to(packaged)
    assert [folder.resolve() for folder in rule_folders(named, [], Path("/"))] == [packaged]


def test_packaged_rules_are_the_systems_where_it_has_them_but_never_in_a_checkout(tmp_path: Path) -> None:
    system, installed = tmp_path / "share", tmp_path / "installed"
    (installed / "data").mkdir(parents=True)
    assert find_packaged_rules(system, installed) == find_resource("rules")
    system.mkdir()
    assert find_packaged_rules(system, installed) == system
    assert find_packaged_rules(system) == find_resource("rules")


def test_what_is_changed_of_rules_is_known_with_its_place(tmp_path: Path) -> None:
    one, other = "9f1c3c3e-5f0e-4e43-b0a2-5e2f4a9d7c11", "11111111-1111-4111-8111-11111111111A"
    text = f"rules:\n  disabled:\n    - {one}\n  levels:\n    {other}: low\n  placeholders: lists.yaml\n"
    rules = load_config(path := write(tmp_path, text), environ={}).rules
    assert rules.disabled == (one,)
    assert rules.levels == {other: Level.LOW}
    assert rules.placeholders == str(tmp_path / "lists.yaml")
    assert rules.places == {f"disabled.{one}": Place(str(path), 3, 7), f"levels.{other}": Place(str(path), 5, 5)}


# Secrets.

WEBHOOK = "webhooks:\n  - name: ops\n    url_file: hook.url\n    secret_file: hook.secret\n"
URL, SECRET = "https://user:pa55@hooks.example.org:8443/services/T0KEN?key=K3Y", "s1gn1ng"


def test_secrets_come_from_files_and_are_shown_nowhere(tmp_path: Path) -> None:
    secret_file(tmp_path, "hook.url", URL + "\n")
    secret_file(tmp_path, "hook.secret", SECRET + "\n")
    text = WEBHOOK + "    headers: {X-Team: c0lour}\ntriage: {ollama_url: 'http://u:pa55@gpu:1/K3Y'}\n"
    config = load_config(write(tmp_path, text), environ={})
    assert (config.webhooks[0].url, config.webhooks[0].secret) == (URL, SECRET)
    shown = [str(config), repr(config), f"{config.webhooks}", str(describe(config)), str(config.triage)]
    for text in shown:
        assert not re.search("pa55|T0KEN|K3Y|s1gn|c0lour", text)
    assert describe(config)["webhooks"][0]["url"] == "https://***@hooks.example.org:8443/..."
    assert describe(config)["webhooks"][0]["secret"] == "***"
    assert describe(config)["triage"]["ollama_url"] == "http://***@gpu:1/..."


def test_systemds_credentials_come_before_the_files_folder(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    secret_file(tmp_path, "hook.url", URL)
    secret_file(tmp_path, "hook.secret", "of the folder")
    secret_file(credentials, "hook.secret", "of systemd", mode=0o400)
    path = write(tmp_path, WEBHOOK)
    config = load_config(path, environ={"CREDENTIALS_DIRECTORY": str(credentials)})
    assert (config.webhooks[0].url, config.webhooks[0].secret) == (URL, "of systemd")


def test_a_credential_of_a_folder_is_found_by_its_path_in_both_places(tmp_path: Path) -> None:
    credentials = tmp_path / "run"  # as LoadCredential=credentials:/etc/watchdogd/credentials fills it
    credentials.mkdir()
    secret_file(credentials, "credentials_hook.url", URL, mode=0o400)
    path = write(tmp_path, "webhooks: [{name: ops, url_file: credentials/hook.url}]\n")
    assert load_config(path, environ={"CREDENTIALS_DIRECTORY": str(credentials)}).webhooks[0].url == URL
    (tmp_path / "credentials").mkdir()
    secret_file(tmp_path / "credentials", "hook.url", f"{URL}&of=folder")
    assert load_config(path, environ={"CREDENTIALS_DIRECTORY": str(credentials)}).webhooks[0].url == URL
    assert load_config(path, environ={}).webhooks[0].url == f"{URL}&of=folder"


def test_a_secret_that_every_user_can_read_is_a_warning(tmp_path: Path) -> None:
    secret_file(tmp_path, "hook.url", URL)
    secret_file(tmp_path, "hook.secret", SECRET, mode=0o644)
    path = write(tmp_path, WEBHOOK)
    (warning,) = load_config(path, environ={}).warnings
    secret = tmp_path / "hook.secret"
    assert str(warning) == (
        f"{path}:4:18: warning: {secret} holds a secret, and every user can read it (chmod o-r {secret})"
    )


@pytest.mark.parametrize(
    ("secret", "complaint"),
    [
        ("", "is empty"),
        (" \n\n", "is empty"),
        ("one\ntwo", "must hold one line of text"),
        ("a\x1bb", "must hold one line of text"),
        ("whsec_!!!", "begins with whsec_ and is not base64 behind it"),
        ("whsec_", "begins with whsec_ and is not base64 behind it"),
    ],
)
def test_an_unusable_secret_is_an_error_that_does_not_quote_it(tmp_path: Path, secret: str, complaint: str) -> None:
    secret_file(tmp_path, "hook.url", URL)
    secret_file(tmp_path, "hook.secret", secret)
    path = write(tmp_path, WEBHOOK)
    assert problems_of(path) == [f"config.yaml:4:18: error: {tmp_path / 'hook.secret'} {complaint}"]


def test_a_bad_url_in_a_file_is_not_quoted(tmp_path: Path) -> None:
    secret_file(tmp_path, "hook.url", "hooks.example.org/T0KEN")
    secret_file(tmp_path, "hook.secret", SECRET)
    (problem,) = problems_of(write(tmp_path, WEBHOOK))
    assert problem == "config.yaml:3:15: error: the URL in hook.url must begin with http:// or https://"


def test_a_bad_line_of_a_headers_file_is_named(tmp_path: Path) -> None:
    secret_file(tmp_path, "h", "# headers\n\nX-Fine: yes\nno colon\nBad Name: x\nX-Umlaut: ü\n")
    path = write(tmp_path, "webhooks: [{name: ops, url: https://example.org, headers_file: h}]\n")
    assert problems_of(path) == [
        "h:4:1: error: no header (write 'Name: value')",
        "h:5:1: error: not a header's name: letters, digits and hyphens",
        "h:6:1: error: the header 'X-Umlaut' must be printable ASCII on one line",
    ]


def test_a_ca_file_is_found_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(Path(certifi.where()).read_text(encoding="utf-8"))
    path = write(tmp_path, "webhooks: [{name: ops, url: https://example.org, ca_file: ca.pem}]\n")
    assert load_config(path, environ={}).webhooks[0].ca_file == str(tmp_path / "ca.pem")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_secret_is_an_error(tmp_path: Path) -> None:
    secret_file(tmp_path, "hook.url", URL)
    secret_file(tmp_path, "hook.secret", SECRET, mode=0)
    (problem,) = problems_of(write(tmp_path, WEBHOOK))
    assert "hook.secret cannot be read: Permission denied" in problem


def test_settings_made_in_code_need_no_file() -> None:
    assert TriageSettings(model="x").num_ctx == 4096
    assert WebhookSettings(name="x", url="http://127.0.0.1/", secret="s").min_level is Level.LOW
