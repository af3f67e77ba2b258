"""Every family, training and generation on a GPU: ``make test-gpu``. Skipped where there is none."""

import gpu_here
import numpy as np
import pytest

pytest.register_assert_rewrite(
    "helpers.cuda_suite", "cuda_sim.test_clip_classifier", "cuda_sim.test_streams", "cuda_sim.test_training"
)
REASON = gpu_here.reason()
if REASON:
    pytest.skip(REASON, allow_module_level=True)

from wavedil.kernels.cuda.engine import device_array, engine_for, unavailable  # noqa: E402
from wavedil.kernels.cuda.launch import SIMULATED  # noqa: E402

if REASON := unavailable() or ("the simulator is on" if SIMULATED else None):
    pytest.skip(REASON, allow_module_level=True)

from helpers.cuda_suite import *  # noqa: E402, F403
from ptx import compiler  # noqa: E402


@pytest.fixture
def on_device():
    """The GPU itself."""
    assert engine_for().name == "cuda:0"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_kernel_compiles_here(dtype):
    engine = engine_for()
    for kernel in compiler.all_kernels(dtype).values():
        compiled = engine.cuda.jit(kernel.signature)(kernel.function)
        assert max(compiled.get_local_mem_per_thread().values()) == 0, f"{kernel.name} spills"
        assert kernel.threads <= min(compiled.get_max_threads_per_block().values()), kernel.name


def test_arrays_of_torch_are_taken_without_a_copy():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x = torch.arange(6, dtype=torch.float32, device="cuda").reshape(2, 3)
    ours = device_array(x)
    assert ours.__cuda_array_interface__["data"][0] == x.data_ptr()
    ours += device_array(np.ones((2, 3), "f4"))
    torch.cuda.synchronize()
    assert x.cpu().tolist() == [[1, 2, 3], [4, 5, 6]]
    assert torch.as_tensor(ours, device="cuda").data_ptr() == x.data_ptr()
