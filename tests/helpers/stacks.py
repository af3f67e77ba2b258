"""What the suites of gated_stack share: how a case is run, what counts as equal, and finite differences.

The checks raise AssertionError, so that tests of the checks can see them fail.
"""

import functools

import numpy as np
import pytest

from helpers import ops as h
from wavedil.ops import gated_stack
from wavedil.ops.gated_stack import cases, reference

CASES, NETWORKS = cases.CASES, cases.NETWORKS  # WaveNets, and networks of every other kind
by_case = pytest.mark.parametrize("case", CASES, ids=str)
by_network = pytest.mark.parametrize("case", NETWORKS, ids=str)
by_any = pytest.mark.parametrize("case", CASES + NETWORKS, ids=str)
by_dtype = pytest.mark.parametrize("dtype", h.DTYPES)


def case_named(name):
    return next(c for c in CASES + NETWORKS if c.name == name)


def named(*names):
    return pytest.mark.parametrize("case", [case_named(name) for name in names], ids=str)


def f32(*shape):
    return np.ones(shape, "float32")


def to_float64(arguments):
    return h.to_float64(arguments) | {"params": h.to_float64(arguments["params"])}


def spoiled(arguments):
    """The same with NaN for all parameters."""
    return arguments | {"params": {n: np.full_like(p, np.nan) for n, p in arguments["params"].items()}}


def random_params(network, rng, dtype="float32"):
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in network.parameter_shapes.items()}


def last_residual(case):
    """The names of the parameters that reach no output."""
    last = f"blocks.{len(case.sizes['network'].dilations) - 1}.residual."
    return {f"{last}weight", f"{last}bias"}


# ---- loss and gradients ----------------------------------------------------------------------------------------------
def run(case, dtype, **options):
    arguments, settings = cases.inputs(case, dtype)
    return gated_stack.loss_and_grads(**arguments, **settings, **options)


@functools.cache
def plain(case, dtype):
    """One run with one thread, for tests that compare bits."""
    return run(case, dtype, threads=1)


@functools.cache
def expected(case, dtype):
    """The reference in float64, for inputs rounded to ``dtype``."""
    arguments, settings = cases.inputs(case, dtype)
    return gated_stack.loss_and_grads(**to_float64(arguments), **settings, backend="reference")


def gradients(result):
    """Name -> array, with that of the condition."""
    return result.grads | ({} if result.condition is None else {"condition": result.condition})


def check_close(got, wanted, tolerance, what=""):
    assert abs(got.loss - wanted.loss) <= tolerance * abs(wanted.loss), f"{what}: loss {got.loss}, not {wanted.loss}"
    got, wanted = gradients(got), gradients(wanted)
    assert got.keys() == wanted.keys()
    for name, gradient in wanted.items():
        error = h.relative_error(got[name], gradient)
        assert error <= tolerance, f"{what}: {name} is off by {error:.2e}, allowed {tolerance:.0e}"


def check_bits(got, wanted, what=""):
    assert got.loss == wanted.loss, f"{what}: loss"
    for name, gradient in gradients(wanted).items():
        assert gradients(got)[name].tobytes() == gradient.tobytes(), f"{what}: {name}"


# ---- streams ---------------------------------------------------------------------------------------------------------
def fed(arguments):
    """What is fed: of codes that each predict the next, all but the last."""
    return arguments["inputs"] if "targets" in arguments else arguments["inputs"][:, :-1]


def pieces(arguments, settings, sizes):
    """(inputs, condition) of pieces of these sizes."""
    inputs, condition, network, t = fed(arguments), arguments.get("condition"), settings["network"], 0
    for n in sizes:
        yield inputs[:, t : t + n], part(network, condition, t, n)
        t += n
    assert t == inputs.shape[1]


