# Every target makes the virtual environment it needs; nothing else has to be installed by hand.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help demo run test lint bench fuzz fuzz-coverage docs clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[paddle,test,lint]'
	@touch $@

demo: $(STAMP) ## Watch a real Paddle training run being judged, pruned and released (about a minute)
	$(BIN)/ckptd demo

run: $(STAMP) ## Start the daemon on config.toml
	$(BIN)/ckptd --config config.toml run

test: $(STAMP) ## Run all tests; core/ must reach full branch coverage
	$(BIN)/pytest --cov=ckptd --cov-report=
	$(BIN)/coverage report --include='daemon/ckptd/core/*' --fail-under=100 --skip-covered

lint: $(STAMP) ## Check style, types and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

bench: $(STAMP) ## Measure speed and memory against the named peers (docs/performance.md)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[bench]"
	$(BIN)/python benchmarks/run.py

COUNT ?= 10000
SEED  ?= 1
fuzz: $(STAMP) ## Damage COUNT checkpoints and hold our judgement against paddle.load (docs/validation.md)
	PYTHONPATH=tests $(BIN)/python -m fuzzing --count $(COUNT) --seed $(SEED)

SECONDS ?= 60
fuzz-coverage: $(STAMP) ## Search for SECONDS, guided by coverage, for files that break a reader; goes on where it stopped
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[fuzz]'
	PYTHONPATH=tests $(BIN)/python -m fuzzing.coverage_fuzzer --seconds $(SECONDS)

docs: $(STAMP) ## Write the pages that are generated from tables in the code
	$(BIN)/python -c 'from ckptd.core.events_page import render_markdown; print(render_markdown(), end="")' > docs/events.md
	$(BIN)/python -c 'from ckptd.core.findings_page import render_markdown; print(render_markdown(), end="")' > docs/findings.md

clean: ## Remove the virtual environment and all caches
	rm -rf $(VENV) .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
