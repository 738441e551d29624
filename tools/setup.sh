#!/usr/bin/env bash
# Sets up a checkout: system packages, a virtual environment, locked dependencies. Usage: setup.sh runtime|dev
# A second run finds its stamp and does nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
kind=${1:?runtime or dev}
venv=${WATCHDOGD_VENV:-.venv}
need=(pyproject.toml tools/setup.sh "requirements/$kind.txt")
stamp="$venv/.ready-$kind-$(cat "${need[@]}" | sha256sum | cut -c1-16)"
dev_stamp="$venv/.ready-dev-$(cat pyproject.toml tools/setup.sh requirements/dev.txt | sha256sum | cut -c1-16)"
[ -e "$stamp" ] || [ -e "$dev_stamp" ] && exit 0

say() { printf '%s\n' "$*" >&2; }

find_python() {
  local name
  for name in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if command -v "$name" >/dev/null &&
      "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2])' 2>/dev/null; then
      echo "$name"
      return 0
    fi
  done
  return 1
}

missing_parts() { # systemd-python is built from source: compiler, headers, libsystemd
  local python
  python=$(find_python) || { echo python; return; }
  "$python" -c 'import ensurepip, venv' 2>/dev/null || echo venv
  local include
  include=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')
  [ -e "$include/Python.h" ] || echo headers
  command -v gcc >/dev/null || command -v cc >/dev/null || echo compiler
  command -v pkg-config >/dev/null || { echo pkg-config; echo libsystemd; return; }
  pkg-config --exists libsystemd || echo libsystemd
}

missing=$(missing_parts)
if [ -n "$missing" ]; then
  apt_names=(python3 python3-venv python3-dev gcc libc6-dev pkg-config libsystemd-dev)
  if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ] && [ -z "${WATCHDOGD_NO_APT:-}" ]; then
    say "Installing system packages: ${apt_names[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q >/dev/null
    apt-get install -y -q --no-install-recommends "${apt_names[@]}" ca-certificates >/dev/null
    missing=$(missing_parts)
  fi
fi
if [ -n "$missing" ]; then
  say "Missing on this machine: $(echo $missing). Install it and run again:"
  say "  Debian, Ubuntu:  sudo apt-get install python3 python3-venv python3-dev gcc libc6-dev pkg-config libsystemd-dev"
  say "  Arch:            sudo pacman -S --needed python gcc pkgconf systemd-libs"
  say "  Fedora, RHEL:    sudo dnf install python3 python3-devel gcc pkgconf-pkg-config systemd-devel"
  say "Python must be 3.11 or newer."
  exit 2
fi

python=$(find_python)
say "Setting up $venv with $("$python" --version) (once)"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install -q --disable-pip-version-check --require-hashes --use-pep517 -r "requirements/$kind.txt"
"$venv/bin/python" -m pip install -q --disable-pip-version-check --no-deps -e .
rm -f "$venv"/.ready-"$kind"-*
touch "$stamp"
