PYTHON ?= python3
VENV := .venv

.PHONY: demo test lint

demo: $(VENV)/installed
	$(VENV)/bin/acfun demo

test: $(VENV)/installed-test
	$(VENV)/bin/python -m pytest -q -n auto --dist loadfile

lint: $(VENV)/installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/pylint acfun pipelines train tests
	$(VENV)/bin/typos

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml
	$(VENV)/bin/python -m pip install --quiet -e .
	touch $@

$(VENV)/installed-test: $(VENV)/bin/python pyproject.toml
	$(VENV)/bin/python -m pip install --quiet -e ".[test]"
	touch $@

$(VENV)/installed-dev: $(VENV)/installed-test
	$(VENV)/bin/python -m pip install --quiet -e ".[dev]"
	touch $@
