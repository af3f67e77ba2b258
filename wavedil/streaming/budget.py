"""The real-time budget: how fast a model will generate and stream on this machine, by a quick measurement."""

import time
from dataclasses import dataclass

import numpy as np

from wavedil.streaming.online import Generator, Predictor

BLOCKS = 1, 64, 512


@dataclass(frozen=True)
class Budget:
    """Samples per second, and the memory of one stream."""

    rate: int  # of the model's audio
    generation: float
    streaming: dict  # block -> samples per second
    state_bytes: int


def budget(model, seconds=1.5):
    """Measure generation of one stream, and streaming of silence at several block sizes.

    The values of the weights do not matter, so an untrained model tells the speed of a trained one.

    Parameters
    ----------
    model : WaveNet
        Of mu-law codes.
    seconds : float
        About so long in all, compiling not counted.

    Returns
    -------
    Budget
    """
    c = model.config
    given = {}
    if c.condition_channels:
        given = {"speaker": 0} if c.speakers else {"condition": np.zeros(c.condition_channels)}
    share = seconds / (1 + len(BLOCKS))
    generator, predictor = Generator(model, **given), Predictor(model, **given)
    generation = _rate(lambda: generator.process(100), 100, share)
    streaming = {}
    for block in BLOCKS:
        x = np.zeros(block, np.float32)
        streaming[block] = _rate(lambda x=x: predictor.process(x), block, share)
    return Budget(c.sample_rate, generation, streaming, predictor.state.nbytes)


def _rate(function, samples, seconds):
    """Samples per second by the median call: what else the machine does now and then does not count."""
    function()
    times, end = [], time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return samples / float(np.median(times))
