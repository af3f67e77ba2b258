"""Every family that is on CUDA brings its kernels, and every kernel says what it is."""

import importlib
import importlib.util

import numpy as np
import pytest

from wavedil import ops
from wavedil.kernels.cuda.launch import Kernel


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("family", ops.FAMILIES)
def test_a_family_lists_its_kernels(family, dtype):
    module = importlib.import_module(f"wavedil.ops.{family}.cuda")
    kernels = module.kernels(dtype)
    assert kernels and all(isinstance(k, Kernel) for k in kernels)
    by_name = {}
    for kernel in kernels:
        assert by_name.setdefault(kernel.name, kernel) is kernel, f"two kernels are named {kernel.name}"
        assert kernel.about, f"{kernel.name} has no docstring"
        assert kernel.threads % 32 == 0 and 32 <= kernel.threads <= 1024
        if kernel.tile:
            assert kernel.threads == kernel.tile.threads
            assert kernel.tile.intensity(np.dtype(dtype).itemsize) > 0
