"""What does not fit is refused, and the message says what was expected and what came."""

import dataclasses

import numpy as np
import pytest
from helpers import stacks as s

from wavedil.errors import ConfigError, DTypeError, ShapeError
from wavedil.ops import gated_stack
from wavedil.ops.gated_stack import cases
from wavedil.ops.gated_stack.heads import Regression, Softmax
from wavedil.ops.gated_stack.network import Codes, Condition, Network, Samples, Stack

GOOD, SETTINGS = cases.inputs(s.case_named("local"), "float32")
CODES = GOOD["inputs"][:, :-1]
FOUR = gated_stack.wavenet(
    (1, 2, 4, 8), channels=5, gate_channels=7, skip_channels=3, end_channels=9, classes=30, condition=Condition(3)
)
FRAMES = dataclasses.replace(SETTINGS["network"], condition=Condition(3, hop=10))


def params_with(**changes):
    return GOOD["params"] | {name.replace("__", "."): value for name, value in changes.items()}


BAD = [
    (ShapeError, "inputs must be (B, T + 1), got (32,)", dict(inputs=np.zeros(32, int))),
    (ShapeError, "inputs must have at least 2 columns, got (3, 1)", dict(inputs=np.zeros((3, 1), int))),
    (ShapeError, "inputs must be (B, T + 1), got (0, 32)", dict(inputs=np.zeros((0, 32), int))),
    (ShapeError, "inputs must lie in [0, 30), got 30", dict(inputs=np.full((3, 32), 30))),
    (ShapeError, "inputs must lie in [0, 30), got -1", dict(inputs=np.full((3, 32), -1))),
    (DTypeError, "inputs must be an array of integers, got float64", dict(inputs=np.zeros((3, 32)))),
    (DTypeError, "inputs must be an array of integers, got list", dict(inputs=[["a"]])),
    (ShapeError, "sample_weight must be (3, 31), got (3, 32)", dict(sample_weight=s.f32(3, 32))),
    (ShapeError, "sample_weight must be finite, at least 0 and not all 0", dict(sample_weight=0 * s.f32(3, 31))),
    (ShapeError, "sample_weight must be finite, at least 0 and not all 0", dict(sample_weight=-s.f32(3, 31))),
    (ShapeError, "sample_weight must be finite, at least 0 and not all 0", dict(sample_weight=np.nan * s.f32(3, 31))),
    (ShapeError, "sample_weight must be finite, at least 0 and not all 0", dict(sample_weight=np.inf * s.f32(3, 31))),
    (DTypeError, "sample_weight must be numbers, got <U1", dict(sample_weight=np.full((3, 31), "a"))),
    (ShapeError, "condition must be (3, 31, 3), got (3, 30, 3)", dict(condition=s.f32(3, 30, 3))),
    (ShapeError, "condition must be (3, 3), got (3, 4)", dict(condition=s.f32(3, 4))),
    (DTypeError, "condition must be float32 as input.embedding is, got float64", dict(condition=np.ones((3, 31, 3)))),
    (ConfigError, "params must have all that the network has; no blocks.3.conv.weight", dict(network=FOUR)),
    (ConfigError, "params must have all that the network has; no input.embedding", dict(params={})),
    (ConfigError, "network must be a gated_stack.Network, got NoneType", dict(network=None)),
    (ConfigError, "network must have a head, got one without: use forward and backward",
     dict(network=SETTINGS["network"].without_head())),
    (ConfigError, "condition must be None, as the network has none, got (3, 31, 3)",
     dict(network=dataclasses.replace(SETTINGS["network"], condition=None))),
    (ShapeError, "condition must be (B, Cc) or (B, T, Cc), got (3,)", dict(condition=s.f32(3))),
    (ShapeError, "condition must be frames (B, F, Cc), got (3, 3)", dict(network=FRAMES, condition=s.f32(3, 3))),
    (ShapeError, "condition must be (3, 5, 3), got (3, 31, 3)", dict(network=FRAMES)),
    (ShapeError, "targets must be (3, 31), got (3, 30)", dict(inputs=CODES, targets=np.zeros((3, 30), int))),
    (ShapeError, "targets must lie in [0, 30), got 30", dict(inputs=CODES, targets=np.full((3, 31), 30))),
    (DTypeError, "targets must be an array of integers, got float32", dict(inputs=CODES, targets=s.f32(3, 31))),
    (ShapeError, "head.0.bias must be (9,), got (8,)", dict(params=params_with(head__0__bias=s.f32(8)))),
    (ShapeError, "blocks.1.skip.weight must be (7, 3), got (3, 7)",
     dict(params=params_with(blocks__1__skip__weight=s.f32(3, 7)))),
    (DTypeError, "head.0.bias must be float32 as input.embedding is, got float64",
     dict(params=params_with(head__0__bias=np.ones(9)))),
    (ConfigError, "backend must be one of 'reference', 'cpu'", dict(backend="fast")),
    (ConfigError, "threads must be at least 1, got 0", dict(threads=0)),
    (ConfigError, "threads must be at least 1, got -1", dict(threads=-1)),
    (ConfigError, "threads must be an integer, got True", dict(threads=True)),
    (ConfigError, "threads must be an integer, got '2'", dict(threads="2")),
]  # fmt: skip


