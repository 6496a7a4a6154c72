# Everything runs from a fresh clone: each target makes the environment it needs, once, and again when pyproject.toml changes.

VENV ?= .venv
BUNDLE ?= covid_ttl
PYTHON3 ?= python3

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
CONFIGS := bundles/$(BUNDLE)/configs
EVAL := bundles/$(BUNDLE)/eval
# -W ignore: warnings of the libraries about one another; ours go through logging.
BUNDLE_RUN := $(BIN)/python -W ignore -m monai.bundle run --config_file
JSON := $(BIN)/pretty-format-json --indent 4 --no-sort-keys --no-ensure-ascii

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-all quality style docs clean

help:  ## show these lines
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(VENV)/.runtime  ## make the environment .venv with the package in it

demo: $(VENV)/.runtime  ## train, evaluate and predict on made images (BUNDLE=covid_ttl), two CPU cores are enough
	$(BUNDLE_RUN) $(CONFIGS)/train.json
	$(BUNDLE_RUN) "['$(CONFIGS)/train.json','$(CONFIGS)/evaluate.json']"
	$(BUNDLE_RUN) $(CONFIGS)/inference.json
	@echo
	@echo "Results and pictures of the demo, in $(EVAL):"
	@find $(EVAL) -name '*.png' -o -name '*.csv' -o -name '*.json' -o -name 'model.pt' | sort | sed 's/^/  /'

test: $(VENV)/.dev  ## run all tests but those marked slow
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 -m "not slow"

test-all: $(VENV)/.dev  ## run all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2

quality: $(VENV)/.dev  ## check code, types, configs and datalists, change nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	find bundles experiments -path '*/configs/*.json' -o -path 'bundles/schema/*.json' -o -path 'experiments/*.json' | xargs $(BIN)/check-json
	find bundles experiments -path '*/configs/*.json' -o -path 'experiments/*.json' | xargs $(JSON)
	$(BIN)/python -m pytest --quiet --durations=0 --durations-min=5 tests/datalists tests/test_architecture.py

style: $(VENV)/.dev  ## format code and configs
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	find bundles experiments -path '*/configs/*.json' -o -path 'experiments/*.json' | xargs $(JSON) --autofix

docs: $(VENV)/.dev  ## write tables and pictures of README and model cards anew from the committed records
	for bundle in bundles/*_ttl; do $(BIN)/ttl table $$bundle || exit 1; done
	$(BIN)/ttl table bundles/covid_ttl --readme README.md
	PYTHONPATH=$(CURDIR) $(BIN)/python -W ignore benchmarks/inference.py --from benchmarks/inference.json --readme README.md
	PYTHONPATH=$(CURDIR) $(BIN)/python -W ignore benchmarks/files.py --from benchmarks/files.json --readme README.md

clean:  ## remove the environment, caches, and what demos and trainings left in the bundles
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	rm -rf bundles/*/eval bundles/*/cache bundles/*/data
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON3) -m venv $(VENV)

$(VENV)/.runtime: pyproject.toml | $(BIN)/python
	$(PIP) --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(PIP) --editable ".[dev]"
	@touch $@ $(VENV)/.runtime
