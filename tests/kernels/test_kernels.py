"""Products on panels, threads, workspaces, random numbers, and how kernels are compiled and cached."""

import itertools
import multiprocessing
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from numba import njit

import wavedil
from wavedil.errors import ConfigError
from wavedil.kernels import pool
from wavedil.kernels.cpu import host, jit, panels, products, random
from wavedil.kernels.cpu.panels import address, panel_view, repeated, strided_view
from wavedil.kernels.cpu.products import left_taps
from wavedil.kernels.workspace import Workspace, aligned_zeros

DTYPES = ("float32", "float64")
by_dtype = pytest.mark.parametrize("dtype", DTYPES)
EXACT = {"float32": 1e-5, "float64": 1e-13}  # of a product, relative to its largest element
FAST = {"float32": 4e-6, "float64": 1e-13}  # with tanh and sigmoid in it


# ---- panels ----------------------------------------------------------------------------------------------------------
def to_panels(matrix, rows=None, fill=0):
    """P[p, r, w] = M[r, p * W + w], with some more rows."""
    w = host.width(matrix.dtype)
    count = -(-matrix.shape[1] // w)
    wide = np.full((rows or len(matrix), count * w), fill, matrix.dtype)
    wide[: matrix.shape[0], : matrix.shape[1]] = matrix
    return np.ascontiguousarray(wide.reshape(len(wide), count, w).transpose(1, 0, 2))


def from_panels(array):
    return array.transpose(1, 0, 2).reshape(array.shape[1], -1)


@by_dtype
@pytest.mark.parametrize("columns", [1, 3, 7, 8, 16, 17, 30, 64, 256, 300])
def test_packing(columns, dtype):
    rng = np.random.default_rng(columns)
    matrix = rng.standard_normal((11, columns)).astype(dtype)
    target = aligned_zeros((panels.panels_of(columns, dtype), 13, host.width(dtype)), dtype)
    panels.pack_rows(matrix, target)
    assert np.array_equal(target, to_panels(matrix, 13)) and target.ctypes.data % 64 == 0
    back = np.empty_like(matrix)
    panels.unpack_rows(target, back)
    assert np.array_equal(back, matrix)

    index = panels.panel_index(np.arange(matrix.size).reshape(matrix.shape), 13, len(target), dtype)
    gathered = np.zeros(target.size, dtype)
    panels.gather(matrix.reshape(-1), index, gathered)
    assert np.array_equal(gathered, target.reshape(-1))
    slabs = np.stack([np.zeros(target.size + 5, dtype)] * 3)
    slabs[:, 5:] = target.reshape(-1) * np.array([[1], [2], [4]], dtype)
    total = np.ones(matrix.size, dtype)
    panels.add_gathered(slabs, 5, panels.inverse_index(index, matrix.size), total)
    assert np.abs(total - (1 + 7 * matrix.reshape(-1))).max() < 1e-5


def test_tiles_and_widths_fit_each_other():
    for dtype in DTYPES:
        assert host.width(dtype) == 2 * host.lanes(dtype) == 2 * host.vector_bytes() // np.dtype(dtype).itemsize
        assert host.width(dtype) % products.STEP == 0
    assert host.tile_rows() % products.UNROLL == 0 and 96 % host.tile_rows() == 0
    assert host.register_bytes() in (host.vector_bytes(), 2 * host.vector_bytes())
    assert [panels.whole_tiles(n * host.tile_rows() + 1) // host.tile_rows() for n in range(3)] == [1, 2, 3]


# ---- products --------------------------------------------------------------------------------------------------------
def call_with(kind, extras):
    """A kernel that calls one kind of product on panel matrices with ``held`` rows."""
    if extras == "target, start":

        @njit
        def call(a, a_at, a_rows, a_panels, tap, taps, b, rows, count, held, target, start, pointer):
            left = left_taps(panel_view(a, a_at, a_rows), a_panels, tap, taps)
            kind(left, address(b, 0), rows, count, panel_view(target, 0, held), panel_view(start, 0, held))

    elif extras == "target, start, bias":

        @njit
        def call(a, a_at, a_rows, a_panels, tap, taps, b, rows, count, held, target, start, pointer):
            left = left_taps(panel_view(a, a_at, a_rows), a_panels, tap, taps)
            bias = repeated(address(pointer, 0))
            kind(left, address(b, 0), rows, count, panel_view(target, 0, held), panel_view(start, 0, held), bias)

    elif extras == "target, start, sums":

        @njit
        def call(a, a_at, a_rows, a_panels, tap, taps, b, rows, count, held, target, start, pointer):
            left = left_taps(panel_view(a, a_at, a_rows), a_panels, tap, taps)
            sums = address(pointer, 0)
            kind(left, address(b, 0), rows, count, panel_view(target, 0, held), panel_view(start, 0, held), sums)

    elif extras == "gates, start, z":

        @njit
        def call(a, a_at, a_rows, a_panels, tap, taps, b, rows, count, held, target, start, pointer):
            left = left_taps(panel_view(a, a_at, a_rows), a_panels, tap, taps)
            z = panel_view(pointer, 0, held)
            kind(left, address(b, 0), rows, count, panel_view(target, 0, held), panel_view(start, 0, held), z)

    return call


CALLS = {
    "row_product": "target, start",
    "row_product_biased": "target, start, bias",
    "row_product_relu": "target, start",
    "row_product_sum": "target, start, sums",
    "row_product_mask": "target, start, sums",
    "row_product_gate": "gates, start, z",
    "row_product_gate_backward": "target, start, sums",
    "few_row_product": "target, start",
    "few_row_product_biased": "target, start, bias",
    "few_row_product_relu": "target, start",
    "few_row_product_gate": "gates, start, z",
}
_compiled = {}


def run(name, *args):
    if name not in _compiled:
        _compiled[name] = call_with(getattr(products, name), CALLS[name])
    _compiled[name](*args)


def problems(dtype, few=False):
    """(rng, rows, panels of the left operand, panels of the target, taps, rows from tap to tap)"""
    tile = host.tile_rows()
    rows = (1, 2, 3, 4, 5, tile, tile + 1, 2 * tile + 5) if few else (tile, 2 * tile, 96)
    shapes = [(1, 1, 1, 0), (2, 3, 1, 0), (1, 2, 2, 1), (3, 1, 3, 5), (2, 5, 5, 2), (1, 1, 2, -3), (3, 2, 4, -1)]
    for k, (r, shape) in enumerate(itertools.product(rows, shapes)):
        yield np.random.default_rng([k, len(dtype)]), r, *shape


def operands(rng, dtype, rows, inner, outer, taps, tap):
    """A left operand of random numbers as panels, where in it row 0 lies, the weights, and their product."""
    w = host.width(dtype)
    before, after = max(0, -tap * (taps - 1)), max(0, tap * (taps - 1))
    a = rng.standard_normal((before + rows + after, inner * w)).astype(dtype)
    b = (rng.standard_normal((taps, inner * w, outer * w)) / (taps * inner * w) ** 0.5).astype(dtype)
    product = sum(
        a[before + k * tap : before + k * tap + rows].astype("float64") @ b[k].astype("float64") for k in range(taps)
    )
    left = (to_panels(a).reshape(-1), before * w, len(a), inner, tap * w, taps)
    return a, before, left, to_panels(b.reshape(-1, outer * w)).reshape(-1), product


def close(got, wanted, tolerance, what=""):
    assert np.isfinite(got).all()
    error = np.abs(got - wanted).max() / np.abs(wanted).max()
    assert error <= tolerance, f"{what}: off by {error:.2e}"


def untouched(array, rows, value=-7):
    return (array[:, rows:] == value).all()


ROW_KINDS = [n for n in CALLS if "gate" not in n]


@by_dtype
@pytest.mark.parametrize("name", ROW_KINDS)
def test_row_products(name, dtype):
    few = name.startswith("few")
    for rng, rows, inner, outer, taps, tap in problems(dtype, few):
        w, held = host.width(dtype), rows + 5
        _, _, left, b, product = operands(rng, dtype, rows, inner, outer, taps, tap)
        start = rng.standard_normal((rows, outer * w)).astype(dtype)
        extra = rng.standard_normal(outer * w).astype(dtype)
        target = to_panels(np.full((held, outer * w), -7, dtype))
        pointer = extra.copy()
        run(name, *left, b, rows, outer, held, target.reshape(-1), to_panels(start, held).reshape(-1), pointer)
        wanted, sums = product + start, extra
        if "biased" in name:
            wanted = wanted + extra
        elif "relu" in name:
            wanted = np.maximum(wanted, 0)
        elif "mask" in name:
            wanted = product * (start > 0)
        if "sum" in name or "mask" in name:
            sums = extra + wanted.sum(axis=0)
        got = from_panels(target)
        what = f"{rows} rows, panels {inner} x {outer}, {taps} taps {tap} apart"
        close(got[:rows], wanted, EXACT[dtype], what)
        close(pointer, sums, EXACT[dtype], what)
        assert untouched(target, rows), what


@by_dtype
@pytest.mark.parametrize("name", ["row_product_gate", "few_row_product_gate"])
def test_gate_products(name, dtype):
    for rng, rows, inner, outer, taps, tap in problems(dtype, name.startswith("few")):
        w, lanes, held = host.width(dtype), host.lanes(dtype), rows + 5
        _, _, left, b, product = operands(rng, dtype, rows, inner, 2 * outer, taps, tap)
        start = rng.standard_normal((rows, 2 * outer * w)).astype(dtype)
        gates, z = (to_panels(np.full((held, n * w), -7, dtype)) for n in (2 * outer, outer))
        given = to_panels(start, held).reshape(-1)
        run(name, *left, b, rows, outer, held, gates.reshape(-1), given, z.reshape(-1))
        pre = (product + start).reshape(rows, 2 * outer, 2, lanes)  # a vector of a, then one of g
        t, s = np.tanh(pre[:, :, 0]), 1 / (1 + np.exp(-pre[:, :, 1]))
        got = from_panels(gates)[:rows].reshape(rows, 2 * outer, 2, lanes)
        close(got[:, :, 0], t, FAST[dtype])
        close(got[:, :, 1], s, FAST[dtype])
        close(from_panels(z)[:rows], (t * s).reshape(rows, -1), FAST[dtype])
        assert untouched(gates, rows) and untouched(z, rows)
        # The gates may start from what is in them.
        again = to_panels(start, held)
        run(name, *left, b, rows, outer, held, again.reshape(-1), again.reshape(-1), z.reshape(-1))
        assert again[:, :rows].tobytes() == gates[:, :rows].tobytes()


@by_dtype
def test_gate_backward_product(dtype):
    for rng, rows, inner, outer, taps, tap in problems(dtype):
        w, lanes, held = host.width(dtype), host.lanes(dtype), rows + 5
        _, _, left, b, dz = operands(rng, dtype, rows, inner, outer, taps, tap)
        t = np.tanh(rng.standard_normal((rows, 2 * outer, lanes))).astype(dtype)
        s = rng.uniform(size=t.shape).astype(dtype)
        gates = to_panels(np.full((held, 2 * outer * w), -7, dtype))
        gates[:, :rows] = to_panels(np.stack([t, s], axis=2).reshape(rows, -1))
        z = to_panels(np.full((held, outer * w), -7, dtype))
        sums = rng.standard_normal(2 * outer * w).astype(dtype)
        before = sums.copy()
        run("row_product_gate_backward", *left, b, rows, outer, held, gates.reshape(-1), z.reshape(-1), sums)
        dz, t, s = dz.reshape(t.shape), t.astype("float64"), s.astype("float64")
        wanted = np.stack([dz * s * (1 - t * t), dz * t * s * (1 - s)], axis=2).reshape(rows, -1)
        close(from_panels(gates)[:rows], wanted, EXACT[dtype])
        close(from_panels(z)[:rows], (t * s).reshape(rows, -1), EXACT[dtype])
        close(sums, before + wanted.sum(axis=0), EXACT[dtype])
        assert untouched(gates, rows) and untouched(z, rows)


@njit
def call_column(a, a_at, a_rows, a_panels, tap, taps, b, b_rows, rows, count, target):
    left = left_taps(panel_view(a, a_at, a_rows), a_panels, tap, taps)
    products.column_product(left, panel_view(b, 0, b_rows), rows, count, address(target, 0))


@by_dtype
def test_column_product(dtype):
    w = host.width(dtype)
    for rng, rows, inner, outer, taps, tap in problems(dtype):
        a, before, left, _, _ = operands(rng, dtype, rows, inner, outer, taps, tap)
        right = rng.standard_normal((rows, outer * w)).astype(dtype)
        start = rng.standard_normal((outer, taps * inner * w + 1, w)).astype(dtype)[:, :-1]
        target = np.concatenate([start.reshape(-1), np.full(w, -7, dtype)])
        call_column(*left, to_panels(right, rows + 3, fill=np.nan).reshape(-1), rows + 3, rows, outer, target)
        taken = [a[before + k * tap : before + k * tap + rows].astype("float64") for k in range(taps)]
        wanted = np.concatenate([x.T @ right for x in taken])
        got = target[:-w].reshape(start.shape)
        close(from_panels(got), from_panels(start) + wanted, EXACT[dtype], f"{rows} {inner} {outer} {taps} {tap}")
        assert (target[-w:] == -7).all()


@by_dtype
def test_a_row_has_the_same_bits_in_any_number_of_rows(dtype):
    """Tiles for many rows and for single ones take their sums in the same order."""
    w, tile, outer = host.width(dtype), host.tile_rows(), 3
    rng = np.random.default_rng(0)
    for name in ("row_product", "row_product_biased", "row_product_relu", "row_product_gate"):
        many = operands(rng, dtype, 5 * tile, 2, 2 * outer, 2, 4)
        start = rng.standard_normal((5 * tile, 2 * outer * w)).astype(dtype)
        count = outer if "gate" in name else 2 * outer

        def rows_of(name, first, rows, many=many, start=start, count=count):
            data, at, *rest = many[2]
            target, z = np.zeros(2 * outer * rows * w, dtype), np.full(2 * outer * rows * w, 0.5, dtype)
            given = to_panels(start[first : first + rows]).reshape(-1)
            run(name, data, at + first * w, *rest, many[3], rows, count, rows, target, given, z)
            return from_panels(target.reshape(2 * outer, rows, w))

        whole = rows_of(name, 0, 5 * tile)
        for rows in (1, 2, 3, 4, 5, tile, tile + 3):
            for first in (0, 7):
                assert rows_of(f"few_{name}", first, rows).tobytes() == whole[first : first + rows].tobytes()


@njit
def call_start_of_one_row(a, rows, b, target, bias):
    left = left_taps(panel_view(a, 0, rows), 1, 0, 1)
    width = len(target) // rows
    # A row-major target is a view too, and a step of zero repeats a row.
    products.row_product(
        left, address(b, 0), rows, 1, strided_view(address(target, 0), width, 0), repeated(address(bias, 0))
    )


@by_dtype
def test_views_of_row_major_arrays_and_of_one_repeated_row(dtype):
    rows, w = host.tile_rows(), host.width(dtype)
    rng = np.random.default_rng(4)
    a, b, bias = (rng.standard_normal(s).astype(dtype) for s in ((rows, w), (w, w), w))
    target = np.zeros((rows, w), dtype)
    call_start_of_one_row(to_panels(a).reshape(-1), rows, to_panels(b).reshape(-1), target.reshape(-1), bias)
    close(target, a.astype("float64") @ b + bias, EXACT[dtype])


@by_dtype
def test_nan_passes_through_products(dtype):
    rows = host.tile_rows()
    rng = np.random.default_rng(4)
    for name in ("row_product", "row_product_relu", "row_product_gate"):
        _, _, left, b, _ = operands(rng, dtype, rows, 1, 2, 1, 0)
        left[0][0] = np.nan
        target, start, z = (np.zeros(2 * rows * host.width(dtype), dtype) for _ in range(3))
        run(name, *left, b, rows, 1, rows, target, start, z)
        assert np.isnan(from_panels(target.reshape(2, rows, -1))[0, : host.width(dtype)]).all()


# ---- threads ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("threads", [0, -1, True, False, 1.0, "2", 2.5, [1]])
def test_bad_numbers_of_threads(threads):
    with pytest.raises(ConfigError, match="kernels: threads must be (an integer|at least 1), got"):
        pool.check_threads(threads)


def test_numbers_of_threads():
    assert pool.check_threads(None) == pool.cores() >= 1
    assert pool.check_threads(1000) == 1000  # more than there are cores
    assert type(pool.check_threads(np.int64(4))) is int


@pytest.mark.parametrize("threads", [1, 2, 7, 50])
def test_run_calls_every_task_once(threads):
    done = []
    pool.run(((done.append, k) for k in range(40)), threads)
    assert sorted(done) == list(range(40)) and (threads > 1 or done == sorted(done))
    pool.run([], threads)


@pytest.mark.parametrize("threads", [1, 3])
def test_run_raises_what_a_task_raised_after_all_are_done(threads):
    done = []

    def fail(k):
        raise KeyError(k)

    with pytest.raises(KeyError):
        pool.run([(done.append, 0), (fail, 1), (done.append, 2), (done.append, 3)], threads)
    assert sorted(done) == ([0] if threads == 1 else [0, 2, 3])


def test_tasks_run_at_the_same_time():
    barrier = threading.Barrier(3, timeout=30)
    pool.run([(barrier.wait,)] * 3, 3)


def graph(finished, count=5, sleep=0.0):
    """A grid in which (i, j) waits for (i - 1, j) and (i, j - 1), with a check that it did."""

    def work(i, j):
        assert all(n in finished for n in ((i - 1, j), (i, j - 1)) if min(n) >= 0)
        time.sleep(sleep * ((3 * i + 5 * j) % 4))
        finished.append((i, j))

    return {(i, j): ([(i - 1, j), (i, j - 1)], work, i, j) for i in range(count) for j in range(count)}


@pytest.mark.parametrize("threads", [1, 2, 3, 16])
def test_run_graph_keeps_the_order(threads):
    for sleep in (0.0, 0.001):
        finished = []
        tasks = graph(finished, sleep=sleep)
        pool.run_graph(tasks, threads)
        assert sorted(finished) == sorted(tasks)
        assert threads > 1 or finished == list(tasks)
    pool.run_graph({}, threads)


def test_run_graph_goes_side_by_side():
    barrier = threading.Barrier(2, timeout=30)
    pool.run_graph({"a": ([], barrier.wait), "b": ([], barrier.wait), "c": (["a", "b"], barrier.reset)}, 2)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_run_graph_raises_and_starts_nothing_that_waited(threads):
    finished = []
    tasks = graph(finished)

    def fail():
        raise KeyError("here")

    tasks[2, 2] = ([(1, 2), (2, 1)], fail)
    with pytest.raises(KeyError, match="here"):
        pool.run_graph(tasks, threads)
    assert not any(i >= 2 and j >= 2 for i, j in finished)
    pool.run_graph(graph([]), threads)  # the pool is as good as before


def test_many_callers_share_a_pool():
    results, failures = [], []

    def work():
        try:
            for _ in range(20):
                finished = []
                pool.run_graph(graph(finished, 4), 2)
                results.append(len(finished))
        except BaseException as error:  # shown by the main thread
            failures.append(error)

    callers = [threading.Thread(target=work) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not failures and results == [16] * 80


def tiny_step(threads, seed=0, dtype="float32"):
    config = wavedil.WaveNetConfig(
        dilations=[1, 2, 4], residual_channels=5, dilation_channels=6, skip_channels=7, end_channels=8, classes=30
    )
    model = wavedil.WaveNet(config, seed=seed, threads=threads, dtype=dtype)
    codes = np.random.default_rng(seed).integers(0, 30, (3, 50))
    loss, grads = model.loss_and_grads(codes)
    return loss, grads.flat.tobytes()


def child(connection, threads):
    connection.send(tiny_step(threads))
    connection.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_forked_after_threaded_work_can_work():
    wanted = tiny_step(2)
    context = multiprocessing.get_context("fork")
    for threads in (2, 1, 3):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=child, args=(sender, threads))
        process.start()
        sender.close()
        arrived = receiver.poll(60)
        if not arrived:
            process.kill()
        process.join(60)
        assert arrived, "the child hangs"
        assert receiver.recv() == wanted and process.exitcode == 0
    assert tiny_step(2) == wanted


def test_python_threads_call_kernels_at_once():
    wanted = {seed: tiny_step(1, seed) for seed in range(4)}
    results = {}

    def work(seed):
        results[seed] = [tiny_step(2, seed) for _ in range(5)]

    callers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert results == {seed: [result] * 5 for seed, result in wanted.items()}


def test_more_threads_than_cores():
    assert tiny_step(64) == tiny_step(1)


# ---- workspace -------------------------------------------------------------------------------------------------------
def test_workspace_keeps_arrays_and_values():
    workspace = Workspace()
    a = workspace.array("a", (3, 5), "float32")
    assert a.shape == (3, 5) and a.dtype == np.float32 and not a.any() and a.ctypes.data % 64 == 0
    a[...] = 1
    assert workspace.array("a", [3, np.int64(5)], np.float32) is a and (a == 1).all()
    b = workspace.array("b", (3, 5), "float32")
    assert b is not a and not b.any() and workspace.nbytes == 2 * a.nbytes
    for shape, dtype in (((5, 3), "float32"), ((5, 3), "float64"), ((0,), "float64"), ((), "int64")):
        other = workspace.array("a", shape, dtype)
        assert other.shape == shape and other.dtype == dtype and not other.any()
        assert workspace.array("a", shape, dtype) is other
    assert workspace.nbytes == b.nbytes + 8
    assert workspace.held("maps") is None
    value = object()
    assert workspace.hold("maps", value) is value and workspace.held("maps") is value
    assert workspace.nbytes == b.nbytes + 8


# ---- random numbers --------------------------------------------------------------------------------------------------
def split_mix(seed, stream, step):
    """The same in Python's own whole numbers."""
    golden, mask = 0x9E3779B97F4A7C15, 2**64 - 1

    def mix(x):
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        return x ^ (x >> 31)

    x = mix((seed + golden) & mask)
    for number in (stream, step):
        x = mix((x + number * golden + golden) & mask)
    return (x >> 11) * 2.0**-53


KNOWN = [0.13870941014555427, 0.6935121390102292, 0.18383979100743952, 0.9711020828012883]


def test_uniform_is_the_hash_it_claims_to_be():
    assert split_mix(0, 0, 0) == random.uniform(0, 0, 0)
    for where in itertools.product((0, 1, 7, 2**31, 2**63 - 1), (0, 1, 5), (0, 1, 2**40)):
        assert random.uniform(*where) == split_mix(*where)
    # Numbers that must never change: seeds in people's notes depend on them.
    assert [random.uniform(*where) for where in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))] == KNOWN


