"""Runs the PTX of CUDA kernels on NumPy, without a GPU, and watches what they do to memory.

``launch(Module(text).kernel(), grid, block, arguments)`` executes one kernel, all threads as one vector, and raises
`Fault` on accesses outside of an array, misaligned accesses, shared memory that is read before it was written, two
threads (of one block or of two) that touch a word without a barrier between them while one of them writes, and
barriers that not all threads of a block reach.

`parse` reads the text, `translate` turns each basic block into a Python function of NumPy statements, `numerics` has
the arithmetic that NumPy lacks, `memory` the address space and its checks, `machine` the threads. Not covered: ptxas
and the driver, weak memory, warps (shuffles, votes, syncwarp), asynchronous copies, tensor cores, textures, calls.
"""

from ptx import translate
from ptx.machine import Pointer, launch
from ptx.memory import Fault
from ptx.parse import Module, UnsupportedError

__all__ = ["Fault", "Module", "Pointer", "UnsupportedError", "launch", "translate"]
