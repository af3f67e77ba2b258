"""Every CUDA kernel compiled to PTX, its resources as ptxas reports them, and that PTX executed over the cases.

Needs numba-cuda and ptxas, but no GPU: ``make test-ptx``. Elsewhere all of it is skipped.
"""

import functools
import json
import os
import re
from pathlib import Path

import numpy as np
import ptx
import pytest
from helpers import ops as h
from ptx import compiler

REASON = compiler.missing()
if REASON:
    pytest.skip(REASON, allow_module_level=True)

pytest.register_assert_rewrite(
    "helpers.cuda_suite", "cuda_sim.test_clip_classifier", "cuda_sim.test_streams", "cuda_sim.test_training"
)
from helpers import cuda_suite, device  # noqa: E402
from helpers.cuda_suite import *  # noqa: E402, F403
from ptx.engine import Interpreter  # noqa: E402

from wavedil.kernels.cuda import products  # noqa: E402
from wavedil.kernels.cuda.engine import use_engine  # noqa: E402

KERNELS = {dtype: compiler.all_kernels(dtype) for dtype in compiler.DTYPES}
EXECUTED = compiler.TARGETS[-1]
STACK = {}  # kernels that may have a stack frame, and why
TABLE = []
INTERPRETER = Interpreter(EXECUTED)


# ---- resources -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("target", compiler.TARGETS)
@pytest.mark.parametrize(("dtype", "name"), [(d, n) for d, kernels in KERNELS.items() for n in kernels])
def test_no_spills(dtype, name, target):
    kernel = KERNELS[dtype][name]
    used, row = compiler.resources(kernel, target), compiler.row(kernel, dtype, target)
    TABLE.append(row)
    assert used.spills == 0, f"{name} spills {used.spills} bytes for {target}"
    assert used.stack == 0 or name in STACK, f"{name} has a stack frame of {used.stack} bytes for {target}"
    assert used.registers <= 255 and row["occupancy"] > 0
    if kernel.tile:
        planned = kernel.tile.intensity(np.dtype(dtype).itemsize)
        assert row["flops_per_shared_byte"] == pytest.approx(planned, rel=0.02), "loads that the tile does not plan"


# ---- executed --------------------------------------------------------------------------------------------------------
@pytest.fixture
def on_device(request):
    """Device arrays that live on the host, kernels that run as PTX."""
    dtype = getattr(request.node, "callspec", None) and request.node.callspec.params.get("dtype")
    if dtype and dtype not in compiler.DTYPES:
        pytest.skip(f"{dtype} is not in WAVEDIL_PTX_DTYPES")
    with use_engine(INTERPRETER):
        yield


@pytest.mark.skipif("float32" not in compiler.DTYPES, reason="float32 is not in WAVEDIL_PTX_DTYPES")
def test_a_tiled_product_is_mostly_arithmetic():
    """Instructions a multiply-add, of 64 channels in 64: fewer where four neighbours can be read at once."""
    spent = []
    for off in (0, 1):
        engine = Interpreter(EXECUTED)
        with use_engine(engine):
            x, w, y = (
                engine.zeros(rows * 64 + off, "float32").part(off, rows * 64 + off).reshape(1, rows, 64)
                for rows in (256, 64, 256)
            )
            products.rows(y, x, w)
        (work,) = engine.launched.values()
        spent.append(work["instructions"] / (work["flops"] / 2))
    assert spent[0] < min(1.8, spent[1])


# ---- planted faults --------------------------------------------------------------------------------------------------
@pytest.fixture
def planted(monkeypatch):
    """Changes the PTX of all kernels from here on."""

    def plant(change):
        text = compiler.text

        @functools.cache
        def program(kernel, target):
            return ptx.Module(change(text(kernel, target))).kernel()

        monkeypatch.setattr(compiler, "program", program)

    return plant


def convolve(dtype="float32"):
    device.check_parity("conv1d", h.case_named("conv1d", "wavenet-32"), dtype)


@pytest.mark.parametrize("number", [0, 1])
def test_each_barrier_of_the_tiled_products_is_needed(on_device, planted, number):
    def change(text):
        places = [m.span() for m in re.finditer(r"bar\.sync[^;]*;", text)]
        begin, end = places[number] if number < len(places) else (0, 0)
        return text[:begin] + text[end:]

    planted(change)
    with pytest.raises(ptx.Fault) as fault:
        convolve()
    assert fault.value.kind in ("race", "unwritten")


def test_shared_memory_that_nobody_writes_is_caught(on_device, planted):
    planted(lambda text: re.sub(r"st\.shared[^;]*;", "", text))
    with pytest.raises(ptx.Fault, match="^unwritten: "):
        convolve()


def test_an_index_one_too_far_is_caught(on_device, planted):
    planted(lambda text: re.sub(r"(st\.global\.f32 \t\[%rd\d+)\]", r"\1+4]", text))
    with pytest.raises(ptx.Fault, match="^bounds: "):
        convolve()


def test_a_wrong_sign_is_caught(on_device, planted):
    planted(lambda text: re.sub(r"fma(.*), (%f\d+);", r"neg.f32 \2, \2; fma\1, \2;", text))
    with pytest.raises(AssertionError, match="is off by"):
        convolve()


# ---- the whole set ---------------------------------------------------------------------------------------------------
def test_every_kernel_was_executed(request):
    ran = {item.originalname for item in request.session.items if item.path == request.path}
    if not ran.issuperset(cuda_suite.__all__):
        pytest.skip("not all cases were run")
    known = {name for kernels in KERNELS.values() for name in kernels}
    launched = set(INTERPRETER.launched)
    assert known <= launched, "listed, but in no test"
    # A sampler is compiled for the widths of its network, and listed for two of them.
    unlisted = {n for n in launched - known if n.rpartition(".")[2] in compiler.DTYPES and n[:8] != "sampler."}
    assert not unlisted, "launched, but not listed"


def test_table():
    """Written where WAVEDIL_CUDA_TABLE says, without a suffix, once all kernels have passed."""
    path = os.environ.get("WAVEDIL_CUDA_TABLE")
    if not path:
        pytest.skip("WAVEDIL_CUDA_TABLE is not set")
    assert len(TABLE) == len(compiler.TARGETS) * sum(map(len, KERNELS.values()))
    Path(path).with_suffix(".json").write_text(json.dumps(TABLE, indent=1) + "\n")
    Path(path).with_suffix(".md").write_text(compiler.table(TABLE))
