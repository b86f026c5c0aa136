# Everything here runs in the virtual environment .venv, which the first target that needs it makes.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help check test cover demo bench clean

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

demo: .venv ## three members, one killed, nothing lost
	$(BIN)/replkv demo

bench: .venv ## replkv beside etcd
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	$(BIN)/python -m benchmarks

clean: ## remove what the tools left
	rm -rf .venv build dist ./*.egg-info .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
