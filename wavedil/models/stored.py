"""How a model is written to a file and read from one: what all models share."""

from wavedil.errors import CheckpointError, ConfigError, WavedilError
from wavedil.layers import files


class Stored:
    """A model with ``params``, ``buffers``, ``config``, ``dtype`` and ``Config``, whose class takes a config."""

    def save(self, path, *, step=None, params=None, extra=None):
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
    def load(cls, path, **options):
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
