#!/usr/bin/env bash
# Fuzzes the decoder for so many seconds. atheris is put beside the virtual environment, not into it: it is no part of
# what is tested. Where it cannot be had, plain mutation takes its place and says so. Usage: fuzz.sh SECONDS
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${WATCHDOGD_VENV:-.venv}
target="$venv/fuzz-$(sha256sum requirements/fuzz.txt | cut -c1-16)"
if [ ! -e "$target" ]; then
  "$venv/bin/python" -m pip install -q --disable-pip-version-check --require-hashes --no-deps --only-binary :all: \
    --target "$target.part" -r requirements/fuzz.txt && mv "$target.part" "$target" ||
    { rm -rf "$target.part"; echo "atheris cannot be installed for $("$venv/bin/python" --version)" >&2; }
fi
PYTHONPATH="$target" exec "$venv/bin/python" -m fuzz "${1:?seconds}"
