# `make demo` and `make test` do everything on a fresh machine that has git, make and Python >= 3.11 with pip.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
UV_VERSION := 0.13.9
UV := .tools/bin/uv
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export UV_PYTHON_DOWNLOADS := never
# Every process that a demo or a test starts would compile all that it imports: 1 s each, and there are hundreds.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test check soak faults bench proto docs format lock wheel clean

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: $(STAMP) ## make .venv with troth and everything its tests need

$(UV):
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target .tools "uv==$(UV_VERSION)"

$(STAMP): $(UV) requirements.lock pyproject.toml
	[ -x $(BIN)/python ] || $(UV) venv --quiet --python "$$(command -v $(PYTHON))" $(VENV)
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(UV) pip sync --quiet --compile-bytecode --require-hashes requirements.lock
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(UV) pip install --quiet --no-deps --editable .
	$(BIN)/python -m compileall -q src
	touch $@

demo: $(STAMP) ## buy and not buy: three services, three databases, all or nothing (DB=postgres or DB=mysql: private servers)
	$(BIN)/troth demo $(if $(DB),--db $(DB))

check: $(STAMP) ## ruff, mypy, import-linter, unit tests (< 3 min)
	scripts/check

test: $(STAMP) ## check + one of each kind on real processes
	scripts/test

soak: $(STAMP) ## the long runs
	$(BIN)/pytest -m soak --durations=20

faults: $(STAMP) ## every fault on real processes; writes the table of docs/faults.md
	$(BIN)/pytest tests/faults -m soak --faults-table docs/faults.md

bench: $(STAMP) ## figures beside real Seata servers, into docs/benchmarks.md (Go, a JDK, Maven; some 25 min)
	$(BIN)/python bench/run.py --all --write docs/benchmarks.md
	$(BIN)/python bench/dtm.py --write docs/benchmarks.md
	$(BIN)/python bench/modes.py --write docs/benchmarks.md

proto: $(STAMP) ## generate the messages of DTM's gRPC door from proto/
	scripts/proto

docs: $(STAMP) ## redraw what the docs show of the code
	$(BIN)/python scripts/draw_table.py > docs/transitions.md
	$(BIN)/python scripts/draw_statements.py

format: $(STAMP) ## ruff format and its fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(UV) ## renew requirements.lock from pyproject.toml
	$(UV) pip compile pyproject.toml --quiet --universal --all-extras --group dev --generate-hashes \
	  --no-emit-index-url --no-emit-find-links -o requirements.lock

wheel: $(STAMP) ## dist/troth-*.whl
	$(UV) build --quiet --wheel --out-dir dist

clean: ## remove what the other targets made
	rm -rf $(VENV) .tools dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
