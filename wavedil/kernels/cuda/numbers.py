"""How CUDA kernels read and write numbers: four neighbours at once, and their types, of which one has 16 bits."""

import numpy as np
from numba import cuda, float32, float64, types

from wavedil.kernels.cuda.launch import SIMULATED

REALS = {"float16": types.float16, "float32": float32, "float64": float64}


def reals(dtype):
    """The types of a number and of an array of them."""
    real = REALS[np.dtype(dtype).name]
    return real, types.Array(real, 1, "C")


if SIMULATED:

    @cuda.jit(device=True)
    def load4(array, at):
        """The elements at, at + 1, at + 2 and at + 3."""
        return array[at], array[at + 1], array[at + 2], array[at + 3]

else:
    from llvmlite import ir
    from numba.cuda.extending import intrinsic

    @intrinsic
    def load4(typing, array, at):
        """The elements at, at + 1, at + 2 and at + 3, whose first must lie on a multiple of four of them."""

        def generate(context, builder, signature, arguments):
            number = context.get_data_type(array.dtype)
            first = builder.gep(context.make_array(array)(context, builder, arguments[0]).data, [arguments[1]])
            place = builder.bitcast(first, ir.VectorType(number, 4).as_pointer())
            vector = builder.load(place, align=min(16, 4 * context.get_abi_sizeof(number)))
            parts = [builder.extract_element(vector, ir.Constant(ir.IntType(32), i)) for i in range(4)]
            return context.make_tuple(builder, signature.return_type, parts)

        return types.UniTuple(array.dtype, 4)(array, at), generate
