"""What kind of work a process is part of: a package manager's, a backup's, a web server's...

Told by the programs above it in the process tree, by the path that the kernel resolved (SYSCALL's exe), never by a name
that a process gives itself. A script counts by its own path where an interpreter in a system folder runs it. Where the
host's packages are known, a program that none of them holds stands for nothing, unless the administrator named it.

A context lowers nothing by itself: rules say `not below these`. Somebody who already is root can put himself below any
of them; that is what the rules about those programs' own misuse are for.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from posixpath import basename, isabs, join, normpath
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from watchdogd.entities import Process

CONTEXTS: Final[Mapping[str, tuple[str, ...]]] = {
    "package_manager": (
        "/usr/bin/apt",
        "/usr/bin/apt-get",
        "/usr/bin/aptitude",
        "/usr/bin/dpkg",
        "/usr/bin/dpkg-deb",
        "/usr/bin/dpkg-reconfigure",
        "/usr/bin/unattended-upgrade*",
        "/usr/lib/apt/*",
        "/usr/lib/update-notifier/*",
        "/usr/lib/snapd/snapd",
        "/usr/lib/packagekitd",
        "/usr/libexec/packagekitd",
        "/usr/bin/dnf*",
        "/usr/bin/microdnf",
        "/usr/bin/yum",
        "/usr/bin/rpm",
        "/usr/bin/rpmdb",
        "/usr/libexec/dnf-*",
        "/usr/bin/zypper",
        "/usr/bin/pacman",
        "/usr/bin/apk",
        "/sbin/apk",
        "/usr/bin/flatpak",
    ),
    "configuration_management": (
        "/usr/bin/ansible*",
        "/opt/puppetlabs/*",
        "/usr/bin/puppet",
        "/usr/bin/chef-client",
        "/opt/chef/*",
        "/opt/cinc/*",
        "/usr/bin/salt-minion",
        "/usr/bin/salt-call",
        "/opt/saltstack/*",
        "/usr/sbin/cf-agent",
        "/var/cfengine/bin/*",
        "/usr/bin/cloud-init",
    ),
    "scheduled_job": (
        "/usr/sbin/cron",
        "/usr/sbin/crond",
        "/usr/sbin/anacron",
        "/usr/sbin/atd",
        "/usr/sbin/fcron",
        "/usr/bin/run-parts",
    ),
    "backup": (
        "/usr/bin/borg*",
        "/usr/bin/restic",
        "/usr/bin/rsnapshot",
        "/usr/bin/duplicity",
        "/usr/bin/backup*",
        "/usr/sbin/bacula-*",
        "/usr/sbin/bareos-*",
        "/usr/bin/rdiff-backup",
        "/usr/lib/amanda/*",
        "/usr/bin/pg_basebackup",
        "/usr/bin/pgbackrest",
    ),
    "ci": (
        "/usr/bin/gitlab-runner",
        "/usr/bin/buildkite-agent",
        "/usr/bin/woodpecker-agent",
        "/usr/bin/drone-runner-*",
        "/usr/share/jenkins/*",
        "/usr/share/java/jenkins*",
        "/opt/actions-runner/*",
        "/opt/teamcity*",
    ),
    "monitoring": (
        "/usr/sbin/nrpe",
        "/usr/sbin/nagios*",
        "/usr/lib/nagios/*",
        "/usr/lib64/nagios/*",
        "/usr/sbin/icinga2",
        "/usr/lib/*/icinga2/*",
        "/usr/sbin/zabbix_agent*",
        "/usr/bin/check_mk_agent",
        "/usr/bin/telegraf",
        "/usr/sbin/collectd",
        "/usr/bin/prometheus-node-exporter",
        "/usr/sbin/munin-node",
        "/usr/sbin/netdata",
    ),
    "security_audit": (
        "/usr/sbin/lynis",
        "/usr/bin/rkhunter",
        "/usr/sbin/chkrootkit",
        "/usr/sbin/tiger",
        "/usr/bin/oscap",
        "/usr/bin/aide*",
        "/usr/sbin/aide",
        "/usr/bin/debsums",
        "/usr/bin/debsecan",
        "/opt/nessus*",
        "/opt/tenable/*",
    ),
    "container_runtime": (
        "/usr/bin/dockerd",
        "/usr/sbin/dockerd",
        "/usr/bin/docker-init",
        "/usr/bin/containerd*",
        "/usr/bin/runc",
        "/usr/sbin/runc",
        "/usr/bin/crun",
        "/usr/bin/podman",
        "/usr/bin/conmon",
        "/usr/bin/buildah",
        "/usr/bin/crio",
        "/usr/bin/kubelet",
        "/usr/bin/lxc-start",
        "/usr/bin/systemd-nspawn",
    ),
    "web_server": (
        "/usr/sbin/apache2",
        "/usr/sbin/httpd",
        "/usr/sbin/nginx",
        "/usr/sbin/lighttpd",
        "/usr/bin/caddy",
        "/usr/sbin/php-fpm*",
        "/usr/bin/php-cgi*",
        "/usr/bin/uwsgi*",
        "/usr/bin/gunicorn*",
        "/usr/lib/cgi-bin/*",
    ),
    "database_server": (
        "/usr/sbin/mysqld",
        "/usr/sbin/mariadbd",
        "/usr/lib/postgresql/*",
        "/usr/bin/postgres",
        "/usr/pgsql-*/bin/postgres",
        "/usr/bin/redis-server",
        "/usr/bin/mongod",
    ),
    "mail_server": (
        "/usr/sbin/exim*",
        "/usr/lib/postfix/*",
        "/usr/libexec/postfix/*",
        "/usr/sbin/sendmail",
        "/usr/lib/dovecot/*",
        "/usr/libexec/dovecot/*",
    ),
    "remote_login": ("/usr/sbin/sshd", "/usr/lib/openssh/sshd-session", "/usr/libexec/openssh/sshd-session"),
    "local_login": (
        "/usr/bin/login",
        "/bin/login",
        "/usr/sbin/gdm*",
        "/usr/libexec/gdm-*",
        "/usr/sbin/lightdm",
        "/usr/bin/sddm",
    ),
}
"""Context to patterns of programs (fnmatch over absolute paths). `contexts:` in the configuration adds to it."""

_INTERPRETERS: Final = ("python*", "perl*", "ruby*", "php*", "node", "nodejs", "sh", "bash", "dash", "java")
_SYSTEM_FOLDERS: Final = ("/usr/", "/bin/", "/sbin/", "/lib", "/opt/", "/var/cfengine/")
_CACHED: Final = 4_096
_WITH_SCRIPT: Final = 2
"""Arguments that a process has at least which runs a script."""


class _Program(NamedTuple):
    """What the path of a program says."""

    contexts: tuple[str, ...]
    interprets: bool
    """What it does is said by the script that it runs."""
    packaged: bool | None
    """Whether an installed package holds it, None where nobody knows."""


class Contexts:
    """Names the contexts of a process. `is_packaged` says whether a package holds a file, None where nobody knows."""

    def __init__(
        self,
        added: Mapping[str, Sequence[str]] | None = None,
        is_packaged: Callable[[str], bool | None] = lambda _: None,
    ) -> None:
        self._added = {name: tuple(patterns) for name, patterns in (added or {}).items()}
        self._is_packaged = is_packaged
        self._known: dict[str, _Program] = {}

    def replace_added(self, added: Mapping[str, Sequence[str]]) -> None:
        """From now on the administrator's own contexts are these."""
        self._added = {name: tuple(patterns) for name, patterns in added.items()}
        self.forget()

    def forget(self) -> None:
        """Packages have changed: what was found by them is asked anew. Any thread may call it."""
        self._known = {}

    def is_packaged(self, path: str) -> bool | None:
        """Whether an installed package holds the program, None where nobody knows."""
        return (self._known.get(path) or self._look_up(path)).packaged

    def describe(self, process: Process, lineage: Sequence[Process]) -> tuple[str, ...]:
        """Contexts of the process and of all that stands above it, each once, the nearest first."""
        found = self._describe_one(process)
        for ancestor in lineage:
            further = self._describe_one(ancestor)
            if further and further != found:
                found = tuple(dict.fromkeys((*found, *further)))
        return found

    def _describe_one(self, process: Process) -> tuple[str, ...]:
        exe = process.exe
        if not exe:
            return ()
        program = self._known.get(exe) or self._look_up(exe)
        if not program.interprets or len(process.argv) < _WITH_SCRIPT:
            return program.contexts
        script = _find_script(process)
        if script is None:
            return program.contexts
        further = (self._known.get(script) or self._look_up(script)).contexts
        return tuple(dict.fromkeys((*program.contexts, *further))) if further else program.contexts

    def _look_up(self, path: str) -> _Program:
        known = self._known  # which another thread may put aside while this one asks
        if len(known) >= _CACHED:
            known.clear()
        interprets = path.startswith(_SYSTEM_FOLDERS) and _fits(basename(path), _INTERPRETERS)
        packaged = self._is_packaged(path)
        program = known[path] = _Program(self._find(path, packaged=packaged), interprets, packaged)
        return program

    def _find(self, path: str, *, packaged: bool | None) -> tuple[str, ...]:
        named = [name for name, patterns in self._added.items() if _fits(path, patterns)]
        shipped = [name for name, patterns in CONTEXTS.items() if _fits(path, patterns)]
        if packaged is False:
            shipped = []
        return tuple(dict.fromkeys((*named, *shipped)))


def _find_script(process: Process) -> str | None:
    """The script that an interpreter runs, where it lies in a folder of the system.

    Only the first argument can be it: behind an option, the interpreter may do anything else with it.
    """
    script = process.argv[1]
    if script.startswith("-"):
        return None
    if not isabs(script):
        if process.cwd is None or "/" not in script:
            return None
        script = join(process.cwd, script)
    script = normpath(script)
    return script if script.startswith(_SYSTEM_FOLDERS) else None


def _fits(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)
