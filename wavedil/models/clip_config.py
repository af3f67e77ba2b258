"""Sizes of a clip classifier, and the shapes of its parameters."""

from wavedil import checks
from wavedil.errors import ConfigError
from wavedil.models.base import Config, checked_dataclass
from wavedil.models.wavenet_config import WaveNetConfig
from wavedil.ops import pooling


@checked_dataclass
class ClipClassifierConfig(Config):
    """Sizes of a clip classifier.

    Attributes
    ----------
    trunk : WaveNetConfig
        Without condition and speakers. Its head is not used.
    labels : tuple of str
        Names of the classes. Any sequence is accepted.
    pooling : {"average", "statistics", "attentive"}
        See `wavedil.ops.pooling`.
    attention_channels : int
        Of the hidden layer of the attention.

    Raises
    ------
    ConfigError
        If a value has the wrong type or is out of range.
    """

    trunk: WaveNetConfig
    labels: tuple[str, ...]
    pooling: str = "statistics"
    attention_channels: int = 32

    def __post_init__(self):
        where = "ClipClassifierConfig"
        if not isinstance(self.trunk, WaveNetConfig):
            raise ConfigError(f"{where}: trunk must be a WaveNetConfig, got {type(self.trunk).__name__}")
        if self.trunk.condition_channels:
            raise ConfigError(
                f"{where}: trunk must have no condition, got condition_channels={self.trunk.condition_channels}"
            )
        labels = self.labels
        good = not isinstance(labels, str) and hasattr(labels, "__iter__")
        labels = tuple(labels) if good else ()
        if len(labels) < 2 or len(set(labels)) != len(labels) or not all(isinstance(t, str) and t for t in labels):
            raise ConfigError(f"{where}: labels must be at least 2 different texts, got {self.labels!r}")
        self._set("labels", tuple(str(text) for text in labels))
        checks.one_of(where, "pooling", self.pooling, pooling.KINDS)
        self._check_plain_fields()

    @property
    def sample_rate(self):
        """Hz of the audio that the codes stand for."""
        return self.trunk.sample_rate

    @property
    def receptive_field(self):
        """Samples that a row of the trunk depends on."""
        return self.trunk.receptive_field


def parameter_shapes(config):
    """Name -> shape: the trunk's, then those of the attention and of the head."""
    t = config.trunk
    shapes = dict(t.network.without_head().parameter_shapes)
    if config.pooling == "attentive":
        hidden = config.attention_channels
        shapes |= {"pooling.weight": (t.skip_channels, hidden), "pooling.bias": (hidden,), "pooling.score": (hidden,)}
    width = pooling.width(t.skip_channels, config.pooling)
    return shapes | {"head.weight": (width, len(config.labels)), "head.bias": (len(config.labels),)}
