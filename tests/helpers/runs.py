"""Settings of a small run."""

from wavedil import runs

SMALL = {"dilations": [1, 2, 4], "residual_channels": 4, "dilation_channels": 4, "skip_channels": 4, "end_channels": 4}


def wanted_of(folder, **data):
    """Settings of a run of two steps on a folder."""
    train = {"steps": 2, "batch": 2, "window": 128, "validate_every": 1, "schedule": "constant"}
    tables = {"model": SMALL, "train": train, "data": {"folder": str(folder), **data}}
    return runs.settings.from_tables(("here", tables))
