"""Streams: audio, sound devices and clocks around `model.stream`: input and output, the network is elsewhere.

>>> import wavedil as wd
>>> from wavedil import streaming
>>> model = wd.WaveNet(wd.WaveNetConfig(dilations=[1, 2, 4, 8], sample_rate=8000))
>>> meter = streaming.Meter(8000)
>>> for block in meter.run(streaming.Predictor(model).blocks([0.0] * 1000, 64)):
...     pass  # block.audio is what the model expected to hear, block.bits how much it was surprised
>>> meter.report().blocks
16

`Predictor` listens and says what it expects, `Generator` speaks, `Effect` changes what it hears; all work block by
block and carry their state.
`Meter` takes their time, and says whether they would keep up with a live source and a live player. `Loudspeaker` is
a real one. `budget` predicts all that from a quick measurement.
"""

from wavedil.streaming.budget import Budget, budget
from wavedil.streaming.clock import Clock, Meter, Report
from wavedil.streaming.device import Loudspeaker
from wavedil.streaming.online import Block, Effect, Generator, Predictor

__all__ = ["Block", "Budget", "Clock", "Effect", "Generator", "Loudspeaker", "Meter", "Predictor", "Report", "budget"]
