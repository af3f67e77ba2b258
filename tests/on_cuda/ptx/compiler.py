"""Kernels as a GPU would get them: compiled to PTX by numba-cuda, and by ptxas to a machine's code. Needs no GPU."""

import functools
import os
import re
import shutil
import subprocess
import tempfile
from importlib import metadata, util
from pathlib import Path
from typing import NamedTuple

import ptx

TARGETS = tuple(os.environ.get("WAVEDIL_PTX_TARGETS", "8.0 9.0").split())
DTYPES = tuple(os.environ.get("WAVEDIL_PTX_DTYPES", "float32 float64").split())


class Resources(NamedTuple):
    """What ptxas says of a kernel; bytes but for registers (of a thread)."""

    registers: int
    shared: int
    stack: int
    spills: int


class Chip(NamedTuple):
    """Limits of a multiprocessor (CUDA C++ Programming Guide, table of technical specifications)."""

    registers: int
    warps: int
    blocks: int
    shared: int


CHIPS = {"8.0": Chip(65536, 64, 32, 164 * 1024), "9.0": Chip(65536, 64, 32, 228 * 1024)}


def missing():
    """Why nothing can be compiled here; None if it can."""
    try:
        metadata.version("numba-cuda")
    except metadata.PackageNotFoundError:
        return "numba-cuda is not installed: make test-ptx"
    if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
        return "the CUDA simulator compiles nothing"
    return None if ptxas() else "there is no ptxas: make test-ptx"


@functools.cache
def ptxas():
    """The program: of the toolkit's wheel, or else on the path."""
    spec = util.find_spec("nvidia")
    for folder in spec.submodule_search_locations if spec else ():
        found = [p for p in Path(folder).glob("*/bin/ptxas") if os.access(p, os.X_OK)]
        if found:
            return str(found[0])
    return shutil.which("ptxas")


class _Device:
    """Stands in for the device that numba-cuda asks for when a kernel calls a device function."""

    compute_capability = None


@functools.cache
def text(kernel, target):
    """PTX of a kernel of wavedil for a compute capability such as ``"9.0"``."""
    from numba import cuda
    from numba.cuda import dispatcher

    _Device.compute_capability = tuple(map(int, target.split(".")))
    dispatcher.get_current_device = lambda: _Device
    return cuda.compile_ptx(kernel.function, kernel.signature, cc=_Device.compute_capability)[0]


@functools.cache
def program(kernel, target):
    """The same as the interpreter runs it."""
    return ptx.Module(text(kernel, target)).kernel()


@functools.cache
def resources(kernel, target):
    """What ptxas makes of it."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(text(kernel, target))
        chip = "sm_" + target.replace(".", "")
        done = subprocess.run(
            [ptxas(), "-v", f"-arch={chip}", source, "-o", Path(folder) / "kernel.cubin"],
            capture_output=True, text=True,
        )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"ptxas: {kernel.name}: {done.stderr}")
    said = done.stdout + done.stderr

    def number(pattern):
        return sum(map(int, re.findall(pattern, said)))

    return Resources(
        registers=number(r"Used (\d+) registers"),
        shared=number(r"(\d+) bytes smem"),
        stack=number(r"(\d+) bytes stack frame"),
        spills=number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads"),
    )


def occupancy(used, threads, dynamic, target):
    """Share of a multiprocessor's warps that can be resident at once, and what keeps it from being more."""
    chip, warps = CHIPS[target], -(-threads // 32)
    registers = -(-used.registers * 32 // 256) * 256 * warps  # allocated in units of 256 a warp
    shared = -(-(used.shared + dynamic + 1024) // 128) * 128  # 1 KiB of each block is the system's
    limits = {
        "warps": chip.warps // warps,
        "blocks": chip.blocks,
        "registers": chip.registers // registers,
        "shared memory": chip.shared // shared,
    }
    least = min(limits, key=limits.get)
    return limits[least] * warps / chip.warps, least


def inner_loop(kernel, target):
    """FLOPs per byte read from shared memory in the innermost loop of a tiled product; None for other kernels."""
    if kernel.tile is None:
        return None
    blocks = [b.work for b in ptx.translate.translate(program(kernel, target)) if b.work["shared_read"]]
    work = max(blocks, key=lambda w: w["flops"])
    return work["flops"] / work["shared_read"]


def row(kernel, dtype, target):
    """What the table says of a kernel."""
    used = resources(kernel, target)
    share, limit = occupancy(used, kernel.threads, kernel.dynamic_shared, target)
    return {
        "kernel": kernel.name, "about": kernel.about, "dtype": dtype, "target": target, "threads": kernel.threads,
        "tile": kernel.tile and list(kernel.tile), "registers": used.registers,
        "shared_bytes": used.shared + kernel.dynamic_shared, "spill_bytes": used.spills, "stack_bytes": used.stack,
        "occupancy": share, "limited_by": limit, "flops_per_shared_byte": inner_loop(kernel, target),
    }  # fmt: skip


def all_kernels(dtype):
    """Every kernel of every family that is on CUDA, by name."""
    import importlib

    from wavedil import ops

    found = {}
    for family in ops.FAMILIES:
        for kernel in importlib.import_module(f"wavedil.ops.{family}.cuda").kernels(dtype):
            found.setdefault(kernel.name, kernel)
    return found


def table(rows):
    """The kernels' resources as a page that a person can read."""
    lines = [
        "# CUDA kernels: what ptxas makes of them",
        "",
        "Compiled by numba-cuda to PTX and by ptxas to machine code; nothing here was run on a GPU. Occupancy is the",
        "share of a multiprocessor's warps that can be resident, from registers, shared memory and threads. FLOPs per",
        "shared byte are counted in the PTX of the innermost loop: arithmetic over bytes that threads read from shared",
        "memory there. Written by `make test-ptx`.",
        "",
        "| kernel | chip | threads | registers | shared, bytes | spills | stack | occupancy | limited by | FLOP/byte |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in sorted(rows, key=lambda r: (r["dtype"], r["kernel"], r["target"])):
        flops = "" if r["flops_per_shared_byte"] is None else f"{r['flops_per_shared_byte']:.2f}"
        lines.append(
            f"| {r['kernel']} | {r['target']} | {r['threads']} | {r['registers']} | {r['shared_bytes']} | "
            f"{r['spill_bytes']} | {r['stack_bytes']} | {r['occupancy']:.0%} | {r['limited_by']} | {flops} |"
        )
    return "\n".join(lines) + "\n"
