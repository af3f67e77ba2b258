"""How far a stack of dilated convolutions sees, by the formula and by looking."""

import doctest
import subprocess
import sys

import numpy as np
import pytest

from wavedil import receptive
from wavedil.errors import ConfigError
from wavedil.ops import conv1d


def measured(dilations, kernel_size):
    """Push one sample through convolutions of ones, and count the rows until its last trace."""
    x = np.zeros((1, 200, 1))
    x[0, 0] = 1
    for dilation in dilations:
        x, _ = conv1d.forward(x, np.ones((kernel_size, 1, 1)), None, dilation=dilation, backend="reference")
    return np.flatnonzero(x[0, :, 0])[-1] + 1


@pytest.mark.parametrize("dilations", [[1], [7], [1, 2, 4, 8], [8, 4, 2, 1], [3, 3, 3], [1, 50]])
@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4])
def test_the_formula_is_what_is_measured(dilations, kernel_size):
    assert receptive.receptive_field(dilations, kernel_size) == measured(dilations, kernel_size)


def test_known_fields():
    assert receptive.receptive_field([2**i for i in range(10)], 2) == 1024
    assert receptive.receptive_field([2**i for i in range(10)] * 2, 2) == 2047
    assert receptive.receptive_field([2**i for i in range(10)] * 3, 3) == 6139
    assert receptive.receptive_field((5,), 1) == 1
    # A temporal convolution network of n levels of two convolutions: 1 + 2 (k - 1) (2**n - 1)
    assert receptive.receptive_field([2**i for i in range(8) for _ in range(2)], 8) == 1 + 2 * 7 * 255


def test_any_sequence_of_whole_numbers():
    for dilations in (np.array([1, 2, 4]), (np.int64(1), 2, 4), range(1, 5)):
        got = receptive.receptive_field(dilations, np.int32(2))
        assert got == 1 + sum(dilations) and type(got) is int
    checked = receptive.check_dilations(np.array([3, 5]), 2)
    assert checked == (3, 5) and all(type(d) is int for d in checked)


@pytest.mark.parametrize(
    ("dilations", "kernel_size", "message"),
    [
        ([], 2, "dilations must name at least one block, got an empty list"),
        (4, 2, "dilations must be a list of whole numbers, got 4"),
        (None, 2, "dilations must be a list of whole numbers, got None"),
        ([1, 0], 2, "dilations must be whole numbers of at least 1, got 0"),
        ([1, -2], 2, "dilations must be whole numbers of at least 1, got -2"),
        ([1, 2.0], 2, "dilations must be whole numbers of at least 1, got 2.0"),
        ([1, True], 2, "dilations must be whole numbers of at least 1, got True"),
        ("12", 2, "dilations must be whole numbers of at least 1, got '1'"),
        ([1], 0, "kernel_size must be whole numbers of at least 1, got 0"),
        ([1], 2.5, "kernel_size must be whole numbers of at least 1, got 2.5"),
        ([1], True, "kernel_size must be whole numbers of at least 1, got True"),
        ([1], "2", "kernel_size must be whole numbers of at least 1, got '2'"),
        ([1], None, "kernel_size must be whole numbers of at least 1, got None"),
    ],
)
def test_bad_input(dilations, kernel_size, message):
    for function in (receptive.receptive_field, receptive.check_dilations):
        with pytest.raises(ConfigError) as caught:
            function(dilations, kernel_size)
        assert message in str(caught.value)


def test_examples_in_the_docstring():
    assert doctest.testmod(receptive).attempted > 0 and doctest.testmod(receptive).failed == 0


def test_it_needs_no_numba():
    code = "import sys, wavedil; wavedil.receptive.receptive_field([1], 2); sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
