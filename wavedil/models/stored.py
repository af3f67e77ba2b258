"""How a model is written to a file and read from one: what all models share."""

import os
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from wavedil.errors import CheckpointError, ConfigError, WavedilError
from wavedil.parameters import files
from wavedil.parameters.store import Parameters

PathLike = str | os.PathLike


class Stored:
    """A model with ``params``, ``buffers``, ``config``, ``dtype`` and ``Config``, whose class takes a config."""

    config: Any
    params: Parameters
    buffers: dict[str, np.ndarray]

    @property
    def dtype(self) -> np.dtype:
        """Of the parameters and activations."""
        return self.params.dtype

    def save(
        self, path: PathLike, *, step: int | None = None, params: Mapping | None = None, extra: Mapping | None = None
    ) -> None:
        """Write the parameters and the config to a safetensors file, atomically.

        Parameters
        ----------
        path : path-like
        step : int, optional
            Training step, for the file's metadata.
        params : mapping of str to array, optional
            Other values than the model's own (averaged weights).
        extra : mapping, optional
            More metadata, as JSON values.

        Raises
        ------
        CheckpointError
            If the file cannot be written; what was there before is untouched.
        """
        tensors = dict(self.params if params is None else params) | {f"buffers/{k}": v for k, v in self.buffers.items()}
        about = {
            **(extra or {}), "kind": "model", "class": type(self).__name__, "config": self.config.to_dict(),
            "dtype": str(self.dtype), "step": step,
        }  # fmt: skip
        files.write(path, tensors, about)

    @classmethod
    def load(cls, path: PathLike, **options) -> Self:
        """The model that `save` wrote; options are those of the constructor that do not live in the file.

        Raises
        ------
        CheckpointError
            If the file is not there, damaged, or holds something else.
        """
        tensors, about = files.read(path, "model")
        if about.get("class") != cls.__name__:
            raise CheckpointError(f"{path}: must hold a {cls.__name__}, got a {about.get('class')}")
        return cls.from_file(tensors, about, path, **options)

    @classmethod
    def from_file(cls, tensors, about, path, **options):
        """The model of the values and metadata that were read from a file."""
        dtype = about.get("dtype", "float32")
        if dtype not in ("float32", "float64"):
            raise CheckpointError(f"{path}: dtype must be float32 or float64, got {dtype!r}")
        try:
            config = cls.Config.from_dict(about.get("config"))
        except ConfigError as error:
            raise CheckpointError(f"{path}: {error}") from error
        model = cls(config, dtype=dtype, **options)
        try:
            model.params.load({name: value for name, value in tensors.items() if not name.startswith("buffers/")})
        except WavedilError as error:
            raise CheckpointError(f"{path}: {error}") from error
        for name, buffer in model.buffers.items():
            value = tensors.get(f"buffers/{name}")
            if value is None or value.shape != buffer.shape or value.dtype != buffer.dtype:
                raise CheckpointError(f"{path}: buffer {name} must be {buffer.shape} {buffer.dtype}, and is not")
            buffer[...] = value
        model.about = about
        return model


class StoredStreams(Stored):
    """A stored model whose streams can be stored as well; ``rows_of`` is what it calls that which has a history."""

    rows_of: str

    def save_stream(self, state, path: PathLike) -> None:
        """Write a stream's state to a safetensors file, to go on with it in another process.

        Parameters
        ----------
        state
            From `init_stream`.
        path : path-like

        Raises
        ------
        CheckpointError
            If the file cannot be written.
        """
        self._check_state("save_stream", state)
        tensors = {f"{self.rows_of}.{i}.history": rows for i, rows in enumerate(state.history())}
        about = {"kind": "stream", "config": self.config.to_dict(), "dtype": str(self.dtype), "time": state.time,
                 "batch": state.batch, "params_checksum": state.params_checksum,
                 "options": {"storage": state.storage} if getattr(state, "storage", None) else {}}  # fmt: skip
        files.write(path, tensors, about)

    def load_stream(self, path):
        """The state that `save_stream` wrote.

        Raises
        ------
        CheckpointError
            If the file is damaged, or its stream ran through a model of another config, dtype or other weights.
        """
        tensors, about = files.read(path, "stream")
        mine = {"config": self.config.to_dict(), "dtype": str(self.dtype), "params_checksum": self.params.checksum()}
        for key, value in mine.items():
            if about.get(key) != value:
                raise CheckpointError(f"{path}: the stream must have run through this model, but its {key} differs")
        for key, least in (("batch", 1), ("time", 0)):
            if type(about.get(key)) is not int or about[key] < least:
                raise CheckpointError(f"{path}: {key} must be an integer from {least} up, got {about.get(key)!r}")
        try:
            state, found = self.init_stream(about["batch"], **about.get("options", {})), []
        except (TypeError, ConfigError) as error:
            raise CheckpointError(f"{path}: options must be those of init_stream: {error}") from None
        for i, rows in enumerate(state.history()):
            name = f"{self.rows_of}.{i}.history"
            value = tensors.get(name)
            if value is None or value.shape != rows.shape or value.dtype != rows.dtype:
                raise CheckpointError(f"{path}: {name} must be {rows.shape} {rows.dtype}, and is not")
            found.append(value)
        state.set_history(found, about["time"])
        return state

    def _mark(self, state):
        """The state, which from now on knows the model that it was made for."""
        state.made_for, state.params_checksum = (self.config, self.dtype), self.params.checksum()
        return state

    def _check_state(self, where, state):
        if getattr(state, "made_for", None) != (self.config, self.dtype):
            name = type(self).__name__
            raise ConfigError(f"{name}.{where}: state must come from init_stream of this model, got one for another")