def test_uniform_numbers_are_even_and_apart():
    n = 4000
    rows = np.array([
        [random.uniform(seed, stream, step) for step in range(n)]
        for seed, stream in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2**40, 0))
    ])  # fmt: skip
    assert rows.min() >= 0 and rows.max() < 1
    counts = np.stack([np.histogram(row, bins=20, range=(0, 1))[0] for row in rows])
    assert (((counts - n / 20) ** 2 / (n / 20)).sum(axis=1) < 50).all()  # chi-square of 19 degrees
    correlation = np.corrcoef(np.concatenate([rows[:, 1:], rows[:, :-1]]))
    assert np.abs(correlation - np.eye(len(correlation))).max() < 0.08  # 5 standard deviations
    assert len(np.unique(rows)) == rows.size


# ---- compiling and caching -------------------------------------------------------------------------------------------
def python(code, *, package=None, timeout=300, **environment):
    """What a Python process prints, with the package of another folder if given."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA_")} | environment
    variables["PYTHONPATH"] = str(package or Path(wavedil.__file__).parents[1])
    variables["PYTHONDONTWRITEBYTECODE"] = "1"  # an edit within a second is seen by Python itself
    done = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", code], env=variables, capture_output=True, text=True,
        timeout=timeout, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.fixture
def package(tmp_path):
    """A copy of the package's kernels, with one kernel that calls another one in another file."""
    source, copy = Path(wavedil.__file__).parent, tmp_path / "wavedil"
    for folder in ("kernels", "kernels/cpu", "ops"):
        (copy / folder).mkdir(parents=True)
        for path in (source / folder).glob("*.py"):
            shutil.copy(path, copy / folder)
    for name in ("__init__.py", "errors.py"):
        shutil.copy(source / name, copy)
    (copy / "kernels" / "cpu" / "inner.py").write_text(INNER.format(1))
    (copy / "ops" / "family").mkdir()
    (copy / "ops" / "family" / "__init__.py").write_text("")
    (copy / "ops" / "family" / "near.py").write_text(NEAR.format(100))
    (copy / "ops" / "family" / "outer.py").write_text(OUTER)
    return copy


