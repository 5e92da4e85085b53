# make demo | make test | make check | make clean: each sets up .venv by itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find artifacts_schema stages pipeline -type f -not -path '*/__pycache__/*')

.PHONY: demo test lint check clean

demo: $(VENV)/.installed
	$(BIN)/dataltt demo --overwrite

test: lint
	$(BIN)/python -m pytest --cov --cov-report=term

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd $(VENV) && bin/mypy --config-file ../pyproject.toml -p dataltt.artifacts_schema -p dataltt.stages -p dataltt.pipeline
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/mdformat --check *.md docs

clean:
	rm -rf $(VENV) build dist site *.egg-info dataltt-demo

# The docs as one site, site/index.html.
.PHONY: docs
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet '.[docs]'
	rm -rf build
	touch $@

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# The package is installed as its users get it: built as a wheel, not linked to this tree.
$(VENV)/.installed: $(VENV)/bin/python pyproject.toml $(SOURCES)
	rm -rf build
	$(BIN)/python -m pip install --quiet .
	$(BIN)/python -m pip install --quiet --force-reinstall --no-deps .
	rm -rf build
	touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet '.[dev]'
	rm -rf build
	touch $@
