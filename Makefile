# wavedil: train | check | test | lint | bench, and for CUDA test-ptx (needs no GPU) | test-gpu | bench-gpu.
# Everything that is made lies in .venv, .venv-test, .venv-cuda, dist and runs.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
VENV ?= .venv
TEST_VENV ?= .venv-test
CUDA_VENV ?= .venv-cuda
# What test-ptx compiles for and with; a shorter list takes less time.
export WAVEDIL_PTX_TARGETS ?= 8.0 9.0
export WAVEDIL_PTX_DTYPES ?= float32 float64
# Where test-ptx writes its table (.json and .md); nowhere if empty.
CUDA_TABLE ?= $(CURDIR)/benchmarks/results/cuda_kernels

.PHONY: train check test lint bench test-ptx test-gpu bench-gpu cuda-venv gpu-here

# An editable install: a change to the code counts at once. The stamp is written last, so that a half-made
# environment is made again.
$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --editable ".[test]"
	touch $@

train: $(VENV)/.ready
	$(VENV)/bin/wavedil train

# What to run after each edit, in the source tree: under a minute on 2 cores once the kernels are in the cache. Parity in
# float32 alone; the rest of the tests is in `make test`.
CHECKS := tests/architecture tests/parameters tests/models/test_base.py tests/cli/test_settings.py \
	tests/kernels/test_cuda_registry.py $(addprefix tests/ops/test_,red.py parity.py contract.py inplace.py devices.py)
check: $(VENV)/.ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/python -m pytest -q -k "not float64" $(CHECKS)

# The tests run against the built wheel in an environment of its own, never against the source tree.
test:
	rm -rf $(TEST_VENV) $(TEST_VENV)-wheel
	$(PYTHON) -m venv $(TEST_VENV)
	$(TEST_VENV)/bin/pip wheel --quiet --no-deps --wheel-dir $(TEST_VENV)-wheel .
	wheel=$$(echo $(TEST_VENV)-wheel/*.whl); $(TEST_VENV)/bin/pip install --quiet "$$wheel[test]"
	WAVEDIL_TEST_WHEEL=1 $(TEST_VENV)/bin/python -P -m pytest -n auto --dist loadfile tests
	rm -rf $(TEST_VENV)-wheel

lint: $(VENV)/.ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

bench: $(VENV)/.ready
	$(VENV)/bin/python -m benchmarks

# Tests and benchmarks of CUDA use an environment with the toolkit's wheels (about 1 GB), ptxas among them.
cuda-venv:
	rm -rf $(CUDA_VENV) $(CUDA_VENV)-wheel
	$(PYTHON) -m venv $(CUDA_VENV)
	$(CUDA_VENV)/bin/pip wheel --quiet --no-deps --wheel-dir $(CUDA_VENV)-wheel .
	wheel=$$(echo $(CUDA_VENV)-wheel/*.whl); \
	$(CUDA_VENV)/bin/pip install --quiet "$$wheel[test,cuda]" "nvidia-cuda-nvcc==13.0.*"
	rm -rf $(CUDA_VENV)-wheel

gpu-here:
	@$(PYTHON) tests/on_cuda/gpu_here.py

# Every CUDA kernel compiled and its PTX executed on NumPy, without a GPU.
test-ptx: cuda-venv
	WAVEDIL_CUDA_TABLE=$(CUDA_TABLE) $(CUDA_VENV)/bin/python -P -m pytest tests/on_cuda/test_ptx_interpreter.py \
		tests/on_cuda/test_ptx_kernels.py

# The same suite on a GPU.
test-gpu: gpu-here cuda-venv
	$(CUDA_VENV)/bin/python -P -m pytest tests/on_cuda/test_gpu.py

# A training step beside torch on the same GPU, and generation beside the CPU.
bench-gpu: gpu-here cuda-venv
	$(CUDA_VENV)/bin/pip install --quiet "torch==2.13.0"
	$(CUDA_VENV)/bin/python -m benchmarks gpu
