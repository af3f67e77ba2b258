"""Gradients of the production kernels against finite differences and the adjoint identity, in float64."""

import numpy as np
import pytest
from helpers import ops as h


@pytest.mark.parametrize(("family", "backend", "case"), h.combinations("gradients"), ids=str)
def test_directional_derivatives(family, backend, case):
    h.check_gradients(family, backend, case)


@pytest.mark.parametrize(("family", "backend", "case"), h.combinations("linear"), ids=str)
def test_adjoint_identity(family, backend, case):
    """<f(a) - f(0), u> = <a, f^T u>, in each input in turn, with the others held."""
    op, (arrays, settings) = h.module(family), h.cases(family).inputs(case, "float64")
    y, saved, dy, grads = h.run(family, case, "float64", backend=backend)
    for name, gradient in h.parts(grads).items():
        without, _ = op.forward(**(arrays | {name: np.zeros_like(arrays[name])}), **settings, backend=backend)
        forwards, backwards = h.inner(y - without, dy), h.inner(arrays[name], gradient)
        scale = np.linalg.norm(y) * np.linalg.norm(dy)
        assert abs(forwards - backwards) <= 1e-13 * scale, f"{family}.{backend}[{case}] {name}: {forwards} {backwards}"
