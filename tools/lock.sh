#!/usr/bin/env bash
# Resolves requirements/*.txt for Python 3.11 to 3.13 with hashes. Needs `uv` on PATH.
set -euo pipefail
cd "$(dirname "$0")/.."
common=(--universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet)
uv pip compile "${common[@]}" pyproject.toml -o requirements/runtime.txt
uv pip compile "${common[@]}" pyproject.toml --extra apprise -o requirements/apprise.txt
uv pip compile "${common[@]}" pyproject.toml --group dev -o requirements/dev.txt
uv pip compile "${common[@]}" --group fuzz -o requirements/fuzz.txt
