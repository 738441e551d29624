"""What belongs to an installation beside the program: where each file goes, and what is in it."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from watchdogd.cli.placement import Placed
from watchdogd.collect import kernel_clock
from watchdogd.errors import WatchdogdError
from watchdogd.resources import SYSTEM_RULES, find_resource

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CONFIG_PATH: Final = Path("/etc/watchdogd/config.yaml")
RULES_PATH: Final = Path("/etc/watchdogd/rules")
"""The admin's layer, above the packaged rules."""
CREDENTIALS_PATH: Final = Path("/etc/watchdogd/credentials")
"""Secrets of webhooks, which the unit hands to the service (LoadCredential=); made by tmpfiles.d."""
PACKAGED_RULES_PATH: Final = SYSTEM_RULES
UNIT_PATH: Final = Path("/etc/systemd/system/watchdogd.service")
STATUS_SERVICE_PATH: Final = UNIT_PATH.with_name("watchdogd-audit-status.service")
STATUS_TIMER_PATH: Final = UNIT_PATH.with_name("watchdogd-audit-status.timer")
AUDITD_DROP_IN_PATH: Final = UNIT_PATH.with_name("auditd.service.d") / "watchdogd.conf"
CATALOG_PATH: Final = Path("/usr/lib/systemd/catalog/watchdogd.catalog")
SPANISH_CATALOG_PATH: Final = CATALOG_PATH.with_name("watchdogd.es.catalog")
SYSUSERS_PATH: Final = Path("/usr/lib/sysusers.d/watchdogd.conf")
TMPFILES_PATH: Final = Path("/usr/lib/tmpfiles.d/watchdogd.conf")
AUDIT_RULES_PATH: Final = Path("/etc/audit/rules.d/50-watchdogd.rules")
KERNEL_CLOCK_PATH: Final = Path("/usr/share/watchdogd/kernel_clock.py")
"""Run by the unit that writes down what our sandbox bars, with the host's Python."""
MANUAL_PATH: Final = Path("/usr/local/share/man")
DISTRIBUTION_MARK: Final = Path("/usr/share/watchdogd/packaged")
"""There where a distribution's package put everything in place."""

_RULES_README: Final = f"""\
Your own Sigma rules: every .yml and .yaml file here and in folders below, except in folders named `tests`.
What you save takes effect within a second or so; `watchdogd reload` waits for it and prints every mistake.
While anything is broken, the rules from before stay in force (`watchdogd status`).

The rules that come with watchdogd are in {PACKAGED_RULES_PATH}; an update writes them anew, so leave them alone:
- another version of one: copy it here and keep its id, and yours takes its place;
- switch one off, or give it another level: `rules.disabled` and `rules.levels` in {CONFIG_PATH};
- an exception for this host: a Sigma filter here.
"""

_PLAIN_WORD: Final = re.compile(r"[A-Za-z0-9_@+./-]+")
"""What needs no quoting in a unit's ExecStart."""


class Layout(msgspec.Struct, frozen=True):
    """Where units, manual and completions go; a distribution's packages have them elsewhere than an admin."""

    units: Path
    manual: Path
    bash: Path
    zsh: Path
    gzip: bool = True


_PACKAGED: Final = Layout(
    units=Path("/usr/lib/systemd/system"),
    manual=Path("/usr/share/man"),
    bash=Path("/usr/share/bash-completion/completions"),
    zsh=Path("/usr/share/zsh/site-functions"),
)
LAYOUTS: Final = {
    "local": Layout(
        units=UNIT_PATH.parent,
        manual=MANUAL_PATH,
        bash=Path("/usr/local/share/bash-completion/completions"),
        zsh=Path("/usr/local/share/zsh/site-functions"),
        gzip=False,
    ),
    "debian": msgspec.structs.replace(_PACKAGED, zsh=Path("/usr/share/zsh/vendor-completions")),
    "arch": msgspec.structs.replace(_PACKAGED, gzip=False),  # makepkg does it
}


def list_files(program: Sequence[str], *, audit_rules: bool, layout: str = "local") -> list[Placed]:
    """Everything that is installed. `program` is the command that starts watchdogd, `layout` one of LAYOUTS."""
    places = LAYOUTS[layout]
    units = find_resource("systemd")
    folder = places.units
    unit = (units / "watchdogd.service").read_text()
    command = " ".join(_unit_word(word) for word in program)
    unit = unit.replace("@PROGRAM@", command).replace("@CONFIG@", str(CONFIG_PATH))
    files = [
        Placed(folder / UNIT_PATH.name, unit.encode()),
        Placed(folder / STATUS_SERVICE_PATH.name, (units / STATUS_SERVICE_PATH.name).read_bytes()),
        Placed(folder / STATUS_TIMER_PATH.name, (units / STATUS_TIMER_PATH.name).read_bytes()),
        Placed(CATALOG_PATH, (units / CATALOG_PATH.name).read_bytes()),
        Placed(SPANISH_CATALOG_PATH, (units / SPANISH_CATALOG_PATH.name).read_bytes()),
        Placed(SYSUSERS_PATH, (units / "watchdogd.sysusers").read_bytes()),
        Placed(TMPFILES_PATH, (units / "watchdogd.tmpfiles").read_bytes()),
        Placed(CONFIG_PATH, find_resource("config.yaml").read_bytes(), editable=True),
    ]
    files.append(Placed(KERNEL_CLOCK_PATH, Path(kernel_clock.__file__).read_bytes()))
    files.extend(_list_rules())
    files.extend(_list_manual(places))
    files.append(Placed(RULES_PATH / "README", _RULES_README.encode(), editable=True))
    if audit_rules:
        drop_in = folder / AUDITD_DROP_IN_PATH.relative_to(UNIT_PATH.parent)
        files.append(Placed(drop_in, (units / "auditd.conf").read_bytes()))
        files.append(Placed(AUDIT_RULES_PATH, (units / "audit.rules").read_bytes(), editable=True, mode=0o640))
    return files


def _list_manual(places: Layout) -> Iterator[Placed]:
    """Manual pages and completions, made of what the program takes and accepts now."""
    from watchdogd.cli.completion import write_bash, write_zsh  # noqa: PLC0415 - it imports every command
    from watchdogd.cli.grammar import read_grammar  # noqa: PLC0415 - as above
    from watchdogd.cli.manual import write_pages  # noqa: PLC0415 - as above

    grammar = read_grammar()
    for name, page in write_pages(grammar).items():
        path = places.manual / f"man{name[-1]}" / name
        if places.gzip:
            yield Placed(path.with_name(f"{name}.gz"), gzip.compress(page.encode(), mtime=0))
        else:
            yield Placed(path, page.encode())
    yield Placed(places.bash / "watchdogd", write_bash(grammar).encode())
    yield Placed(places.zsh / "_watchdogd", write_zsh(grammar).encode())


def _list_rules() -> Iterator[Placed]:
    folder = find_resource("rules")
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.suffix in {".yml", ".yaml"} and "tests" not in relative.parts:
            yield Placed(PACKAGED_RULES_PATH / relative, path.read_bytes())


def _unit_word(word: str) -> str:
    if not _PLAIN_WORD.fullmatch(word):
        raise WatchdogdError(f"{word!a} cannot stand in a unit file: install watchdogd below a plainly named folder")
    return word
