"""Where the shipped rules, schemas, unit files and default configuration are: in the wheel, or in the checkout."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
SYSTEM_RULES = Path("/usr/share/watchdogd/rules")
_CHECKOUT = {
    "rules": "rules",
    "systemd": "systemd",
    "schemas": "docs/schemas",
    "config.yaml": "config.yaml",
}


def find_resource(name: str) -> Path:
    """Path of a shipped resource: `rules`, `systemd`, `schemas` or `config.yaml`.

    Raises FileNotFoundError where the installation is incomplete, KeyError for any other name.
    """
    relative = _CHECKOUT[name]
    for candidate in (_PACKAGE / "data" / name, _PACKAGE.parent / relative):
        if candidate.exists():
            return candidate
    raise FileNotFoundError(f"watchdogd is installed without its {name}: install it again")


def find_packaged_rules(system: Path = SYSTEM_RULES, package: Path = _PACKAGE) -> Path:
    """Folder of the rules that come with watchdogd.

    It is /usr/share/watchdogd/rules, where `watchdogd install` or a distribution put them, else the one inside this
    installation. A checkout always has its own.
    """
    if (package / "data").is_dir() and system.is_dir():
        return system
    return find_resource("rules")