def part(network, condition, t, n):
    """What n rows from t on see of a condition."""
    if condition is None or condition.ndim == 2:
        return condition
    if not network.hop:
        return condition[:, t : t + n]
    last = t + n - 1
    return condition[:, t // network.hop : last // network.hop + 1 + (network.condition.interpolation == "linear")]


def outputs(arguments, settings, *, sizes=None, features=False, **options):
    """What the head puts out after each row, fed to a stream in pieces of these sizes; or the skip sum."""
    inputs, step = fed(arguments), gated_stack.step_features if features else gated_stack.step
    state, out, t = gated_stack.init_state(arguments["params"], len(inputs), **settings, **options), [], 0
    for rows, condition in pieces(arguments, settings, sizes or [inputs.shape[1]]):
        out.append(step(rows, state, condition))
        t += rows.shape[1]
        assert state.time == t
    return np.concatenate(out, axis=1)


@functools.cache
def whole(case, dtype):
    return outputs(*cases.inputs(case, dtype))


@functools.cache
def expected_outputs(case, dtype):
    arguments, settings = cases.inputs(case, dtype)
    return outputs(to_float64(arguments), settings, backend="reference")


# ---- kinks and finite differences ------------------------------------------------------------------------------------
def relu_inputs(arguments, settings):
    """The skip sum and the output of the first layer of a head that has two."""
    _, kept = reference._forward(arguments["params"], fed(arguments), settings["network"], arguments.get("condition"))
    return kept[2:]


def bend_inputs(arguments, settings):
    """Everything whose activation bends at zero: the inputs of ReLUs, and of leaky ones."""
    network = settings["network"]
    _, (_, saved, *relus) = reference._forward(
        arguments["params"], fed(arguments), network, arguments.get("condition")
    )
    found = relus if network.head.end_channels else []
    for layer, (_, kept) in zip(network.layers, saved, strict=True):
        if layer.stack is not None and layer.stack.activation == "leaky_relu":
            found.append(kept[1])
    return found


def clear_of_kinks(case):
    """A WaveNet's inputs in float64, with biases that keep the input of every ReLU at least 1 away from zero."""
    arguments, settings = cases.inputs(case, "float64")
    params = arguments["params"]
    for bias, which in (("blocks.0.skip.bias", 0), ("head.0.bias", 1)):
        x = relu_inputs(arguments, settings)[which]
        open_or_shut = np.arange(params[bias].size) % 3 != 1
        params[bias] += np.where(open_or_shut, 1 - x.min(axis=(0, 1)), -1 - x.max(axis=(0, 1)))
    end = np.maximum(relu_inputs(arguments, settings)[1], 0)
    params["head.1.bias"] -= (end @ params["head.1.weight"]).mean(axis=(0, 1))  # no class is out of the question
    return arguments, settings


def moved(arguments, directions, distance):
    """The arguments with parameters, or the condition, moved along directions."""
    there = dict(arguments, params=dict(arguments["params"]))
    for name, direction in directions.items():
        where = there if name == "condition" else there["params"]
        where[name] = where[name] + distance * direction
    return there


def slope(value, step):
    """A central difference of fourth order of a function of a distance, at zero."""
    return (8 * (value(step) - value(-step)) - (value(2 * step) - value(-2 * step))) / (12 * step)


def check_slopes(case, names=None, tolerance=1e-6):
    """Gradients along a random direction against a central difference of the loss.

    One array at a time, or all of them at once. The difference is of the size of the gradient's norm, by which the
    error is divided. WaveNets are moved clear of kinks; of the others, the step is too short to reach one.
    """
    near = case in NETWORKS
    arguments, settings = cases.inputs(case, "float64") if near else clear_of_kinks(case)
    result = gated_stack.loss_and_grads(**arguments, **settings)
    grads, rng = gradients(result), np.random.default_rng([case.seed, 2])
    apart = [[name] for name in grads] if names is None else [names]
    for together in apart:
        directions = {name: rng.standard_normal(grads[name].shape) for name in together}

        def loss(distance, directions=directions):
            return gated_stack.loss(**moved(arguments, directions, distance), **settings, threads=1)

        norm = np.sqrt(sum((grads[name] ** 2).sum() for name in together))
        error = abs(
            slope(loss, 2e-7 if near else 1e-4) - sum((grads[name] * directions[name]).sum() for name in together)
        )
        error /= norm if norm > 0 else 1.0
        assert error <= tolerance, f"{case} along {', '.join(together)}: off by {error:.2e}, allowed {tolerance:.0e}"


# ---- damage ----------------------------------------------------------------------------------------------------------
def flip_sign(array):
    array *= -1


def flip_one(array):
    """The last one that is not tiny beside the others."""
    array.reshape(-1)[np.flatnonzero(np.abs(array) > 0.01 * np.abs(array).max())[-1]] *= -1


def shift(array):
    """Off by one row."""
    array[...] = np.roll(array, 1, axis=-1 if array.ndim == 1 else -2)


def scattered(array):
    """The same values, in memory with gaps and backwards."""
    wide = np.zeros(tuple(2 * n for n in array.shape), array.dtype)
    view = wide[tuple(slice(None, None, -2) for _ in array.shape)]
    view[...] = array
    return view


# ---- what nobody needs -----------------------------------------------------------------------------------------------
def needs_of(case):
    """Name -> needs: what fine-tuning asks for, and single names."""
    names, network = list(plain(case, "float32").grads), case.sizes["network"]
    layers, blocks = [layer.name for layer in network.layers], len(network.dilations)
    upper = tuple(f"{name}." for name in [*layers[len(layers) // 2 :], "head"])
    chosen = {
        "upper half": [n for n in names if n.startswith(upper)],
        "head": [n for n in names if n.startswith("head")],
        "last layer": ["head.1.weight" if "head.1.weight" in names else "head.weight"],
        "nothing": [],
        "adapters": [n for n in names if n.endswith(("conv.weight", "skip.weight"))],
        "biases": [n for n in names if n.endswith("bias")],
        "all but the first": names[1:],
        "the first": names[:1],
    }
    if network.condition is not None:
        chosen |= {"condition": ["condition"], "condition weights": [n for n in names if "condition" in n]}
    single = (f"blocks.{blocks // 2}.", "head.0", "head.weight", "joins", "input.")
    return chosen | {f"only {n}": [n] for n in names if n.startswith(single) or n.endswith("skip.bias")}


def check_needs(got, wanted, needs, what):
    """Needed gradients have the full run's bits, and there are no others."""
    assert got.loss == wanted.loss and gradients(got).keys() == set(needs), what
    for name in needs:
        assert gradients(got)[name].tobytes() == gradients(wanted)[name].tobytes(), f"{what}: {name}"


# ---- the trunk alone -------------------------------------------------------------------------------------------------
def trunk_inputs(case, dtype):
    """Arguments of forward, without the head, and a gradient of what it returns."""
    arguments, settings = cases.inputs(case, dtype)
    network, inputs = settings["network"].without_head(), fed(arguments)
    params = {n: arguments["params"][n] for n in network.parameter_shapes}
    dskips = np.random.default_rng(8).standard_normal((*inputs.shape[:2], network.feature_channels))
    trunk = dict(params=params, inputs=inputs, network=network)
    if "condition" in arguments:
        trunk["condition"] = arguments["condition"]
    return trunk, dskips.astype(dtype)


def trunk_parts(skips, grads):
    return grads.params | {"skips": skips} | ({} if grads.condition is None else {"condition": grads.condition})


def run_trunk(case, dtype, *, needs=None, **options):
    """Name -> array: the gradients, and the skips."""
    arguments, dskips = trunk_inputs(case, dtype)
    skips, saved = gated_stack.forward(**arguments, needs=needs, **options)
    return trunk_parts(skips, gated_stack.backward(dskips, saved, threads=options.get("threads")))


@functools.cache
def plain_trunk(case, dtype):
    return run_trunk(case, dtype, threads=1)


def check_trunk(got, wanted, tolerance):
    assert got.keys() == wanted.keys()
    for name, array in wanted.items():
        error = h.relative_error(got[name], array)
        assert error <= tolerance, f"{name} is off by {error:.2e}, allowed {tolerance:.0e}"


def check_trunk_bits(got, wanted, names=None):
    for name in wanted if names is None else names:
        assert got[name].tobytes() == wanted[name].tobytes(), name


def check_trunk_slopes(case, names, tolerance=1e-6):
    """Gradients of <skips, dskips> against a central difference, along a direction of each array."""
    arguments, dskips = trunk_inputs(case, "float64")
    grads, rng = run_trunk(case, "float64"), np.random.default_rng([case.seed, 3])
    for name in [n for n in grads if n != "skips"] if names is None else names:
        direction = rng.standard_normal(grads[name].shape)

        def value(distance, name=name, direction=direction):
            there = moved(arguments, {name: direction}, distance)
            return (gated_stack.forward(**there, needs=(), threads=1)[0] * dskips).sum()

        norm = np.sqrt((grads[name] ** 2).sum()) or 1.0
        error = abs(slope(value, 2e-7 if case in NETWORKS else 1e-3) - (grads[name] * direction).sum()) / norm
        assert error <= tolerance, f"{case} along {name}: off by {error:.2e}, allowed {tolerance:.0e}"
