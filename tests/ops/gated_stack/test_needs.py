"""Gradients that nobody needs: the others keep their bits, and what lies below the needed ones keeps nothing."""

import numpy as np
import pytest
from helpers import stacks as s

from wavedil.errors import ConfigError
from wavedil.kernels.workspace import Workspace
from wavedil.ops import contract, gated_stack
from wavedil.ops.gated_stack import cases
from wavedil.ops.gated_stack.heads import Regression
from wavedil.ops.gated_stack.network import Condition, Network, Samples, Stack


# ---- what nobody needs -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("recompute", [False, True])
@s.named("one-sample", "below-dilation", "kernel-3", "kernel-5", "two-chunks-and-a-row", "global", "local",
         *map(str, s.NETWORKS))  # fmt: skip
def test_needed_gradients_have_the_bits_of_the_full_run(case, recompute):
    """Whatever else is needed, in one workspace, on items side by side (1 thread) and in a pipeline (2, 3)."""
    workspace = Workspace()
    for threads in (1, 2, 3):
        for name, needs in s.needs_of(case).items():
            got = s.run(case, "float32", needs=needs, recompute=recompute, threads=threads, workspace=workspace)
            s.check_needs(got, s.plain(case, "float32"), needs, f"{name}, {threads} threads")
        got = s.run(case, "float32", recompute=recompute, threads=threads, workspace=workspace)
        s.check_bits(got, s.plain(case, "float32"), "all, after the others")


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(("kernel", "condition"), [(2, None), (3, None), (2, "global"), (3, "local")])
def test_a_long_window_above_a_frozen_prefix(kernel, condition, recompute):
    """Inputs of the prefix slide along in buffers that fill up several times, after NaN has been everywhere."""
    network = gated_stack.wavenet(
        (1, 7, 40, 3, 2), kernel_size=kernel, channels=5, gate_channels=3, skip_channels=3, end_channels=3, classes=30,
        condition=Condition(2) if condition else None,
    )  # fmt: skip
    sizes = dict(batch=1, time=2500, weights=False, network=network, condition=condition)
    check_prefixes(contract.Case("long", 3, sizes), recompute, (4, 2, 5))


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("condition", [None, Condition(2), Condition(2, 70), Condition(2, 3, "held", True)])
def test_a_long_window_above_frozen_stacks(condition, recompute):
    """Filters between stacks slide along as well."""
    stacks = (Stack((1, 7), 3, 5, 3, 0), Stack((40, 3), (2, 7), 9, 8, 17), Stack((2, 100), 2, 3, 5, 4))
    network = Network(Samples(2), stacks, Regression(1, kernel_size=7), condition)
    sizes = dict(batch=1, time=2500, weights=True, network=network)
    check_prefixes(contract.Case("long", 3, sizes), recompute, (4, 2, 7, 10, 11), reference=True)


def check_prefixes(case, recompute, lowest, reference=False):
    """From each of these layers on, gradients have the bits of the full run."""
    arguments, settings = cases.inputs(case, "float32")
    layers = [layer.name for layer in settings["network"].layers]
    settings |= {"recompute": recompute}
    wanted = gated_stack.loss_and_grads(**arguments, **settings, threads=1)
    if reference:  # in float64, as nothing but rounding may differ
        wide = s.to_float64(cases.inputs(case, "float64")[0])
        same = gated_stack.loss_and_grads(**wide, network=settings["network"], backend="reference")
        s.check_close(gated_stack.loss_and_grads(**wide, **settings), same, 1e-10)
    workspace = Workspace()
    for first in lowest:
        needs = [n for n in wanted.grads if n.startswith(("head", *(f"{name}." for name in layers[first:])))]
        for threads in (1, 2, 3):
            options = settings | dict(needs=needs, threads=threads, workspace=workspace)
            gated_stack.loss_and_grads(**s.spoiled(arguments), **options)
            got = gated_stack.loss_and_grads(**arguments, **options)
            s.check_needs(got, wanted, needs, f"layers from {first}, {threads} threads")


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@s.named("global", "local", "frames-linear", "frames-held")
def test_into_is_left_alone_where_nobody_needs_it(case, backend):
    fresh = s.run(case, "float64", backend=backend, threads=1)
    needs = ["blocks.1.skip.weight", "head.0.bias", "blocks.1.condition.weight"]
    into = {n: np.full_like(g, 3) for n, g in fresh.grads.items()}
    got = s.run(case, "float64", backend=backend, needs=needs, into=into)
    assert got.grads is into and got.condition is None and got.loss == fresh.loss
    for name, total in into.items():
        assert total.tobytes() == (fresh.grads[name] + 3 if name in needs else np.full_like(total, 3)).tobytes(), name
    part = s.run(case, "float64", backend=backend, needs=[*needs, "condition"], into={n: into[n] for n in needs})
    assert list(part.grads) == needs and part.condition.tobytes() == fresh.condition.tobytes()


@pytest.mark.parametrize("recompute", [False, True])
def test_a_frozen_lower_half_takes_less_memory(recompute):
    widths = dict(channels=16, gate_channels=16, skip_channels=16, end_channels=16)
    network = gated_stack.wavenet((1, 2, 4, 8, 16, 32), **widths, classes=7)
    sizes = dict(batch=1, time=6000, weights=False, network=network)
    arguments, settings = cases.inputs(contract.Case("memory", 0, sizes), "float32")
    held = []
    for first in (0, 3):
        workspace = Workspace()
        upper = ("head", *(f"blocks.{i}." for i in range(first, 6)))
        needs = [n for n in arguments["params"] if n.startswith(upper)] if first else None
        gated_stack.loss_and_grads(**arguments, **settings, needs=needs, recompute=recompute, workspace=workspace)
        held.append(workspace.nbytes)
    assert held[1] < 0.75 * held[0]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(
    ("needs", "message"),
    [
        (["head.0.wieght"], "needs must name parameters, such as 'head.0.weight', got 'head.0.wieght'"),
        (["blocks.3.conv.bias"], "needs must name parameters, such as 'blocks.[0-2].conv.bias', got 'blocks.3.conv"),
        ([0], "needs must name parameters, such as '.*', got 0"),
        (["condition"], "needs must name what there is, got 'condition', and there is no condition"),
        ("head.0.bias", "needs must be a collection of names, got 'head.0.bias'"),
        (7, "needs must be a collection of names, got 7"),
    ],
)
def test_bad_needs(needs, message, backend):
    arguments, settings = cases.inputs(s.case_named("kernel-3"), "float32")
    with pytest.raises(ConfigError, match=f"gated_stack.loss_and_grads: {message}"):
        gated_stack.loss_and_grads(**arguments, **settings, needs=needs, backend=backend)
    with pytest.raises(ConfigError, match="must have an array for every parameter in needs, got none for head.1.bias"):
        gated_stack.loss_and_grads(**arguments, **settings, needs=["head.1.bias"], into={}, backend=backend)


