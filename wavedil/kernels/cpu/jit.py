"""How every CPU kernel is compiled: one decorator, one set of floating-point liberties, one cache.

``FASTMATH`` leaves out ``nnan`` and ``ninf``, so that a diverging training shows, and ``reassoc``, so that the
order of a sum is the one that is written. Kernels release the interpreter lock and never use Numba's own
thread pool (see ``pool``).

Numba's disk cache notices an edit to the file of a kernel, but not one to the file of a kernel that it calls.
Here the stamp of a cached kernel is a hash over ``wavedil/kernels``, ``wavedil/kernels/cpu`` and the kernel's own
folder. If no folder for the cache can be written to, kernels are compiled anew in each process.
"""

import hashlib
from functools import cache
from pathlib import Path

from numba import njit
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder

FASTMATH = {"contract", "nsz", "arcp"}
OPTIONS = {"nogil": True, "fastmath": FASTMATH, "error_model": "numpy", "no_cfunc_wrapper": True}


@cache
def source_stamp(folder: Path) -> bytes:
    """Hash of the Python sources in a folder and of those that its CPU kernels may call."""
    digest = hashlib.sha256()
    here = Path(__file__).parent
    for path in sorted({*here.glob("*.py"), *here.parent.glob("*.py"), *folder.glob("*.py")}):
        if not path.name.startswith("cuda"):  # in the folder of an op
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.digest()


def jit(function):
    """Compile a kernel: ``nogil``, cached on disk by content."""
    dispatcher = njit(**OPTIONS)(function)
    try:
        dispatcher.enable_caching()
        dispatcher._cache._cache_file._source_stamp = source_stamp(Path(function.__code__.co_filename).parent)
    except (RuntimeError, OSError, AttributeError):
        # No folder can be written to (RuntimeError, OSError), or Numba changed its private names
        # (AttributeError): without a cache kernels are slower to start, and never stale.
        dispatcher._cache = _no_cache()
    return dispatcher


class _Part(JITCodeLibrary):
    """Code that is only linked into other libraries: they optimise it and turn it into instructions, not this one.

    Numba would do both for every function on its own, and once more for each that calls it: half of a cold start.
    Without instructions there is nothing to point to, and no environment (of Python objects) to set in it.
    """

    def _optimize_functions(self, module):
        module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self):
        pass

    def _finalize_final_module(self):
        self._finalize_dynamic_globals()
        self._finalized = True

    def get_pointer_to_function(self, name):
        return 0

    @property
    def codegen(self):
        return self

    def set_env(self, name, env):
        pass


class _PartCompiler(CompilerBase):
    """Numba's pipeline, with a `_Part` for the library."""

    def define_pipelines(self):
        self.state.library = _Part(self.state.targetctx.codegen(), self.state.func_id.func_qualname)
        self.state.library.enable_object_caching()
        return [DefaultPassBuilder.define_nopython_pipeline(self.state)]


_closures = {}


def inner(function):
    """Compile a kernel that only other kernels call: there is no way in from Python.

    Its machine code is linked by name, also with what another process has cached. So kernels that one ``def`` makes, by
    what it closes over, need a ``__qualname__`` each: one would be taken for the other.
    """
    if function.__closure__:
        name = f"{function.__module__}.{function.__qualname__}"
        if _closures.setdefault(name, function) is not function:
            raise ValueError(f"inner: each kernel must have a __qualname__ of its own, got {name} twice")
    return njit(no_cpython_wrapper=True, pipeline_class=_PartCompiler, **OPTIONS)(function)


# For ``numba.extending.overload``: a function that types pick is compiled as an inner kernel is.
INNER = OPTIONS | {"pipeline_class": _PartCompiler, "no_cpython_wrapper": True}


def _no_cache():
    from numba.core.caching import NullCache

    return NullCache()
