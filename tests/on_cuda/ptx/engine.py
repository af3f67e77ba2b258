"""A device for wavedil whose kernels run as compiled PTX on NumPy."""

import numpy as np

from ptx import compiler
from ptx.machine import launch
from wavedil.kernels.cuda.engine import HostEngine


class Interpreter(HostEngine):
    """Use with ``use_engine(Interpreter("9.0"))``.

    Parameters
    ----------
    target : str
        Compute capability that kernels are compiled for.
    most_blocks : int
        Of a grid; small, so that blocks have to go on to further pieces of work.

    Attributes
    ----------
    launched : dict of name -> work
        Work of each kernel over all its launches (`ptx.translate.work`), with the number of launches.
    """

    def __init__(self, target, most_blocks=24):
        super().__init__()
        self.target, self.most_blocks = target, most_blocks
        self.launched = {}

    def allocate(self, count, dtype):
        fresh = super().allocate(count, dtype)
        fresh.view(np.uint8)[...] = 0xFF  # NaN, so that nobody gets away with reading what was never written
        return fresh

    def launch(self, kernel, grid, block, args, shared):
        arguments = {}
        names = kernel.function.__code__.co_varnames
        for name, kind, value in zip(names, kernel.signature, args, strict=False):
            if isinstance(value, np.ndarray):
                if value.dtype.name != kind.dtype.name or value.ndim != 1 or not value.flags.c_contiguous:
                    raise TypeError(f"{kernel.name}: {name} must be {kind}, got {value.dtype}{list(value.shape)}")
                arguments[name] = value
            else:
                arguments[name] = np.dtype(kind.name if kind.name != "bool" else "?").type(value)
        if len(args) != len(kernel.signature):
            raise TypeError(f"{kernel.name} takes {len(kernel.signature)} arguments, got {len(args)}")
        machine = launch(compiler.program(kernel, self.target), grid, block, arguments, dynamic=shared)
        work = self.launched.setdefault(kernel.name, {"launches": 0, "threads": 0})
        for key, value in ({"launches": 1, "threads": machine.threads} | machine.work()).items():
            work[key] = work.get(key, 0) + value
