"""Heads that are densities of a sample, in the simulator: losses at their edges, and draws, against the reference."""

import numpy as np
import pytest
from helpers import device
from helpers import ops as h

from wavedil.ops import gated_stack
from wavedil.ops.gated_stack import Gaussian, Logistics, Network, Samples, Stack

HEADS = [Logistics(1, 2), Logistics(3, 2), Logistics(2, 2, 256), Gaussian(1, 2), Gaussian(3, 2)]
by_head = pytest.mark.parametrize("head", HEADS, ids=str)


def saying(head, outputs, channels=1):
    """A network whose head says the same at every row, and its parameters."""
    network = Network(Samples(channels), (Stack((1,), 2, 2, 2, 2),), head)
    params = {name: np.zeros(shape) for name, shape in network.parameter_shapes.items()}
    params["head.1.bias"][:] = outputs
    return params, network


@by_head
def test_losses_at_the_edges_and_beyond_the_least_scale_equal_the_reference(head):
    for s in (-30.0, -10.5, -4.0, 3.0):
        outputs = np.linspace(-0.5, 0.6, head.outputs)
        outputs[-head.mixtures :] = s
        params, network = saying(head, outputs)
        targets = np.array([[[-1.0, 0.0], [1.0, 0.0], [0.3, 0.2], [np.nan, 0.0], [0.5, -0.1]]])
        given = dict(inputs=np.zeros((1, 5, 1)), sample_weight=np.array([[1, 0.5, 2, 0, 1.0]]), network=network)
        for columns in (1, 2):
            given["targets"] = targets[:, :, :columns].copy()
            wanted = gated_stack.loss_and_grads(params, **given, backend="reference")
            got = gated_stack.loss_and_grads(device.to_device(params), **given)
            assert np.isfinite(got.loss) and got.loss == pytest.approx(wanted.loss, rel=1e-12)
            gradient, slopes = got.grads["head.1.bias"].to_host(), wanted.grads["head.1.bias"]
            h.assert_close(gradient, slopes, 1e-11)
            if s < head.log_scale_min:
                assert not gradient[-head.mixtures :].any()


@pytest.mark.parametrize("lpc", [False, True])
@by_head
def test_draws_equal_the_reference(head, lpc):
    rng = np.random.default_rng(3)
    network = Network(Samples(2 + lpc), (Stack((1, 2), 2, 2, 3, 2),), head)
    params = {name: rng.standard_normal(shape) / 3 for name, shape in network.parameter_shapes.items()}
    params["head.1.bias"][-head.mixtures :] -= 3
    told = {"extra": rng.standard_normal((2, 4, 1))} | ({"lpc": 0.3 * rng.standard_normal((2, 4, 3))} if lpc else {})
    first, drawn = rng.uniform(-1, 1, (2, 2))[:, : 1 + lpc], []
    for given, backend in ((device.to_device(params), None), (params, "reference")):
        state = gated_stack.init_state(given, 2, network=network, backend=backend)
        drawn.append(gated_stack.sample(first, 4, state, **told, seed=5, temperature=0.7))
    assert len(np.unique(drawn[0])) > 4
    h.assert_close(*drawn, 1e-9)
