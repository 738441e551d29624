"""Runs inside the guest and does what the tests say: a line of JSON in, a line of JSON out, on a virtio-serial port.

It introduces itself by the id of the boot, so that the other side knows when a reboot is over.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

PORT = "/dev/virtio-ports/agent"
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}


def main() -> None:
    """Answer for ever."""
    port = os.open(PORT, os.O_RDWR)
    send(port, {"boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip()})
    received = bytearray()
    while True:
        data = os.read(port, 1 << 16)
        if not data:  # nobody at the other end
            time.sleep(0.1)
            continue
        *lines, rest = data.split(b"\n")
        for line in lines:
            request = json.loads(bytes(received) + line)
            received.clear()
            send(port, {"id": request["id"], **run(request)})
        received += rest


def run(request: dict[str, Any]) -> dict[str, Any]:
    """A command's exit code and output; 124 where it took too long, 127 where it cannot be started."""
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(
            request["command"], stdin=pipe, stdout=pipe, stderr=pipe, env=ENVIRONMENT, cwd="/", start_new_session=True
        )
    except OSError as error:
        return {"code": 127, "stdout": "", "stderr": str(error)}
    try:
        stdout, stderr = process.communicate((request["stdin"] or "").encode(), request["timeout_s"])
        code = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        stdout, stderr = process.communicate()
        code = 124
    return {"code": code, "stdout": stdout.decode(errors="replace"), "stderr": stderr.decode(errors="replace")}


def send(port: int, document: dict[str, Any]) -> None:
    """Write a line, whole."""
    data = json.dumps(document).encode() + b"\n"
    while data:
        data = data[os.write(port, data) :]


if __name__ == "__main__":
    main()
