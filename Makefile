# Each target sets up what it needs: a virtual environment in .venv, with the extras of pyproject.toml.
PYTHON ?= python3
BIN := .venv/bin
JOBS ?= 3

.PHONY: relaxation test programs slow faults lint docs clean

relaxation: .venv/run
	$(BIN)/python recipes/relaxation.py $(ARGS)

PYTEST = $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

ON_JAX = KERAS_BACKEND=jax $(PYTEST) tests/layers tests/losses tests/models tests/inference/test_frozen_*.py tests/inference/test_budgets.py tests/inference/test_onnx_*.py --ignore tests/models/test_presets.py

test: .venv/test
	$(PYTEST)
	$(ON_JAX)

programs: .venv/test
	$(PYTEST) tests -m "(programs or faults) and not slow"

slow: .venv/test
	$(PYTEST) tests -m "slow and not faults"
	$(ON_JAX) -m "slow and not faults"

faults: .venv/test
	$(PYTEST) tests -m faults

lint: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/docs
	$(BIN)/mkdocs build --strict

clean:
	rm -rf .venv build *.egg-info

.venv/run: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[tune]"
	touch $@

.venv/test .venv/docs: .venv/%: .venv/run
	$(BIN)/python -m pip install --quiet -e ".[$*]"
	touch $@
