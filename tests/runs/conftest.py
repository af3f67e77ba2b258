"""Clips of two speakers, a small model's settings, and folders that runs and trainers left."""

import numpy as np
import pytest
import soundfile
from helpers.runs import SMALL, wanted_of

import wavedil as wd
from wavedil import runs

RATE = 8000


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    """A folder with anna/ and bruno/, five tones each."""
    place = tmp_path_factory.mktemp("clips")
    for speaker, pitch in (("anna", 200), ("bruno", 120)):
        (place / speaker).mkdir()
        for i in range(5):
            tone = 0.4 * np.sin(2 * np.pi * (pitch + 20 * i) * np.arange(1600) / RATE)
            soundfile.write(place / speaker / f"{i}.wav", tone, RATE)
    return place


@pytest.fixture(scope="session")
def one(clips, tmp_path_factory):
    """A finished training of one speaker."""
    training = runs.train.start(tmp_path_factory.mktemp("one") / "run", wanted_of(clips / "anna"))
    training.trainer.fit(training.steps_left)
    return training


@pytest.fixture(scope="session")
def bare(clips, tmp_path_factory):
    """What `wavedil.Trainer` leaves in a folder: a WaveNet of two speakers, and no config.json."""
    folder = tmp_path_factory.mktemp("bare") / "run"
    data = wd.audio.ClipFolder(clips, speakers="folders")
    model = wd.WaveNet(wd.WaveNetConfig(**SMALL, speakers=2), seed=0)
    trainer = wd.Trainer(model, data, optimizer=wd.SGD(0.01, momentum=0.8), batch=2, window=100, ema=0.5, folder=folder)
    trainer.fit(2)
    return folder
