"""Latency and real time: what each block took, and whether a live source and a live player could be kept up with."""

import collections
import time
from dataclasses import dataclass

import numpy as np

from wavedil.checks import whole


class Clock:
    """A live stream in arithmetic: given what each block took, when would it have come and been played?

    No time passes. With ``live_input`` a source delivers block after block at the pace of the audio; a block waits
    for its turn, but where ``buffer`` of them wait already it is lost: an **overrun**. A player wants the result
    ``buffer`` blocks after the source delivered the first one, and from then on at the pace of the audio; where a
    block is not ready it falls silent until it is: an **underrun**. Without ``live_input`` (generation) the next block
    begins as soon as the player has room for it.

    Parameters
    ----------
    rate : int
        Samples per second.
    buffer : int
        Blocks that may wait, on either side.
    live_input : bool

    Attributes
    ----------
    underruns, overruns : int
        Blocks.
    """

    def __init__(self, rate, buffer=2, live_input=True):
        self.rate, self.buffer, self.live_input = rate, whole("Clock", "buffer", buffer), live_input
        self.underruns = self.overruns = 0
        self._came = 0.0  # when the latest block of the input was complete
        self._ready = 0.0  # when the latest result was
        self._due = None  # when the player wants the next one
        self._starts = collections.deque()  # of the blocks that may still wait
        self._played = collections.deque(maxlen=self.buffer)  # when the latest blocks began to play

    def add(self, samples, seconds):
        """A block of so many samples took so long."""
        length = samples / self.rate
        if self.live_input:
            self._came += length
            while self._starts and self._starts[0] <= self._came:
                self._starts.popleft()
            if len(self._starts) >= self.buffer:
                self.overruns += 1
                return
        elif len(self._played) == self.buffer:
            self._came = self._played[0]
        start = max(self._came, self._ready)
        self._starts.append(start)
        self._ready = start + seconds
        if self._due is None:
            self._due = self._came + self.buffer * length
        if self._ready > self._due:
            self.underruns += 1
            self._due = self._ready
        self._played.append(self._due)
        self._due += length


@dataclass(frozen=True)
class Report:
    """What a stream did."""

    rate: int  # samples per second
    sizes: np.ndarray  # (blocks,) samples
    bits: np.ndarray | None  # (blocks,) bits/sample; None for generation
    latency: np.ndarray  # (blocks,) seconds from having a block to having its result
    underruns: int  # blocks that a live player would have had to wait for
    overruns: int  # blocks that a live source would have lost

    @property
    def blocks(self):
        """Number of blocks."""
        return len(self.sizes)

    @property
    def samples(self):
        """Number of samples."""
        return int(self.sizes.sum())

    @property
    def mean_bits(self):
        """Bits/sample of the whole."""
        return float(self.bits @ self.sizes / self.samples)

    @property
    def real_time_factor(self):
        """Seconds of audio in a second of work: above 1 is faster than real time."""
        return self.samples / self.rate / float(self.latency.sum())

    def percentile(self, q):
        """Seconds that q percent of the blocks did not exceed."""
        return float(np.percentile(self.latency, q))


class Meter:
    """Times the blocks of a stream and hands them to a consumer.

    Parameters
    ----------
    rate : int
        Samples per second.
    consumer : callable, optional
        ``consumer(audio)`` gets each block. If it returns True or False it is a real device, which paces the stream and
        says whether it had run dry; those are the underruns then. Otherwise the time that it takes counts on the
        simulated `Clock`, which finds the underruns and overruns.
    buffer, live_input
        Of the clock.
    """

    def __init__(self, rate, *, consumer=None, buffer=2, live_input=True):
        self.rate, self.consumer = rate, consumer
        self._clock = Clock(rate, buffer, live_input)
        self._sizes, self._bits, self._latency = [], [], []
        self._dry = None  # of a device

    def run(self, blocks):
        """Yield the blocks of a lazy iterator, each computed on the way."""
        blocks = iter(blocks)
        while True:
            begin = time.perf_counter()
            block = next(blocks, None)
            seconds = time.perf_counter() - begin
            if block is None:
                return
            latency = seconds
            if self.consumer is not None:
                dry = self.consumer(block.audio)
                if dry is None:
                    seconds = time.perf_counter() - begin
                else:
                    self._dry = (self._dry or 0) + bool(dry)
            self._clock.add(len(block.audio), seconds)
            self._sizes.append(len(block.audio))
            self._bits.append(block.bits)
            self._latency.append(latency)
            yield block

    def report(self):
        """Of the blocks so far."""
        bits = None if None in self._bits else np.array(self._bits)
        device = self._dry is not None
        return Report(
            self.rate, np.array(self._sizes, np.int64), bits, np.array(self._latency),
            underruns=self._dry if device else self._clock.underruns,
            overruns=0 if device else self._clock.overruns,  # then the input comes at the device's pace
        )  # fmt: skip
