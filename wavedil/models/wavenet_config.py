"""Sizes of a WaveNet, and the network that they stand for."""

from functools import cached_property

from wavedil import checks
from wavedil.audio.codecs import CODECS
from wavedil.audio.mel import MelConfig
from wavedil.errors import ConfigError
from wavedil.models.base import Config, checked_dataclass
from wavedil.ops import gated_stack
from wavedil.receptive import check_dilations


@checked_dataclass
class WaveNetConfig(Config):
    """Sizes of a WaveNet.

    Attributes
    ----------
    dilations : tuple of int
        Rows between the taps of each block: one entry, one block. Any sequence is accepted.
    kernel_size : int
        Taps of each dilated convolution.
    residual_channels, dilation_channels, skip_channels, end_channels : int
        Channels between blocks, in each half of the gate, of the skip sum, and of the head's hidden layer.
    classes : int
        Number of codes.
    sample_rate : int
        Hz of the audio that the codes stand for.
    codec : str
        Of `wavedil.audio.CODECS`, such as ``"mulaw"`` (8 bits); ``"none"`` for codes that are not audio.
    condition_channels : int
        Width of the condition; 0 for none. With speakers it defaults to ``residual_channels``.
    condition_hop : int
        Samples between two frames of the condition; 0 if it is global or comes at every sample.
    condition_interpolation : {"linear", "held"}
        What samples between two frames see (`wavedil.ops.gated_stack.Condition`).
    mel : MelConfig, optional
        The condition is mel frames of this recipe, and one channel more that is 1 where there are frames: the network
        is a vocoder (`wavedil.Vocoder`). ``condition_channels`` and ``condition_hop`` follow. A dict is taken as well.
    speakers : int
        Speakers, each with an embedding that is (added to) the condition; 0 for none.

    Raises
    ------
    ConfigError
        If a value has the wrong type or is out of range.
    """

    dilations: tuple[int, ...]
    kernel_size: int = 2
    residual_channels: int = 32
    dilation_channels: int = 32
    skip_channels: int = 32
    end_channels: int = 32
    classes: int = 256
    sample_rate: int = 8000
    codec: str = "mulaw"
    condition_channels: int = 0
    condition_hop: int = 0
    condition_interpolation: str = "linear"
    speakers: int = 0
    mel: MelConfig | None = None

    def __post_init__(self):
        where = "WaveNetConfig"
        self._set("dilations", check_dilations(self.dilations, self.kernel_size, where))
        self._check_plain_fields(condition_channels=0, condition_hop=0, speakers=0)
        checks.one_of(where, "codec", self.codec, CODECS)
        checks.one_of(where, "condition_interpolation", self.condition_interpolation, gated_stack.INTERPOLATIONS)
        most = CODECS[self.codec].classes
        if most is not None and self.classes > most:
            raise ConfigError(
                f"{where}: classes must be at most {most}, the codes of {self.codec!r}, got {self.classes}"
            )
        if self.mel is not None:
            self._take_mel(where)
        if self.speakers and not self.condition_channels:
            self._set("condition_channels", self.residual_channels)

    def _take_mel(self, where):
        """Set what follows from the recipe of the mel frames."""
        mel = self.mel if isinstance(self.mel, MelConfig) else MelConfig.from_dict(self.mel)
        if mel.sample_rate != self.sample_rate:
            raise ConfigError(f"{where}: mel must be of {self.sample_rate} Hz, as the model is, got {mel.sample_rate}")
        self._set("mel", mel)
        for name, value in (("condition_channels", mel.mels + 1), ("condition_hop", mel.hop)):
            if getattr(self, name) not in (0, value):
                raise ConfigError(f"{where}: {name} must be {value}, as mel says, got {getattr(self, name)}")
            self._set(name, value)

    @cached_property
    def network(self):
        """The `gated_stack.Network`."""
        condition = None
        if self.condition_channels:
            condition = gated_stack.Condition(
                self.condition_channels, self.condition_hop, self.condition_interpolation
            )  # fmt: skip
        return gated_stack.wavenet(
            self.dilations, kernel_size=self.kernel_size, channels=self.residual_channels,
            gate_channels=self.dilation_channels, skip_channels=self.skip_channels, end_channels=self.end_channels,
            classes=self.classes, condition=condition,
        )  # fmt: skip

    @property
    def receptive_field(self):
        """Samples that a prediction depends on."""
        return self.network.receptive_field