INNER = "from wavedil.kernels.cpu.jit import jit\n\n\n@jit\ndef inner(x):\n    return x + {}\n"
NEAR = "from wavedil.kernels.cpu.jit import jit\n\n\n@jit\ndef near(x):\n    return x + {}\n"
OUTER = """
from wavedil.kernels.cpu.inner import inner
from wavedil.kernels.cpu.jit import jit
from wavedil.ops.family.near import near

@jit
def outer(x):
    return inner(x) + near(x)
"""
USE_OUTER = """
from wavedil.ops.family.outer import outer
print(outer(10), sum(outer.stats.cache_hits.values()))
"""


def test_an_edit_to_a_called_kernel_in_another_file_is_seen(package, tmp_path):
    def use():
        value, hits = python(USE_OUTER, package=tmp_path, NUMBA_CACHE_DIR=str(tmp_path / "cache"))
        return int(value), int(hits)

    assert use() == (121, 0)
    assert use() == (121, 1)  # from the cache
    (package / "kernels" / "cpu" / "inner.py").write_text(INNER.format(5))
    assert use() == (125, 0)  # not the stale 121
    (package / "ops" / "family" / "near.py").write_text(NEAR.format(300))
    assert use() == (325, 0)
    for file in (package / "kernels" / "cpu" / "emit.py", package / "kernels" / "pool.py"):
        file.write_text(file.read_text() + "\n# a comment\n")
        assert use() == (325, 0)  # any file of kernels/ and kernels/cpu/ counts


