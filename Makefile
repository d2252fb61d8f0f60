# Every target does its own set-up from a fresh clone. PYTHON picks the interpreter, VENV the folder.
PYTHON ?= python3
VENV   ?= .venv
RUN    := $(VENV)/bin
STAMP  := $(VENV)/.ready
# Nothing below the set-up may reach the network.
OFFLINE := HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=true
PYTEST_ARGS ?=

.PHONY: setup demo test check fmt bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check "pip>=25.1"
	$(RUN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e . --group dev
	touch $(STAMP)

demo: $(STAMP)
	$(OFFLINE) $(RUN)/unmask demo --out unmask-demo

check: $(STAMP)
	$(RUN)/ruff format --check .
	$(RUN)/ruff check .
	$(RUN)/mypy

test: check
	$(OFFLINE) $(RUN)/python -m pytest $(PYTEST_ARGS)

fmt: $(STAMP)
	$(RUN)/ruff format .
	$(RUN)/ruff check --fix .

bench: $(STAMP)
	$(OFFLINE) $(RUN)/python benchmarks/encode.py

clean:
	rm -rf $(VENV) unmask-demo .mypy_cache .ruff_cache .pytest_cache