@pytest.mark.parametrize(("error", "message", "change"), BAD, ids=[m for _, m, _ in BAD])
def test_bad_input(error, message, change):
    for function in (gated_stack.loss, gated_stack.loss_and_grads):
        with pytest.raises(error) as caught:
            function(**GOOD | SETTINGS | change)
        assert message in str(caught.value)
        assert str(caught.value).startswith(f"gated_stack.{function.__name__}: ")


REAL, REAL_SETTINGS = cases.inputs(s.case_named("samples"), "float32")
BAD_REAL = [
    (ConfigError, "targets must be given, as what is fed is not what is predicted, got None", dict(targets=None)),
    (ShapeError, "inputs must be (B, T, 2), got (3, 97)", dict(inputs=s.f32(3, 97))),
    (ShapeError, "inputs must be (B, T, 2), got (3, 0, 2)", dict(inputs=s.f32(3, 0, 2))),
    (DTypeError, "inputs must be an array of floats, got int64", dict(inputs=np.zeros((3, 97, 2), int))),
    (DTypeError, "inputs must be float32 as params is, got float64", dict(inputs=np.ones((3, 97, 2)))),
    (ShapeError, "targets must be (3, 97, 3), got (3, 97, 2)", dict(targets=s.f32(3, 97, 2))),
    (DTypeError, "targets must be float32 as params is, got float64", dict(targets=np.ones((3, 97, 3)))),
]  # fmt: skip


