"""Which files are watched for changes: the settings of file integrity, with their defaults."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

from watchdogd.setting_types import Settings

_FORM: Final = (
    "an absolute path, or one that begins with `~/`, without `..` and `//`; `*`, `?` and `[...]` are wildcards"
)

PathPattern = Annotated[
    str,
    Meta(max_length=4096, pattern=r"^~?/(?!.*//)(?!(.*/)?\.\.?(/|\Z))[^\x00]+\Z", extra={"form": _FORM}),
]
LeftOut = Annotated[
    str,
    Meta(
        max_length=4096,
        pattern=r"^(~?/(?!.*//)(?!(.*/)?\.\.?(/|\Z))[^\x00]+|[^/\x00]+)\Z",
        extra={"form": f"{_FORM}; or a name without a slash, which is left out wherever it is"},
    ),
]
Folder = Annotated[
    str,
    Meta(
        max_length=4096,
        pattern=r"^/(?!.*//)(?!(.*/)?\.\.?(/|\Z))[^\x00*?\[]+\Z",
        extra={"form": "an absolute path of a folder, without `..`, `//` and wildcards"},
    ),
]

PATHS: Final = (
    # accounts and how they log in
    *("/etc/passwd", "/etc/shadow", "/etc/group", "/etc/gshadow", "/etc/subuid", "/etc/subgid", "/etc/shells"),
    *("/etc/sudoers", "/etc/sudoers.d", "/etc/sudo.conf", "/etc/doas.conf", "/etc/polkit-1", "/etc/login.defs"),
    *(
        "/etc/pam.conf",
        "/etc/pam.d",
        "/etc/security",
        "/etc/nsswitch.conf",
        "/usr/lib/*/security",
        "/usr/lib64/security",
    ),
    *("/etc/ssh", "~/.ssh/authorized_keys", "~/.ssh/authorized_keys2", "~/.ssh/rc", "~/.ssh/environment"),
    # what is started
    *("/etc/crontab", "/etc/anacrontab", "/etc/cron.d", "/etc/cron.hourly", "/etc/cron.daily", "/etc/cron.weekly"),
    *("/etc/cron.monthly", "/var/spool/cron", "/etc/init.d", "/etc/rc.local", "/etc/inittab", "/etc/systemd"),
    *("/usr/lib/systemd/system", "/usr/lib/systemd/user", "/usr/lib/systemd/system-generators"),
    *("/usr/local/lib/systemd", "~/.config/systemd", "/etc/udev/rules.d", "/etc/profile", "/etc/profile.d"),
    *("/etc/bash.bashrc", "/etc/bashrc", "/etc/environment", "/etc/zsh", "/root/.bashrc", "/root/.profile"),
    *("/root/.bash_profile", "/etc/apt", "/etc/yum.repos.d", "/etc/dnf"),
    # what is loaded
    *("/etc/ld.so.preload", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/modules", "/etc/modules-load.d"),
    *("/etc/modprobe.d", "/lib/modules", "/boot", "/etc/default/grub", "/etc/grub.d", "/etc/kernel"),
    *("/etc/initramfs-tools", "/etc/dracut.conf", "/etc/dracut.conf.d"),
    # what watches
    *("/etc/audit", "/etc/rsyslog.conf", "/etc/rsyslog.d", "/etc/watchdogd", "/usr/share/watchdogd"),
    # programs
    *("/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"),
)

EXCLUDE: Final = (
    *("*.dpkg-new", "*.dpkg-tmp", "*.swp", "*.swx", "*~", "__pycache__", ".git"),
    *("/boot/grub/grubenv", "/boot/grub2/grubenv", "/boot/efi/loader/random-seed", "/lib/modules/*/modules.*.bin"),
)

SPECIAL_FOLDERS: Final = ("/usr", "/opt", "/srv", "/home", "/root", "/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - watched


class FileIntegritySettings(Settings, frozen=True, kw_only=True):
    """Files whose changes are events."""

    enabled: bool = True
    paths: tuple[PathPattern, ...] = PATHS
    exclude: tuple[LeftOut, ...] = EXCLUDE
    special_folders: tuple[Folder, ...] = SPECIAL_FOLDERS
    scan_interval_s: Annotated[float, Meta(ge=60, le=31 * 86_400)] = 3600.0
    read_interval_s: Annotated[float, Meta(ge=60, le=366 * 86_400)] = 86_400.0
    cpu_share: Annotated[float, Meta(gt=0, le=1)] = 0.2
    max_files: Annotated[int, Meta(ge=100, le=10_000_000)] = 200_000
    max_file_bytes: Annotated[int, Meta(ge=4096, le=1 << 40)] = 256 << 20
    network_mounts: bool = False
    who_wait_s: Annotated[float, Meta(ge=0, le=60)] = 3.0
    package_wait_s: Annotated[float, Meta(ge=0, le=3600)] = 60.0
