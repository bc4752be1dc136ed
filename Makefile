# Every target sets up what it needs. `make help` lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONFIG ?= tenants.example.yaml
N ?= 1000
# How many processes share the tests. On two cores a third works while others wait for a cluster to
# elect its leader.
PROCESSES ?= 3
FIGURES ?= docs/benchmarks/figures.json

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: serve
serve: $(VENV)/installed ## Set everything up and serve tenants.example.yaml
	$(BIN)/ebus serve --config $(CONFIG)

.PHONY: test
test: $(VENV)/installed | wrk prometheus chromium operations ## Set everything up and run every test
	$(BIN)/pytest -q -n $(PROCESSES) --dist worksteal

.PHONY: torture
torture: $(VENV)/installed ## Break disks; cut the power and kill servers N times each (N=1000)
	$(BIN)/pytest -q tests/torture --torture $(N)

.PHONY: bench
bench: $(VENV)/installed | wrk ## Measure for some ten minutes, into docs/benchmarks/figures.json
	$(BIN)/python -m benchmarks run --json $(FIGURES)

.PHONY: bench-full
bench-full: $(VENV)/installed | wrk ## Measure for an hour or more, with logs of 10 million events
	$(BIN)/python -m benchmarks run --full --json $(FIGURES)

.PHONY: bench-report
bench-report: $(VENV)/installed ## Make docs/benchmarks.md and its plots from what was measured
	$(BIN)/python -m benchmarks report $(FIGURES)

.PHONY: wrk
wrk:
	@benchmarks/install_wrk.sh

.PHONY: prometheus
prometheus: $(VENV)/installed
	@tests/install_prometheus.sh $(BIN)

.PHONY: operations
operations: $(VENV)/installed
	@tests/install_operations.sh $(BIN)

.PHONY: chromium
chromium:
	@tests/install_chromium.sh

.PHONY: lint
lint: $(VENV)/installed ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: format
format: $(VENV)/installed ## Rewrite the sources in house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: setup
setup: $(VENV)/installed ## Make the virtual environment only

.PHONY: pin
pin: ## Choose versions anew and write constraints.txt
	$(PYTHON) -m venv $(VENV)-pin
	$(VENV)-pin/bin/pip install --quiet --disable-pip-version-check pip-tools
	$(VENV)-pin/bin/pip-compile --quiet --upgrade --strip-extras --generate-hashes --extra dev --extra bench \
		--no-header --no-annotate --no-emit-index-url --no-emit-find-links \
		--output-file constraints.txt pyproject.toml
	rm -rf $(VENV)-pin

.PHONY: clean
clean: ## Remove what the other targets made; data is left alone
	rm -rf $(VENV) $(VENV)-pin build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

# The versions are installed first, each checked against its hashes, then ebus itself with
# nothing left to resolve.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ebus needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@
