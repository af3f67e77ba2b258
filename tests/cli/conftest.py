"""A folder with clips and settings, and a run that was trained on them."""

import numpy as np
import pytest
import soundfile
from helpers.shell import RATE, SETTINGS, wavedil


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with clips/ (two speakers, tones), settings.toml, and speakers.toml that tells the speakers apart."""
    place = tmp_path_factory.mktemp("cli")
    rng = np.random.default_rng(0)
    for speaker in ("anna", "bruno"):
        (place / "clips" / speaker).mkdir(parents=True)
        for i in range(6):
            t = np.arange(int(RATE * rng.uniform(0.1, 0.4))) / RATE
            sound = 0.4 * np.sin(2 * np.pi * (200 + 50 * i) * t) + 0.01 * rng.standard_normal(len(t))
            soundfile.write(place / "clips" / speaker / f"{i}.wav", sound, RATE)
    (place / "settings.toml").write_text(SETTINGS)
    (place / "speakers.toml").write_text(SETTINGS + "\n[data]\nspeakers = true\n")
    return place


@pytest.fixture(scope="module")
def trained(place):
    """(run folder, result) of three steps with two speakers."""
    run = place / "runs" / "speakers"
    result = wavedil("train", place / "clips", "--config", place / "speakers.toml", "--out", run)
    assert result.exit_code == 0, result.output
    return run, result
