# make train   the paper's network on built-in data, all five folds, in a few minutes
# make test    formatting, types and every test
# make bench   the benchmark suite, its table, CSV and chart (QUICK=1: under five minutes)
# make docs    the API reference, from the docstrings, in build/docs
# make format  rewrites the sources in the project's format
# make clean   removes what building left; environments and results of training stay
#
# By default everything happens in .venv, made from PYTHON with TORCH on first use:
#   make test PYTHON=python3.12 TORCH='torch==2.14.1'
# An environment that already has torch is used as it is with PY:
#   make test PY=python3
# On x86-64 Linux the package index gives TORCH as a CUDA build of several GB. For the CPU build:
#   make test PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu TORCH=torch==2.13.0+cpu

PYTHON ?= python3
TORCH  ?= torch==2.13.0

ifndef PY
PY   := .venv/bin/python
VENV := .venv/made-with-$(subst /,_,$(subst =,-,$(TORCH)))
build/interpreter: $(VENV)
$(VENV):
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install -q '$(TORCH)' 'setuptools>=77' ninja
	@touch $@
endif

SCRIPTS  = $(shell $(PY) -c 'import sysconfig; print(sysconfig.get_path("scripts"))')
SOURCES := $(shell find csrc -type f)
KERNELS := $(filter %.h %.cpp %.cu %.cuh,$(SOURCES))

# A budget that fits into a coffee break: small frames, few epochs, a quick learning rate, and
# movements twice as strong as the built-in data has them otherwise. `make train MOTION=0` leaves
# nothing to recognise.
MOTION ?= 2
train: build/extension
	$(PY) -m memx_fast.train_samm --size 40 --epochs 24 --learning-rate 1e-3 --motion $(MOTION)

# Processes that share the tests out among themselves, by files: 1 to 2 GB each.
WORKERS ?= 2
test: build/extension
	$(SCRIPTS)/ruff check .
	$(SCRIPTS)/ruff format --check .
	$(SCRIPTS)/clang-format --dry-run -Werror $(KERNELS)
	$(SCRIPTS)/mypy
	$(PY) -m pytest -q -rs -n $(WORKERS) --dist loadfile --no-loadscope-reorder tests

bench: build/extension
	$(PY) -m pytest benchmarks $(if $(QUICK),--quick) --benchmark-json=build/benchmark.json
	$(PY) -m benchmarks.report build/benchmark.json

# Modules that people import by name; those of samm come with it.
DOCUMENTED = backends checkpoint_formats checkpoints compat functional info memory openstl reference reference_backward samm
docs: build/installed
	$(PY) -m pdoc --docformat google -o build/docs memx_fast $(addprefix memx_fast.,$(DOCUMENTED))
	@echo "open build/docs/index.html"

format: build/installed
	$(SCRIPTS)/ruff check --fix-only .
	$(SCRIPTS)/ruff format .
	$(SCRIPTS)/clang-format -i $(KERNELS)

clean:
	rm -rf build dist *.egg-info memx_fast/*.so memx_fast/_build.json

# Holds which interpreter and which PyTorch the rest of build/ is for; touched only when that changes.
build/interpreter: always
	@mkdir -p build
	@$(PY) -c 'import sys; from importlib.metadata import version; print(sys.executable, version("torch"))' > $@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

# The package itself, editable and without its extension, and all that it depends on. Of TorchGeo, the
# tests run one file, which needs PyTorch alone; its dependencies would be hundreds of MB.
build/installed: build/interpreter setup.py pyproject.toml Makefile
	MEMX_FAST_NO_EXTENSION=1 $(PY) -m pip install -q --no-build-isolation -e '.[test]'
	$(PY) -m pip install -q --no-deps 'torchgeo==0.8.*'
	@touch $@

# The extension, in place: only what changed is compiled.
build/extension: build/installed $(SOURCES)
	$(PY) setup.py -q build_ext --inplace
	@touch $@

.PHONY: train test bench docs format clean always
