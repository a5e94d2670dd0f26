# agentplane: two commands for a newcomer (`make demo`, `make test`) and a few for daily work.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
CLUSTER ?= embedded
# Processes that run tests side by side; most of a test's time is waiting for servers. Each starts servers of its own.
TESTERS ?= 3
# What `make test` reports the coverage of; a table of all modules, after it: .venv/bin/coverage report
PACKAGES := engine workers beat cli sandbox

.PHONY: demo test test-cluster up lint bench lock clean

demo: $(STAMP)  ## the whole product, end to end, in one to two minutes
	@$(BIN)/agentplane demo --cluster $(CLUSTER)

test: $(STAMP) lint  ## lint, types, unit, contract, replay, integration and end-to-end tests; last, the coverage of each package
	@$(BIN)/python -m pytest -n $(TESTERS) --dist loadfile --ignore tests/cluster --cov --cov-report=
	@echo "coverage, without the processes that tests start:"
	@for package in $(PACKAGES); do \
	  printf '  %-8s %3s %%\n' $$package "$$($(BIN)/coverage report --include="$$package/*" --format=total)"; done

test-cluster: $(STAMP)  ## the cluster of KUBECONFIG, end to end, with what docs/development.md says to set
	@$(BIN)/python -m pytest tests/cluster -n 0 --durations 15 $(CASES)

up: $(STAMP)  ## the same stack as the demo, in the foreground
	@$(BIN)/agentplane up --cluster $(CLUSTER)

lint: $(STAMP)  ## style, types, and which package may import which
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

bench: $(STAMP)  ## the budgets, measured
	@$(BIN)/python -m bench

# Installation is one step: the locked dependencies with hashes, then this project. The lock is complete, so pip resolves nothing: its
# resolver would take a newer release of what somebody asks for with an extra, and then refuse it for want of a hash.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "agentplane needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
	@echo "creating $(VENV) and installing the $$(grep -c == requirements.lock) packages of requirements.lock: once, one to five minutes, no output meanwhile …"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

lock:  ## pin again, all extras and what production needs (needs uv)
	uv pip compile pyproject.toml --extra sandbox --extra test --universal --generate-hashes \
	  --no-emit-index-url --no-annotate --no-header --quiet --output-file requirements.lock
	$(MAKE) -f k8s/Makefile lock

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .coverage .coverage.*
