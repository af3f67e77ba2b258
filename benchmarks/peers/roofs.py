"""Measures what the arithmetic units and the memory of this machine can do. Needs Numba, and nothing of wavedil."""

import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from benchmarks.peers import worker

SECONDS = 0.05  # of one measurement
ACCUMULATORS = (8, 10, 12)


def vector_lanes():
    """Vector widths of float32 worth trying on this processor."""
    features = {name for name, present in llvm.get_host_cpu_features().items() if present}
    lanes = [4]
    lanes += [8] if "avx" in features else []
    lanes += [16] if "avx512f" in features else []
    return lanes


def fma_loop(lanes, accumulators):
    """nogil f(a, b, n): n times acc = acc * a + b on each of the accumulators; returns a sum, so that all is needed."""
    scalar = ir.FloatType()
    vector = ir.VectorType(scalar, lanes)

    @intrinsic
    def loop(_ctx, a, b, n):
        def codegen(_context, builder, _signature, arguments):
            a, b, n = arguments
            name = f"llvm.fmuladd.v{lanes}f32"
            fmuladd = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector] * 3), name)

            def splat(value):
                first = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
                zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
                return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), zeros)

            a, b = splat(a), splat(b)
            entry, body, done = builder.block, builder.append_basic_block(), builder.append_basic_block()
            builder.branch(body)
            builder.position_at_end(body)
            i = builder.phi(n.type)
            i.add_incoming(ir.Constant(n.type, 0), entry)
            sums = [builder.phi(vector) for _ in range(accumulators)]
            for k, phi in enumerate(sums):
                phi.add_incoming(ir.Constant(vector, [float(k)] * lanes), entry)
            results = [builder.call(fmuladd, [phi, a, b]) for phi in sums]
            following = builder.add(i, ir.Constant(n.type, 1))
            i.add_incoming(following, body)
            for phi, result in zip(sums, results, strict=True):
                phi.add_incoming(result, body)
            builder.cbranch(builder.icmp_signed("<", following, n), body, done)
            builder.position_at_end(done)
            total = results[0]
            for result in results[1:]:
                total = builder.fadd(total, result)
            out = builder.extract_element(total, ir.Constant(ir.IntType(32), 0))
            for lane in range(1, lanes):
                out = builder.fadd(out, builder.extract_element(total, ir.Constant(ir.IntType(32), lane)))
            return out

        return types.float32(types.float32, types.float32, types.int64), codegen

    @njit("float32(float32, float32, int64)", nogil=True)
    def run(a, b, n):
        return loop(a, b, n)

    return run


@njit("void(float32[::1], float32[::1], float32[::1])", nogil=True, fastmath=True)
def triad(out, x, y):
    for i in range(out.size):
        out[i] = x[i] + np.float32(3) * y[i]


def together(pool, function, arguments):
    """Seconds until all calls, one a thread, are done."""
    begin = time.perf_counter()
    for future in [pool.submit(function, *a) for a in arguments]:
        future.result()
    return time.perf_counter() - begin


def best(rates):
    """The best median over the ways, and the best single figure of that way."""
    how = max(rates, key=lambda way: statistics.median(rates[way]))
    return {"best": max(rates[how]), "median": statistics.median(rates[how]), "how": how, "all": rates}


class Roofs(worker.Peer):
    def do_measure(self, threads, rounds, array_bytes):
        counts = sorted({1, threads})
        found = {"gflops": {}, "gbytes": {}, "array_bytes": array_bytes}
        loops = {(lanes, k): fma_loop(lanes, k) for lanes in vector_lanes() for k in ACCUMULATORS}
        iterations = {}
        for (lanes, k), loop in loops.items():
            loop(0.5, 1.0, 1000)
            seconds = worker.time_calls(lambda f=loop: f(0.5, 1.0, 100_000), 3)
            iterations[lanes, k] = int(100_000 * SECONDS / min(seconds))
        arrays = [np.ones(array_bytes // 4, np.float32) for _ in range(3)]
        for count in counts:
            with ThreadPoolExecutor(count) as pool:
                together(pool, time.sleep, [(0.01,)] * count)  # the threads exist from here on
                rates = {}
                for _ in range(rounds):
                    for (lanes, k), loop in loops.items():
                        n = iterations[lanes, k]
                        seconds = together(pool, loop, [(0.5, 1.0, n)] * count)
                        way = f"{lanes} lanes x {k} accumulators"
                        rates.setdefault(way, []).append(2 * lanes * k * n * count / seconds / 1e9)
                found["gflops"][str(count)] = best(rates)
                pieces = list(zip(*(np.array_split(a, count) for a in arrays), strict=True))
                rates = {}
                for _ in range(rounds):
                    seconds = together(pool, np.copyto, [piece[:2] for piece in pieces])
                    rates.setdefault("copy", []).append(2 * array_bytes / seconds / 1e9)
                    seconds = together(pool, triad, pieces)
                    rates.setdefault("triad", []).append(3 * array_bytes / seconds / 1e9)
                found["gbytes"][str(count)] = best(rates)
        return found


PEER = Roofs
