"""How far a stack of dilated convolutions sees."""

from collections.abc import Sequence

from wavedil.errors import ConfigError


def check_dilations(dilations, kernel_size) -> tuple[int, ...]:
    """The dilations as a tuple of ints.

    Raises
    ------
    ConfigError
        If there is none, or one of them or the kernel size is not a whole number of at least 1.
    """
    try:
        result = tuple(dilations)
    except TypeError:
        raise ConfigError(f"dilations must be a list of whole numbers, got {dilations!r}") from None
    if not result:
        raise ConfigError("dilations must name at least one block, got an empty list")
    for name, value in [("kernel_size", kernel_size), *(("dilations", d) for d in result)]:
        if isinstance(value, bool) or not hasattr(value, "__index__") or int(value) < 1:
            raise ConfigError(f"{name} must be whole numbers of at least 1, got {value!r}")
    return tuple(int(d) for d in result)


def receptive_field(dilations: Sequence[int], kernel_size: int) -> int:
    """Number of input samples that one output of a stack of dilated convolutions depends on.

    ``1 + (kernel_size - 1) * sum(dilations)``: the present sample, and as many past ones as the taps reach.

    Parameters
    ----------
    dilations : sequence of int
        Distance between the taps of each block, in samples.
    kernel_size : int
        Taps of each block.

    Returns
    -------
    int
        Samples.

    Raises
    ------
    ConfigError
        If a dilation or the kernel size is not a whole number of at least 1.

    References
    ----------
    van den Oord et al., "WaveNet: A Generative Model for Raw Audio", arXiv:1609.03499, section 2.1.

    Examples
    --------
    >>> receptive_field([1, 2, 4, 8], 2)
    16
    """
    dilations = check_dilations(dilations, kernel_size)
    return 1 + (int(kernel_size) - 1) * sum(dilations)
