"""A whole host in QEMU, emulated (KVM is not asked for): its own kernel with its own audit, systemd, auditd, journald.

It shares nothing with the machine that the tests run on, so no lock is taken. What listens on the tests' loopback is
reached at `HOST` inside; its sshd at `ssh_port` of the loopback. Everything takes about five times longer than on a
real machine.
"""

from __future__ import annotations

import base64
import json
import select
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Any, Final, Self

from tests.host.auditing import DIE_WITH_US
from tests.host.shell import Shell
from tests.ollama.server import free_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.host.guest_image import Image

HOST: Final = "10.0.2.2"
PROGRAMS: Final = ("qemu-system-x86_64", "setpriv")
BOOT_TIMEOUT_S: Final = 300.0

_MACHINE: Final = (
    "-machine q35,hpet=on,usb=off,graphics=off -accel tcg,thread=multi -cpu qemu64 -smp 2 -m 1024 "
    "-nographic -nodefaults -no-user-config -monitor none"
)
_KERNEL_LINE: Final = (
    "console=ttyS0 rw quiet loglevel=3 panic=0 systemd.show_status=no cryptomgr.notests nokaslr mitigations=off "
    "no_timer_check"
)


class Guest(Shell):
    """Boots at `with`; what it writes to its disk outlives reboots and power cuts, and goes at the end."""

    def __init__(self, image: Image, folder: Path) -> None:
        self._image = image
        self._disk = folder / "disk.img"
        self._console = folder / "console"
        self.ssh_port = free_port()
        self._emulator: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._received = b""
        self._count = 0

    def __enter__(self) -> Self:
        subprocess.run(["cp", "--sparse=always", self._image.disk, self._disk], check=True)
        self.power_on()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut_power()
        self._disk.unlink()

    def power_on(self) -> None:
        """Start it and wait until it is up. RuntimeError where it does not boot."""
        ours, theirs = socket.socketpair()
        with theirs:
            command = [*DIE_WITH_US, "qemu-system-x86_64", *_MACHINE.split(), *self._devices(theirs.fileno())]
            with self._console.open("ab") as console:
                self._emulator = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=console, stderr=console, pass_fds=[theirs.fileno()]
                )
        self._channel = ours
        self._received = b""
        try:
            self._wait_for_boot()
        except BaseException:
            self.cut_power()
            raise

    def cut_power(self) -> None:
        """End it from one moment to the next: what was not written to the disk is gone."""
        if self._emulator is not None:
            self._emulator.kill()
            self._emulator.wait()
            self._emulator = None
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def reboot(self) -> None:
        """`systemctl reboot`, until it is up again."""
        before = self.read_boot_id()
        self._ask("systemctl", "reboot", stdin=None, timeout_s=60)
        self._wait_for_boot(before)

    def read_boot_id(self) -> str:
        """Another after each boot."""
        return self.run("cat", "/proc/sys/kernel/random/boot_id").stdout.strip()

    def run(
        self, *command: str | Path, check: bool = True, stdin: str | None = None, timeout_s: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside as root, of a service and not of somebody who logged in (for that there is ssh)."""
        number = self._ask(*command, stdin=stdin, timeout_s=timeout_s)
        answer = self._read(timeout_s + 60, lambda document: document.get("id") == number, f"{command} answers")
        done = subprocess.CompletedProcess(command, answer["code"], answer["stdout"], answer["stderr"])
        if check and done.returncode != 0:
            said = f"{done.stdout}{done.stderr}"
            raise RuntimeError(f"{command} inside the guest ended with {done.returncode}:\n{said}")
        return done

    def put(self, path: Path, inside: str) -> None:
        """Copy a file to a path inside."""
        text = base64.b64encode(path.read_bytes()).decode()
        self.run("sh", "-c", 'mkdir -p "$(dirname "$0")" && base64 -d >"$0"', inside, stdin=text)

    def _devices(self, channel: int) -> list[str]:
        forward = f"hostfwd=tcp:127.0.0.1:{self.ssh_port}-:22"
        # fmt: off
        return [
            "-kernel", str(self._image.kernel), "-initrd", str(self._image.initrd), "-append", _KERNEL_LINE,
            "-serial", "stdio",
            # What the guest has written outlives QEMU's end also where it is not flushed to this machine's disk.
            "-drive", f"id=disk,file={self._disk},if=none,format=raw,cache=unsafe",
            "-device", "virtio-blk-pci,drive=disk",
            "-netdev", f"user,id=net,{forward}", "-device", "virtio-net-pci,netdev=net,romfile=",
            "-chardev", f"socket,id=agent,fd={channel}", "-device", "virtio-serial-pci",
            "-device", "virtserialport,chardev=agent,name=agent",
        ]
        # fmt: on

    def _ask(self, *command: str | Path, stdin: str | None, timeout_s: float) -> int:
        assert self._channel is not None, "it is off"
        self._count += 1
        request = {"id": self._count, "command": [*map(str, command)], "stdin": stdin, "timeout_s": timeout_s}
        self._channel.settimeout(120)
        self._channel.sendall(json.dumps(request).encode() + b"\n")
        return self._count

    def _wait_for_boot(self, before: str | None = None) -> None:
        self._read(BOOT_TIMEOUT_S, lambda document: document.get("boot", before) != before, "it boots")
        state = self.run("systemctl", "is-system-running", "--wait", check=False, timeout_s=BOOT_TIMEOUT_S)
        if state.stdout.strip() not in {"running", "degraded"}:
            raise RuntimeError(
                f"the guest's systemd says {state.stdout}{state.stderr}; console:\n{self._console_tail()}"
            )

    def _read(self, timeout_s: float, wanted: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        """The first line that is wanted; others are answers that nobody waits for any more."""
        assert self._channel is not None, "it is off"
        deadline_s = time.monotonic() + timeout_s
        while True:
            while b"\n" in self._received:
                line, _, self._received = self._received.partition(b"\n")
                document: dict[str, Any] = json.loads(line)
                if wanted(document):
                    return document
            left_s = deadline_s - time.monotonic()
            ready, _, _ = select.select([self._channel], [], [], max(0.0, left_s))
            data = self._channel.recv(1 << 20) if ready else b""
            if not data:
                why = "QEMU ended" if ready else f"not within {timeout_s:g} s"
                raise RuntimeError(f"{why}: {what}; the console says:\n{self._console_tail()}")
            self._received += data

    def _console_tail(self) -> str:
        return self._console.read_text(errors="replace")[-3000:]