@pytest.mark.parametrize(("error", "message", "change"), BAD_REAL, ids=[m for _, m, _ in BAD_REAL])
def test_bad_real_rows(error, message, change):
    for function in (gated_stack.loss, gated_stack.loss_and_grads):
        with pytest.raises(error) as caught:
            function(**REAL | REAL_SETTINGS | change)
        assert str(caught.value) == f"gated_stack.{function.__name__}: {message}"


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (ConfigError, "into must have an array for every parameter, got none for head.1.bias", {"head.1.bias": None}),
        (ShapeError, r"into\['head.1.bias'\] must be \(30,\), got \(29,\)", {"head.1.bias": s.f32(29)}),
        (DTypeError, r"into\['head.1.bias'\] must be an array of float32, got", {"head.1.bias": np.ones(30)}),
        (ShapeError, r"into\['head.1.bias'\] must be C-contiguous", {"head.1.bias": s.f32(60)[::2]}),
    ],
)
def test_bad_into(error, message, change):
    into = {n: np.zeros_like(p) for n, p in GOOD["params"].items()} | change
    with pytest.raises(error, match="gated_stack.loss_and_grads: " + message):
        gated_stack.loss_and_grads(**GOOD, **SETTINGS, into={n: a for n, a in into.items() if a is not None})


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ShapeError, r"step: inputs must be \(2, T\), got \(3, 4\)",
         lambda state: gated_stack.step(np.zeros((3, 4), int), state)),
        (ShapeError, r"step: inputs must have at least 1 column, got \(2, 0\)",
         lambda state: gated_stack.step(np.zeros((2, 0), int), state)),
        (ShapeError, r"step: inputs must lie in \[0, 30\), got 30",
         lambda state: gated_stack.step(np.full((2, 4), 30), state)),
        (ShapeError, r"step: condition must be \(2, 4, 3\), got \(2, 5, 3\)",
         lambda state: gated_stack.step(np.zeros((2, 4), int), state, s.f32(2, 5, 3))),
        (ShapeError, r"step: out must be \(2, 4, 30\), got \(2, 4, 29\)",
         lambda state: gated_stack.step(np.zeros((2, 4), int), state, out=s.f32(2, 4, 29))),
        (ShapeError, r"sample: first must be \(2,\), got \(3,\)",
         lambda state: gated_stack.sample(np.zeros(3, int), 4, state)),
        (ShapeError, r"sample: first must be \(2,\), got \(\)", lambda state: gated_stack.sample(3, 4, state)),
        (ShapeError, r"sample: first must lie in \[0, 30\), got 30",
         lambda state: gated_stack.sample([3, 30], 4, state)),
        (DTypeError, "sample: first must be an array of integers, got float64",
         lambda state: gated_stack.sample([0.0, 1.0], 4, state)),
        (ShapeError, r"sample: condition must be \(2, 4, 3\), got \(2, 1, 3\)",
         lambda state: gated_stack.sample(np.zeros(2, int), 4, state, s.f32(2, 1, 3))),
        (ConfigError, "sample: count must be at least 0, got -1",
         lambda state: gated_stack.sample(np.zeros(2, int), -1, state)),
        (ConfigError, "sample: seed must be at least 0, got -1",
         lambda state: gated_stack.sample(np.zeros(2, int), 1, state, seed=-1)),
        (ConfigError, "sample: seed must be an integer, got 0.5",
         lambda state: gated_stack.sample(np.zeros(2, int), 1, state, seed=0.5)),
        *((ConfigError, f"sample: temperature must be a finite number of at least 0, got {t!r}",
           lambda state, t=t: gated_stack.sample(np.zeros(2, int), 1, state, temperature=t))
          for t in (-1.0, np.nan, np.inf, "hot", None)),
        *((ConfigError, f"sample: top_k must be {m}, got {k!r}",
           lambda state, k=k: gated_stack.sample(np.zeros(2, int), 1, state, top_k=k))
          for m, k in (("at least 1", 0), ("at least 1", -1), ("an integer", 1.5))),
        *((ConfigError, f"sample: top_p must be a number above 0, up to 1, got {p!r}",
           lambda state, p=p: gated_stack.sample(np.zeros(2, int), 1, state, top_p=p))
          for p in (0, 1.01, -1, np.nan, "all")),
    ],
)  # fmt: skip
def test_bad_input_of_streams(error, message, call, backend):
    state = gated_stack.init_state(GOOD["params"], 2, **SETTINGS, backend=backend)
    with pytest.raises(error, match="gated_stack." + message):
        call(state)
    assert state.time == 0


def test_bad_states():
    for change, message in [
        (dict(batch=0), "batch must be at least 1, got 0"),
        (dict(batch=1.5), "batch must be an integer, got 1.5"),
        (dict(threads=0), "threads must be at least 1, got 0"),
    ]:
        with pytest.raises(ConfigError, match="gated_stack.init_state: " + message):
            gated_stack.init_state(GOOD["params"], **SETTINGS | change)
    network = SETTINGS["network"]
    with pytest.raises(ShapeError, match="condition.weight must be .4, 14., got .3, 14."):
        gated_stack.init_state(GOOD["params"], network=dataclasses.replace(network, condition=Condition(4)))
    state = gated_stack.init_state(GOOD["params"], 2, network=dataclasses.replace(network, condition=None))
    with pytest.raises(ConfigError, match="step: condition must be None, as the network has none, got"):
        gated_stack.step(np.zeros((2, 4), int), state, s.f32(2, 3))


@pytest.mark.parametrize("seed", [2**31, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 2**100])
def test_large_seeds_are_taken_or_refused(seed):
    state = gated_stack.init_state(GOOD["params"], 2, **SETTINGS)
    try:
        got = gated_stack.sample(np.zeros(2, int), 20, state, seed=seed)
    except ConfigError as error:
        assert "seed" in str(error)
        return
    state.reset()
    assert not np.array_equal(gated_stack.sample(np.zeros(2, int), 20, state, seed=0), got)


