# wavedil: train | test | lint | bench. Everything that is made lies in .venv, .venv-test, dist and runs.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
VENV ?= .venv
TEST_VENV ?= .venv-test

.PHONY: train test lint bench

# An editable install: a change to the code counts at once. The stamp is written last, so that a half-made
# environment is made again.
$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --editable ".[test]"
	touch $@

train: $(VENV)/.ready
	$(VENV)/bin/wavedil train

# The tests run against the built wheel in an environment of its own, never against the source tree.
test:
	rm -rf $(TEST_VENV) $(TEST_VENV)-wheel
	$(PYTHON) -m venv $(TEST_VENV)
	$(TEST_VENV)/bin/pip wheel --quiet --no-deps --wheel-dir $(TEST_VENV)-wheel .
	wheel=$$(echo $(TEST_VENV)-wheel/*.whl); $(TEST_VENV)/bin/pip install --quiet "$$wheel[test]"
	WAVEDIL_TEST_WHEEL=1 $(TEST_VENV)/bin/python -P -m pytest tests
	rm -rf $(TEST_VENV)-wheel

lint: $(VENV)/.ready
	$(VENV)/bin/ruff check .

bench: $(VENV)/.ready
	$(VENV)/bin/python -m benchmarks
