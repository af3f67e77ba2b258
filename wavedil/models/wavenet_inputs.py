"""Checks of what a WaveNet is given: codes, conditions and speakers."""

import numpy as np

from wavedil.errors import ConfigError, ShapeError
from wavedil.ops import contract
from wavedil.ops.contract import on_host


class Inputs:
    """The part of `wavedil.WaveNet` that checks its inputs, so that errors name its own arguments."""

    def _codes(self, where, codes, extra=0, batch="B"):
        """The codes after checks; ``extra`` of them, at the end of each row, are only predicted."""
        where = f"WaveNet.{where}"
        codes = contract.integers(where, "codes", codes, None)
        if codes.ndim != 2 or (batch != "B" and len(codes) != batch):
            columns = "T + 1" if extra else "T" if batch == "B" else "n"
            raise ShapeError(f"{where}: codes must be ({batch}, {columns}), got {codes.shape}")
        if not len(codes) or codes.shape[1] <= extra:
            least = f"at least 1 row and {extra + 1} column{'s' * bool(extra)}"
            raise ShapeError(f"{where}: codes must have {least}, got {codes.shape}")
        contract.in_range(where, "codes", codes, self.config.classes)
        return codes

    def _primer(self, where, primer, batch):
        """The codes to go on from, (batch, m), after checks; None: silence."""
        if primer is None:
            return np.full((batch, 1), self.config.classes // 2)
        primer = contract.integers(where, "primer", primer, None)
        if primer.ndim == 1:
            primer = np.broadcast_to(primer, (batch, len(primer)))
        if primer.ndim != 2 or len(primer) != batch or primer.shape[1] < 1:
            raise ShapeError(f"{where}: primer must be ({batch}, m) with m of at least 1, got {primer.shape}")
        contract.in_range(where, "primer", primer, self.config.classes)
        return primer

    def _conditioning(self, where, batch, rows, condition, speaker, first=0):
        """The one condition that the stack sees, on its device: the given one, the speakers' embeddings, or a sum.

        It is that of so many rows, from row number ``first`` on.
        """
        where = f"WaveNet.{where}"
        condition = self._checked_condition(where, batch, rows, first, condition)
        condition = self._with_speaker(where, batch, rows, first, condition, speaker)
        if condition is None or self.device == "cpu":
            return condition
        return self.params.flat.engine.array(condition)

    def _checked_condition(self, where, batch, rows, first, condition):
        c = self.config
        if condition is None:
            if c.condition_channels and not c.speakers:
                raise ConfigError(f"{where}: condition must be given, as condition_channels is {c.condition_channels}")
            return None
        if not c.condition_channels:
            raise ConfigError(f"{where}: condition must be None, as condition_channels is 0, got one")
        condition = np.asarray(on_host(condition), self.dtype)
        shapes = [(batch, c.condition_channels), (batch, rows, c.condition_channels)]
        if c.condition_hop:
            shapes = [(batch, self.network.condition.frames(rows, first), c.condition_channels)]
        if condition.shape not in shapes:
            wanted = " or ".join(map(str, shapes)) + f" (frames, one every {c.condition_hop})" * bool(c.condition_hop)
            raise ShapeError(f"{where}: condition must be {wanted}, got {condition.shape}")
        return condition

    def _with_speaker(self, where, batch, rows, first, condition, speaker):
        """The condition with the speakers' embeddings, if the model has speakers."""
        c = self.config
        if not c.speakers:
            if speaker is not None:
                raise ConfigError(f"{where}: speaker must be None, as the model has no speakers, got {speaker!r}")
            return condition
        if speaker is None:
            raise ConfigError(f"{where}: speaker must be given, as the model has {c.speakers}")
        speaker = np.asarray(speaker)
        if speaker.dtype.kind not in "iu" or speaker.shape != (batch,):
            raise ShapeError(f"{where}: speaker must be ({batch},) integers, got {speaker.shape} {speaker.dtype}")
        if speaker.min() < 0 or speaker.max() >= c.speakers:
            raise ShapeError(f"{where}: speaker must lie in [0, {c.speakers}), got {speaker.tolist()}")
        embedded = on_host(self.params["speaker.embedding"])[speaker]
        if condition is None and c.condition_hop:
            return np.repeat(embedded[:, None], self.network.condition.frames(rows, first), axis=1)
        if condition is None:
            return embedded
        return condition + (embedded if condition.ndim == 2 else embedded[:, None])
