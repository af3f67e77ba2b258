"""Making one WaveNet from another: taking over parameters, and copies with a new head, more blocks or more speakers."""

import dataclasses

from wavedil import checks
from wavedil.errors import CheckpointError, ConfigError
from wavedil.ops.contract import on_host
from wavedil.parameters import files
from wavedil.parameters import names as naming


class Reusable:
    """What `wavedil.WaveNet` can do with another one's parameters."""

    def load_params(self, source, *, only="*", strict=True, allow=()):
        """Take over parameters of another WaveNet by name.

        Parameters
        ----------
        source : path-like or WaveNet
            A file that `save` wrote, or a model.
        only : str or iterable of str
            Patterns of the names to take over, such as ``"blocks.0-9.*"`` (see `wavedil.parameters.names`).
        strict : bool
            True: each of these names must be there with the same shape, and no others, else nothing is changed. False:
            what fits is taken over, and the report tells the rest.
        allow : iterable of str
            Of ``"sample_rate"``, ``"codec"``, ``"dilations"``: what may differ although the shapes do not show it.

        Returns
        -------
        LoadReport
            Names: loaded, missing, unexpected, and those of another shape.

        Raises
        ------
        CheckpointError
            The file is not there, damaged, or holds something else; names do not agree; the other model is for another
            sample rate or codec, or has other dilations in the blocks taken over.
        ShapeError, DTypeError
            An array has another shape, such as a head with other classes, or another dtype.
        ConfigError
            A pattern fits no name.
        """
        where = "WaveNet.load_params"
        unknown = sorted(set(allow) - {"sample_rate", "codec", "dilations"})
        if isinstance(allow, str) or unknown:
            raise ConfigError(f"{where}: allow must be a list of sample_rate, codec, dilations, got {allow!r}")
        if isinstance(source, Reusable):
            theirs, values, path = source.config, source.params, "the other model"
        else:
            path, (values, about) = source, files.read(source, "model")
            if about.get("class") != type(self).__name__:
                raise CheckpointError(f"{path}: must hold a {type(self).__name__}, got a {about.get('class')}")
            theirs = self.Config.from_dict(about["config"])
            values = {name: value for name, value in values.items() if not name.startswith("buffers/")}
        mine = self.config
        pairs = {name: (getattr(mine, name), getattr(theirs, name)) for name in ("sample_rate", "codec")}
        taken = [i for i, _ in enumerate(mine.dilations) if i < len(theirs.dilations) and any(
            naming.matcher(pattern)(f"blocks.{i}.conv.weight") for pattern in naming.listed(only, where))]
        pairs["dilations"] = tuple([config.dilations[i] for i in taken] for config in (mine, theirs))
        for name, (here, there) in pairs.items():
            if here != there and name not in allow:
                raise CheckpointError(
                    f"{path}: {name} must be {here}, as this model's, got {there}; allow=[{name!r}] takes it anyway"
                )
        return self.params.load(values, only=only, strict=strict)

    def with_head(self, *, classes=None, end_channels=None, seed=0):
        """A copy with a new, untrained head, for other codes or of another width.

        Parameters
        ----------
        classes : int, optional
            Other codes: the input embedding, which knows the old ones, is new as well. Default: as before.
        end_channels : int, optional
            Default: as before.
        seed : int
            Of the new values.

        Returns
        -------
        WaveNet
        """
        given = {"classes": classes, "end_channels": end_channels}
        given = {name: value for name, value in given.items() if value is not None}
        new = self._made(dataclasses.replace(self.config, **given), seed)
        kept = [name for name in self.params if not name.startswith("head.")]
        new.params.load(self.params, only=kept, strict=False)
        return new

    def with_blocks(self, dilations, seed=0):
        """A copy with more blocks at the end that does at first exactly what this model does.

        Parameters
        ----------
        dilations : sequence of int
            Of the new blocks.
        seed : int
            Of the new values.

        Returns
        -------
        WaveNet
        """
        old = self.config.dilations
        new = self._made(dataclasses.replace(self.config, dilations=(*old, *dilations)), seed)
        new.params.load(self.params, strict=False)
        for i in range(len(old), len(new.config.dilations)):
            # A new block adds z W + b = 0 to the skip sum. The gradient of W is z^T ds and z is not zero, so W leaves
            # zero with the first step, and from then on a gradient reaches the convolution below it. (The residual of
            # what was the last block had no gradient so far; now it feeds the new ones.)
            new.params[f"blocks.{i}.skip.weight"][...] = 0
            new.params[f"blocks.{i}.skip.bias"][...] = 0
        return new

    def with_speakers(self, speakers, seed=0):
        """A copy for more speakers; those that it had sound as they did.

        A new speaker starts as the mean of the others. In a model without speakers the condition starts as zero, so all
        speakers begin as the model's one.

        Parameters
        ----------
        speakers : int
            In all; not fewer than before.
        seed : int
            Of the new values.

        Returns
        -------
        WaveNet
        """
        had = self.config.speakers
        if not had and self.config.condition_channels:
            raise ConfigError("WaveNet.with_speakers: the model must have speakers already, or no condition")
        if checks.whole("WaveNet.with_speakers", "speakers", speakers) < had:
            raise ConfigError(f"WaveNet.with_speakers: speakers must be at least {had}, as before, got {speakers}")
        new = self._made(dataclasses.replace(self.config, speakers=int(speakers)), seed)
        new.params.load(self.params, strict=False)
        table = new.params["speaker.embedding"]
        if had:
            known = on_host(self.params["speaker.embedding"])
            table[:had] = known
            table[had:] = known.mean(axis=0)
        else:  # the embedding's gradient waits for the weights to leave zero; theirs is there at once
            for i in range(len(self.config.dilations)):
                new.params[f"blocks.{i}.condition.weight"][...] = 0
        return new

    def _made(self, config, seed):
        return type(self)(config, seed, self.dtype, self.device, self.recompute, self.threads, self.half_activations)