USE_EXP = """
import numpy as np
from wavedil.kernels.cpu import vector
x = np.linspace(-2, 2, 21, dtype=np.float32)
y = np.empty_like(x)
vector.exp(x, y)
print(np.abs(y / np.exp(x) - 1).max() < 1e-6, vector.exp._cache.cache_path)
"""


def test_the_cache_goes_where_it_is_told(tmp_path):
    right, folder = python(USE_EXP, NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    assert right == "True" and list((tmp_path / "cache").rglob("*.nbi")) and folder.startswith(str(tmp_path))


def test_a_cache_folder_that_cannot_be_made(package, tmp_path):
    """Below a regular file not even root can make one. Then kernels are cached elsewhere, or at last not at all."""
    (tmp_path / "file").write_text("")
    below = str(tmp_path / "file" / "cache")
    right, folder = python(USE_EXP, package=tmp_path, NUMBA_CACHE_DIR=below)
    assert right == "True" and folder.startswith(str(package))
    shutil.rmtree(folder)
    Path(folder).write_text("")  # not beside the source either
    right, folder = python(USE_EXP, package=tmp_path, NUMBA_CACHE_DIR=below, HOME=below, XDG_CACHE_HOME=below)
    assert right == "True" and folder == "None" and not list(tmp_path.rglob("*.nbi"))


LINKED = """
import numpy as np
import wavedil as wd
from wavedil.ops import gated_stack
model = wd.WaveNet(wd.WaveNetConfig(dilations=[1, 2, 4]), seed=0)
codes = np.random.default_rng(0).integers(0, 256, (2, 8))
model.loss_and_grads(codes)
error = 0.0
if STREAM:
    state = gated_stack.init_state(model.params, 2, network=model.network, backend="reference")
    expected = gated_stack.step(codes, state)
    error = np.abs(model.logits(codes) - expected).max() / np.abs(expected).max()
print(error)
"""


def test_kernels_that_another_process_has_cached_are_linked_with_new_ones(tmp_path):
    """Code is linked by name: training, from the cache, and streams, compiled now, have inner kernels of their own."""
    python("STREAM = False" + LINKED, NUMBA_CACHE_DIR=str(tmp_path))
    (error,) = python("STREAM = True" + LINKED, NUMBA_CACHE_DIR=str(tmp_path))
    assert float(error) < 1e-5


def test_inner_kernels_that_one_def_makes_need_names():
    def make(number):
        @jit.inner
        def kernel(x):
            return x + number

        return kernel

    make(1)
    with pytest.raises(ValueError, match="each kernel must have a __qualname__ of its own, got .*kernel twice"):
        make(2)


GENERIC = """
import numpy as np
import wavedil
from wavedil.kernels.cpu import host
from wavedil.ops import gated_stack
from wavedil.ops.gated_stack import cases
case = next(c for c in cases.CASES if c.name == "local")
arguments, settings = cases.inputs(case, "float32")
got = gated_stack.loss_and_grads(**arguments, **settings)
wide = {n: a if a.dtype.kind != "f" else a.astype("float64") for n, a in arguments.items() if n != "params"}
wide["params"] = {n: a.astype("float64") for n, a in arguments["params"].items()}
wanted = gated_stack.loss_and_grads(**wide, **settings, backend="reference")
worst = max(np.abs(got.grads[n] - g).max() / (np.abs(g).max() or 1) for n, g in wanted.grads.items())
stored = 0.0
for kind in ("float16", "int8"):
    logits = []
    for backend in ("cpu", "reference"):
        state = gated_stack.init_state(arguments["params"], 3, **settings, storage=kind, backend=backend)
        logits.append(gated_stack.step(arguments["inputs"][:, :-1], state, arguments["condition"]))
    stored = max(stored, np.abs(logits[0] - logits[1]).max() / np.abs(logits[1]).max())
print(host.vector_bytes(), host.tile_rows(), abs(got.loss / wanted.loss - 1), worst, stored, host.converts_halves())
"""


def test_any_cpu_of_the_family_gets_right_results():
    """Code for the oldest CPU that the instruction set has: narrow vectors, no fused multiply-add."""
    width, rows, loss, worst, stored, halves = python(GENERIC, NUMBA_CPU_NAME="generic")
    assert int(width) == 16 and int(rows) in (4, 12)
    assert float(loss) < 2e-5 and float(worst) < 2e-5 and float(stored) < 2e-5
    assert halves == str(platform.machine().lower() in ("aarch64", "arm64"))


@pytest.mark.skipif(host.register_bytes() != 64, reason="this machine has no AVX-512 to go without")
def test_the_tile_of_avx2_is_right_on_a_machine_with_avx512():
    features = "+avx,+avx2,+fma,+sse4.2,+popcnt,+bmi,+bmi2"
    width, rows, loss, worst, stored, _ = python(GENERIC, NUMBA_CPU_NAME="haswell", NUMBA_CPU_FEATURES=features)
    assert int(width) == 32 and int(rows) == 6
    assert float(loss) < 2e-5 and float(worst) < 2e-5 and float(stored) < 2e-5