# ---- networks as values ----------------------------------------------------------------------------------------------
STACK = Stack((1, 2))
BAD_NETWORKS = [
    ("Codes: classes must be at least 1, got 0", lambda: Codes(0)),
    ("Codes: classes must be an integer, got 2.5", lambda: Codes(2.5)),
    ("Samples: channels must be at least 1, got 0", lambda: Samples(0)),
    ("Condition: channels must be at least 1, got 0", lambda: Condition(0)),
    ("Condition: hop must be at least 0, got -1", lambda: Condition(1, -1)),
    ("Condition: interpolation must be one of 'linear', 'held', got 'cubic'", lambda: Condition(1, 2, "cubic")),
    ("dilations must name at least one block", lambda: Stack(())),
    ("each of dilations must be at least 1, got 0", lambda: Stack((1, 0, 4))),
    ("Stack: kernel_sizes must be one for each of the 2 dilations, got 3", lambda: Stack((1, 2), (1, 2, 3))),
    ("Stack: kernel_sizes must be at least 1, got 0", lambda: Stack((1, 2), (2, 0))),
    ("Stack: activation must be one of 'gated', 'identity', .*, got 'glu'", lambda: Stack((1,), activation="glu")),
    ("Stack: alpha must be a .*number, got 'much'", lambda: Stack((1,), activation="elu", alpha="much")),
    ("Stack: channels must be at least 1, got 0", lambda: Stack((1,), channels=0)),
    ("Stack: gate_channels must be at least 1, got 0", lambda: Stack((1,), gate_channels=0)),
    ("Stack: skip_channels must be at least 0, got -1", lambda: Stack((1,), skip_channels=-1)),
    ("Softmax: classes must be at least 1, got 0", lambda: Softmax(0, 1)),
    ("Softmax: end_channels must be at least 1, got 0", lambda: Softmax(2, 0)),
    ("Regression: outputs must be at least 1, got 0", lambda: Regression(0)),
    ("Regression: kernel_size must be at least 1, got 0", lambda: Regression(1, 0, 0)),
    ("Regression: kernel_size must be 1 with end_channels, got 3", lambda: Regression(1, 4, 3)),
    ("Network: input must be Codes or Samples, got int", lambda: Network(256, (STACK,))),
    ("Network: stacks must be Stack, got tuple", lambda: Network(Codes(3), ((1, 2),))),
    ("Network: stacks must be a tuple of Stack, got Stack", lambda: Network(Codes(3), STACK)),
    ("Network: stacks must be a tuple of Stack, got int", lambda: Network(Codes(3), 4)),
    ("Network: stacks must hold at least one, got none", lambda: Network(Codes(3), ())),
    ("Network: head must be Softmax or Regression or Logistics or Gaussian or None, got int",
     lambda: Network(Codes(3), (STACK,), 4)),
    ("Network: condition must be Condition or None, got int", lambda: Network(Codes(3), (STACK,), condition=4)),
]  # fmt: skip


@pytest.mark.parametrize(("message", "make"), BAD_NETWORKS, ids=[m for m, _ in BAD_NETWORKS])
def test_bad_networks(message, make):
    with pytest.raises(ConfigError, match=message):
        make()


def test_networks_are_values():
    """Equal and hashed by what they say; numpy's integers are Python's, and one kernel size is for all blocks."""
    one = Network(Codes(9), [Stack([1, 2], 3, 4, 5, 6)], Softmax(9, 8), Condition(2, 5))
    number = np.int64
    other = Network(
        Codes(np.uint8(9)), (Stack(np.array([1, 2]), (number(3), number(3)), number(4), np.int16(5), number(6)),),
        Softmax(number(9), number(8)), Condition(number(2), number(5)),
    )  # fmt: skip
    assert one == other and hash(one) == hash(other) and len({one, other}) == 1 and repr(one) == repr(other)
    assert one.parameter_shapes == other.parameter_shapes and one != one.without_head()
    assert dataclasses.replace(one, join_bias=True) != one
    assert {type(n) for n in (*other.dilations, other.input.classes, other.hop)} == {int}
    assert Stack((1,), activation="leaky_relu").alpha == 0.01 and Stack((1,)) != Stack((1,), activation="tanh")
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.head = None


@s.by_any
def test_the_receptive_field_is_what_an_output_depends_on(case):
    arguments, settings = cases.inputs(case, "float64")
    field = settings["network"].receptive_field
    assert field == 1 + sum(layer.past for layer in settings["network"].layers)
    inputs, time = arguments["inputs"], case.sizes["time"]
    for back in {0, field - 1, field} & set(range(time)):
        changed = inputs.copy()
        at, network = time - 1 - back, settings["network"]
        changed[:, at] = inputs[:, at] + 1 if network.real else (inputs[:, at] + 1) % network.input.classes
        before, after = (
            s.outputs(arguments | {"inputs": x}, settings, backend="reference")[:, -1] for x in (inputs, changed)
        )
        assert np.array_equal(before, after) == (back == field), back
