# Everything here works from a fresh clone: the first target that needs it makes the virtual environment.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# more than one thread on a shared machine is many times slower
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1

.PHONY: setup demo test test-all lint types format bench study wagle-study docs figures clean

setup: $(STAMP)  ## virtual environment with the pinned dependencies

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: setup  ## the tour: build the world, unlearn by RMU and R2MU, assess, write the report
	$(BIN)/temper demo

test: setup  ## the default tests, without network
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-all: setup  ## also what takes long or needs many processes
	$(BIN)/python -m pytest -m 'not gpu'

lint: setup types  ## style, import order, docstrings, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup  ## every claim of speed, as a ratio from one run
	for script in benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done

study: setup  ## R2MU and its baselines on the embedded world, three seeds: docs/r2mu_study.md
	$(BIN)/python benchmarks/r2mu_study.py --table docs/r2mu_study.md

wagle-study: setup  ## WAGLE, its baselines, four objectives, five seeds: docs/wagle_study.md; TOFU too with MODELS=FOLDER of tofu_models.py
	$(BIN)/python benchmarks/wagle_study.py --docs docs $(if $(MODELS),--tofu $(MODELS))

docs: setup  ## the documentation as a site in site/
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	$(BIN)/mkdocs build --strict

figures: setup  ## the pictures of README and docs, from a run of the demo (needs chromium)
	$(BIN)/python docs/photograph.py

clean:
	rm -rf site build dist .pytest_cache .mypy_cache .ruff_cache
