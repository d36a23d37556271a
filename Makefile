# One index of a developer's day. `make demo` and `make test` do all the set-up they need.

PYTHON ?= python3
BIN := .venv/bin
# Threads for the maths libraries; more than the cores only makes them wait for each other.
export TOKENIZERS_PARALLELISM := false

.PHONY: help demo test test-slow lint format docs site clean constraints

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.venv/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "cusa needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12 demo")'
	$(PYTHON) -m venv .venv
	@touch $@

.venv/.ready: .venv/.made pyproject.toml constraints.txt
	@echo "Installing cusa and its pinned dependencies into .venv (torch is the large one)..."
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on -c constraints.txt -e .
	@touch $@

.venv/.ready-dev: .venv/.ready
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: .venv/.ready ## the whole journey on drawn scenes: no network, accelerator or account
	$(BIN)/cusa demo --out work/demo

# A process a core, each with one thread: the tests of one file stay together, since they share what their fixtures made.
TEST_JOBS ?= $(shell getconf _NPROCESSORS_ONLN 2> /dev/null || echo 2)

test: .venv/.ready-dev ## the whole suite (TEST_JOBS=1 for one process)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_JOBS) --maxprocesses 8 --dist loadfile

test-slow: .venv/.ready-dev ## what takes long: thirty kills of every stage, every STS set
	CUSA_KILLS=30 $(BIN)/python -m pytest -m "slow or long" --timeout 1800 tests/pipeline

lint: .venv/.ready-dev ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.ready-dev ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/.ready-dev ## write the generated pages, pictures and notebooks' outputs anew
	$(BIN)/python tools/write_reference.py
	$(BIN)/python tools/draw_concepts.py
	$(BIN)/python tools/run_notebooks.py

site: .venv/.ready-dev ## build the documentation's site into build/site, strict: every link is checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "Open build/site/index.html"

constraints: .venv/.ready-dev ## pin what is installed now
	(head -1 constraints.txt; $(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu//') > constraints.new && mv constraints.new constraints.txt

clean: ## remove the environment and every work folder
	rm -rf .venv work build *.egg-info
