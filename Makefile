# Every target does its own set-up from a fresh clone. PYTHON picks the interpreter, VENV the folder.
PYTHON ?= python3
VENV   ?= .venv
RUN    := $(VENV)/bin
STAMP  := $(VENV)/.ready
# Nothing below the set-up may reach the network.
OFFLINE := HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=true
PYTEST_ARGS ?=

# The released llm2vec needs libraries of its time, so it has an environment of its own.
ORACLE ?= .venv-oracle
ORACLE_STAMP := $(ORACLE)/.ready

.PHONY: setup demo test check fmt bench oracle support clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check "pip>=25.1"
	$(RUN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e . --group dev
	touch $(STAMP)

oracle: $(ORACLE_STAMP)

$(ORACLE_STAMP): tests/oracle/requirements.txt
	$(PYTHON) -m venv $(ORACLE)
	$(ORACLE)/bin/python -m pip install --quiet --disable-pip-version-check "pip>=25.1"
	$(ORACLE)/bin/python -m pip install --quiet --disable-pip-version-check -r tests/oracle/requirements.txt
	touch $(ORACLE_STAMP)

demo: $(STAMP)
	$(OFFLINE) $(RUN)/unmask demo --out unmask-demo

check: $(STAMP)
	$(RUN)/ruff format --check .
	$(RUN)/ruff check .
	$(RUN)/mypy

test: check $(ORACLE_STAMP)
	$(OFFLINE) UNMASK_ORACLE=$(abspath $(ORACLE))/bin/python $(RUN)/python -m pytest $(PYTEST_ARGS)

# Writes docs/support.md.
support: $(STAMP)
	$(OFFLINE) $(RUN)/python -m tests.sweep.sweep docs/support.md

fmt: $(STAMP)
	$(RUN)/ruff format .
	$(RUN)/ruff check --fix .

bench: $(STAMP)
	$(OFFLINE) $(RUN)/python benchmarks/encode.py

clean:
	rm -rf $(VENV) $(ORACLE) unmask-demo .mypy_cache .ruff_cache .pytest_cache
