"""Gradients against finite differences of the loss, in float64."""

import pytest
from helpers import stacks as s


@s.named("one-sample", "single-channels", "below-dilation", "kernel-3", "kernel-5", "one-chunk-and-a-row",
         "two-chunks-and-a-row", "global", "global-one-sample", "local", "local-long")  # fmt: skip
def test_slopes(case):
    s.check_slopes(case)


@s.by_network
def test_slopes_of_other_networks(case):
    s.check_slopes(case)


@s.by_any
def test_slope_along_all_parameters_at_once(case):
    s.check_slopes(case, names=list(s.gradients(s.expected(case, "float64"))))


@pytest.mark.parametrize("name", ["three-stacks", "frames-held"])
def test_a_slope_that_is_off_by_little_is_noticed(name):
    case = s.case_named(name)
    with pytest.raises(AssertionError, match="off by"):
        s.check_slopes(case, tolerance=1e-15)
