"""A Debian 12 for QEMU: kernel, initrd and root disk, made once (about a minute) and cached below `.cache`.

The kernel is Debian's for virtual machines; a busybox loads the disk's driver and starts systemd: an initrd of Debian's
takes half a minute longer in emulation. `image/` holds what is put in.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

from tests.host.machine import CACHE

PARTS: Final = Path(__file__).with_name("image")
BUSYBOX: Final = Path("/bin/busybox")
PROGRAMS: Final = ("mmdebstrap", "mke2fs", "cpio", str(BUSYBOX))
"""What making it needs."""

_SUITE: Final = "bookworm"
_PACKAGES: Final = (
    # what boots
    "linux-image-cloud-amd64,systemd,systemd-sysv,udev,dbus,"
    # what the package depends on and recommends: it is installed without a network
    "python3,python3-systemd,auditd,"
    # whom people log in by, what they use
    "openssh-server,libpam-systemd,sudo,cron,procps,login,passwd,less,nano"
)
_MODULES: Final = (
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
)
"""In the order of their dependence."""
_ENABLED: Final = ("agent.service", "systemd-networkd.service")
_MASKED: Final = (
    "getty@tty1.service",
    "serial-getty@ttyS0.service",
    "systemd-networkd-wait-online.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
)
_PLACES: Final = {
    "agent.py": "opt/agent.py",
    "agent.service": "etc/systemd/system/agent.service",
    "10-guest.network": "etc/systemd/network/10-guest.network",
}
_MACHINE_ID: Final = "0123456789abcdef0123456789abcdef"
"""A fixed one: it is no first boot, and all boots write the same journal."""
_SIZE: Final = "2G"  # sparse: 0.4 GB are written


class Image(NamedTuple):
    """What QEMU starts from; `disk` is not to be written to."""

    kernel: Path
    initrd: Path
    disk: Path


def build_image() -> Image:
    """The image, from the cache where its recipe is the same. Needs root. RuntimeError where a program fails."""
    recipe = hashlib.sha256(Path(__file__).read_bytes())
    for part in sorted(PARTS.iterdir()):
        recipe.update(part.read_bytes())
    folder = CACHE / f"guest-{recipe.hexdigest()[:16]}"
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "guest.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run may be making it
        if not folder.is_dir():
            for old in CACHE.glob("guest-*"):
                shutil.rmtree(old)
            with tempfile.TemporaryDirectory(prefix="guest-", dir=CACHE) as unfinished:
                _make(Path(unfinished)).rename(folder)
    return Image(folder / "vmlinuz", folder / "initrd", folder / "root.img")


def _make(folder: Path) -> Path:
    root = folder / "root"
    leave_out = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "locale", "man")]
    _run(["mmdebstrap", "-q", "--variant=minbase", f"--include={_PACKAGES}", *leave_out, _SUITE, str(root)])
    _place(root)
    image = folder / "image"
    image.mkdir()
    [kernel] = (root / "boot").glob("vmlinuz-*")
    shutil.copy(kernel, image / "vmlinuz")
    _make_initrd(root, folder / "initrd", image / "initrd")
    _run(["mke2fs", "-q", "-t", "ext4", "-d", str(root), str(image / "root.img"), _SIZE])
    return image


def _place(root: Path) -> None:
    for name, place in _PLACES.items():
        shutil.copy(PARTS / name, root / place)
    units = root / "etc/systemd/system"
    wanted = units / "multi-user.target.wants"
    for unit in _ENABLED:
        own = units / unit
        (wanted / unit).symlink_to(
            f"/{(own if own.exists() else root / 'lib/systemd/system' / unit).relative_to(root)}"
        )
    for unit in _MASKED:
        (units / unit).unlink(missing_ok=True)
        (units / unit).symlink_to("/dev/null")
    (root / "etc/hostname").write_text("guest\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost guest\n")
    (root / "etc/machine-id").write_text(f"{_MACHINE_ID}\n")
    (root / "var/log/journal").mkdir(exist_ok=True)  # the journal outlives a boot


def _make_initrd(root: Path, tree: Path, initrd: Path) -> None:
    for name in ("bin", "modules", "dev", "root"):
        (tree / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, tree / "bin/busybox")
    shutil.copy(PARTS / "init", tree / "init")
    (tree / "init").chmod(0o755)
    (tree / "modules/order").write_text("".join(f"{name}\n" for name in _MODULES))
    for name in _MODULES:
        [module] = (root / "lib/modules").rglob(f"{name}.ko")
        shutil.copy(module, tree / "modules")
    names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
    command = ["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0", "-F", str(initrd)]
    _run(command, cwd=tree, stdin=names)


def _run(command: list[str], *, cwd: Path | None = None, stdin: str = "") -> None:
    done = subprocess.run(command, cwd=cwd, input=stdin, capture_output=True, text=True, check=False, timeout=900)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
