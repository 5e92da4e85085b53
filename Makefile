# make demo | check | test | test-all | fuzz | torture | lint | docs | clean: each sets up .venv by itself.
#   check     while you work, under 2 minutes: lint, types, architecture, tests but those marked long, two_ranks or slow
#   test      what CI runs, under 8 minutes: the same lint, all tests but those marked slow, with coverage
#   test-all  everything; a test whose tool (a browser, an S3 server, a framework) is absent is skipped and says so
#   fuzz      the tests of tests/fuzz with other inputs, for FUZZ_SECONDS (600)
#   torture   processes killed, bits flipped, disks filled, locks raced, drawn by TORTURE_SEED (0): half an hour
#   docs      the docs as one site, site/index.html
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find artifacts_schema stages pipeline -type f -not -path '*/__pycache__/*')
# Each process takes whole runs of tests, so that a file's fixtures are seldom made twice; an idle one takes from the others.
JOBS ?= 2
FUZZ_SECONDS ?= 600
TORTURE_SEED ?= 0
PYTEST := $(BIN)/python -m pytest --numprocesses=$(JOBS) --dist=worksteal

.PHONY: demo check test test-all fuzz torture lint docs clean

demo: $(VENV)/.installed
	$(BIN)/dataltt demo --overwrite

check: lint
	$(PYTEST) -m 'not long and not two_ranks and not slow' --durations=10 --durations-min=1

test: lint
	$(PYTEST) -m 'not slow' --cov --cov-report=term

test-all: lint
	$(PYTEST) --cov --cov-report=term

# Of a package index without atheris for this Python, the rest is tried.
fuzz: $(VENV)/.dev
	-$(BIN)/python -m pip install --quiet --only-binary :all: atheris
	$(BIN)/python -m tests.fuzz $(FUZZ_SECONDS)

torture: $(VENV)/.dev
	$(BIN)/python -m tests.torture $(TORTURE_SEED)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd $(VENV) && bin/mypy --config-file ../pyproject.toml -p dataltt
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/mdformat --check *.md docs

clean:
	rm -rf $(VENV) build dist site *.egg-info dataltt-demo

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(VENV)/.docs: $(VENV)/bin/python pyproject.toml $(SOURCES)
	rm -rf build
	$(BIN)/python -m pip install --quiet '.[docs]'
	rm -rf build
	touch $(VENV)/.installed $@

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# The package is installed as its users get it: built as a wheel, not linked to this tree.
# pip builds a folder anew whenever it is asked to install one, so that what is installed is what stands here.
$(VENV)/.installed: $(VENV)/bin/python pyproject.toml $(SOURCES)
	rm -rf build
	$(BIN)/python -m pip install --quiet .
	rm -rf build
	touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml $(SOURCES)
	rm -rf build
	$(BIN)/python -m pip install --quiet '.[dev]'
	rm -rf build
	touch $(VENV)/.installed $@
