# `make demo` and `make test` are all that a newcomer needs; each sets up what it lacks, once.
VENV ?= .venv
SECONDS ?= 300
JOBS ?= 2
SHARED := -n $(JOBS) --dist loadfile --no-loadscope-reorder
export WATCHDOGD_VENV := $(VENV)
PY := $(VENV)/bin/python
.DEFAULT_GOAL := help
.PHONY: help demo test lint unit e2e services differential bench deb eval eval-rules eval-anomalies train-scorer fuzz lock clean

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t12

demo: ## replay a recorded attack hidden in ordinary work, show the alerts
	@tools/setup.sh runtime
	@$(PY) -m watchdogd.cli.demo

test: lint unit ## linters, types, import contracts, tests (under 10 minutes; JOBS=4 for more cores)

lint:
	@tools/setup.sh dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

unit:
	@tools/setup.sh dev
	$(PY) -m pytest -m "not host" $(SHARED) --cov --cov-report=term

e2e: ## the real parts: kernel audit, auditd, journald, systemd, a model (root; refuses on a real host)
	@tools/setup.sh dev
	$(PY) -m pytest -m host

services: ## our messages before what Elastic, Discord and Microsoft publish (node, npm), and an installed Alertmanager
	@tools/setup.sh dev
	npm ci --prefix tests/services --ignore-scripts --no-audit --no-fund
	$(PY) -m pytest tests/services

differential: ## of what make test samples, all: recordings, made-up rules judged in SQL, ausearch (16 minutes)
	@tools/setup.sh dev
	WATCHDOGD_DIFFERENTIAL=1 $(PY) -m pytest -m sampled $(SHARED)

bench: ## CPU and memory beside laurel, ausearch, auparse and zargunlite (says what is missing); footprint of the service
	@tools/setup.sh dev
	@$(PY) -m benchmarks.main
	@$(PY) -m benchmarks.footprint

eval-rules: ## what the rules find in labelled recordings; writes docs/detection.md and the ATT&CK layer
	@tools/setup.sh dev
	@$(PY) -m evaluation.detection --write

eval: ## how well triage tells attacks from work; writes docs/triage-measured.md
	@tools/setup.sh dev
	@$(PY) -m evaluation.triage --write

eval-anomalies: ## how many known changes of made-up hosts' metrics are found; writes docs/anomalies.md (20 minutes)
	@tools/setup.sh dev
	@$(PY) -m evaluation.anomalies --write

train-scorer: ## fit the evidence score's weights to the labelled recordings
	@tools/setup.sh dev
	@$(PY) -m evaluation.training

fuzz: ## coverage-guided fuzzing of the decoder for SECONDS (default 300), then the cost of nasty lines
	@tools/setup.sh dev
	@tools/fuzz.sh $(SECONDS)

deb: ## Debian packages into dist/: Debian 12 and 13 (tested), Ubuntu 24.04 (untested)
	@tools/setup.sh dev
	@$(PY) -m tools.build_deb

lock: ## resolve requirements/*.txt anew
	tools/lock.sh

clean: ## remove what make made
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build dist
