"""Log-mel spectra: their equation, their alignment, streams, the recipe, and what is had back from them."""

import numpy as np
import pytest

from wavedil.audio import MelConfig, MelStream, griffin_lim, log_mel, lpc_of_mel, mfcc
from wavedil.errors import ConfigError, DataError

CONFIG = MelConfig()
RECIPES = [CONFIG, MelConfig(centred=False), MelConfig(hop=100, window=200), MelConfig.preset(16000)]


@pytest.fixture(scope="module")
def x():
    """A buzz of 120 Hz through two resonances, with pauses and a little noise: much like a vowel."""
    rng, pulses = np.random.default_rng(0), np.zeros(16000)
    pulses[::67] = 1
    y = 0.003 * rng.standard_normal(16000) + pulses * (np.arange(16000) % 5000 < 4000)
    for hertz, width in ((500, 80), (1500, 120)):
        a, b = 2 * np.exp(-np.pi * width / 8000) * np.cos(2 * np.pi * hertz / 8000), -np.exp(-2 * np.pi * width / 8000)
        z = np.zeros(len(y) + 2)
        for t, value in enumerate(y):
            z[t + 2] = value + a * z[t + 1] + b * z[t]
        y = z[2:]
    return (0.3 * y / np.abs(y).max()).astype(np.float32)


def slaney(hertz):
    """Slaney's mel scale: linear below 1 kHz, logarithmic above."""
    return np.where(hertz < 1000, hertz * 3 / 200, 15 + 27 * np.log(np.maximum(hertz, 1000) / 1000) / np.log(6.4))


def expected(x, config):
    """The equation of `MelConfig`, frame by frame."""
    before = config.window // 2 if config.centred else config.window
    padded = np.pad(x.astype(np.float64), (before, 3 * config.n_fft + config.hop))
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(config.window) / config.window)
    grid = np.linspace(0, config.sample_rate / 2, 400_001)
    ends = slaney(np.array([config.low, config.high]))
    corners = np.interp(np.linspace(*ends, config.mels + 2), slaney(grid), grid)
    f, filters = np.arange(config.n_fft // 2 + 1) * config.sample_rate / config.n_fft, []
    for low, mid, high in zip(corners, corners[1:], corners[2:], strict=False):
        triangle = np.maximum(0, np.minimum((f - low) / (mid - low), (high - f) / (high - mid)))
        filters.append(triangle / triangle.sum())
    rows = []
    for k in range(-(-len(x) // config.hop) + 1):
        spectrum = np.fft.rfft(padded[k * config.hop :][: config.window] * window, config.n_fft) / (window.sum() / 2)
        amplitude = np.sqrt(np.array(filters) @ np.abs(spectrum) ** 2)
        rows.append((np.log(np.maximum(amplitude, config.floor)) + config.shift) / config.scale)
    return np.array(rows)


@pytest.mark.parametrize("config", RECIPES)
@pytest.mark.parametrize("samples", [1, 79, 80, 81, 4000])
def test_it_is_its_equation_also_for_clips_shorter_than_a_frame(x, config, samples):
    found = log_mel(x[:samples], config)
    assert found.dtype == np.float32 and found.flags.c_contiguous
    assert found.shape == (config.frames(samples), config.mels)
    np.testing.assert_allclose(found, expected(x[:samples], config), atol=1e-4)


def test_digital_silence_is_the_floor_and_a_full_sine_is_loud():
    wanted = (np.log(CONFIG.floor) + CONFIG.shift) / CONFIG.scale
    np.testing.assert_allclose(log_mel(np.zeros(800), CONFIG), wanted, rtol=1e-6)
    sine = np.sin(2 * np.pi * 1000 * np.arange(8000) / 8000)
    assert 0.3 < CONFIG.amplitudes(log_mel(sine, CONFIG))[20:-20].max(axis=1).min() < 1


@pytest.mark.parametrize("config", RECIPES)
def test_audio_that_comes_a_hop_later_has_frames_that_come_one_later(x, config):
    late = np.concatenate((np.zeros(config.hop, np.float32), x))
    assert log_mel(late, config)[1:].tobytes() == log_mel(x, config).tobytes()


@pytest.mark.parametrize("config", RECIPES)
def test_a_click_is_loudest_in_its_own_frame_or_within_the_window_before_a_causal_one(config):
    click = np.zeros(40 * config.hop, np.float32)
    click[20 * config.hop] = 1
    mel = log_mel(click, config)
    if config.centred:
        assert (mel.argmax(axis=0) == 20).all()
    else:
        assert (mel[:21] == mel[0]).all() and (mel[21] > mel[0]).all()


@pytest.mark.parametrize("config", RECIPES)
def test_frames_know_nothing_beyond_the_stated_look_ahead(x, config):
    f = 30
    other = x.copy()
    other[f * config.hop + config.look_ahead :] = 0.5
    mel, changed = log_mel(x, config), log_mel(other, config)
    assert mel[: f + 1].tobytes() == changed[: f + 1].tobytes() and (mel[f + 1] != changed[f + 1]).any()


@pytest.mark.parametrize("config", RECIPES)
@pytest.mark.parametrize("block", [1, 7, 80, 256, 5000, None])
def test_a_stream_has_the_bits_of_the_whole_whatever_its_blocks(x, config, block):
    x = x[: 700 if block == 1 else 5003]
    stream, rng = MelStream(config), np.random.default_rng(0)
    for _ in range(2):  # finish begins anew
        got, at = [], 0
        while at < len(x):
            size = int(rng.integers(0, 600)) if block is None else block
            got.append(stream.push(x[at : at + size]))
            at = min(at + size, len(x))
            ready = max(0, (at - config.look_ahead) // config.hop + 1) if at >= config.look_ahead else 0
            assert sum(map(len, got)) == ready
        got.append(stream.finish())
        assert np.concatenate(got).tobytes() == log_mel(x, config).tobytes()
    assert stream.finish().shape == (0, config.mels)


def test_mfcc_is_the_cosine_transform(x):
    mel = log_mel(x, CONFIG).astype(np.float64)
    k, m = np.arange(7)[:, None], np.arange(40)
    basis = np.cos(np.pi * k * (m + 0.5) / 40) * np.where(k == 0, np.sqrt(1 / 40), np.sqrt(2 / 40))
    found = mfcc(x, CONFIG, 7)
    assert found.dtype == np.float32 and found.shape == (201, 7)
    np.testing.assert_allclose(found, mel @ basis.T, atol=1e-4)


def test_a_recipe_goes_to_a_table_and_back():
    config = MelConfig.preset(16000, centred=False)
    assert (config.hop, config.window, config.mels, config.high) == (160, 512, 80, 7600.0)
    assert MelConfig.from_dict(config.to_dict()) == config
    assert MelConfig.preset(8000) == CONFIG == MelConfig.from_dict({})
    assert type(MelConfig(hop=np.int64(80)).hop) is int
    with pytest.raises(ConfigError, match="MelConfig: unknown key 'hops'; did you mean 'hop'?"):
        MelConfig.from_dict({"hops": 80})


def test_features_of_another_recipe_are_refused_by_what_differs():
    CONFIG.check_same(MelConfig(), "Vocoder")
    with pytest.raises(ConfigError, match="Vocoder: the features have another recipe: hop must be 80, got 100; "
                                          "centred must be True, got False"):
        CONFIG.check_same(MelConfig(hop=100, centred=False), "Vocoder")


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: log_mel([], CONFIG), DataError, "log_mel: x must hold samples"),
        (lambda: log_mel(np.zeros((2, 9)), CONFIG), DataError, r"log_mel: x must be \(samples,\), got \(2, 9\)"),
        (lambda: log_mel([0.0, np.nan], CONFIG), DataError, "NaN"),
        (lambda: log_mel(np.zeros(9, np.int16), CONFIG), DataError, "got int16"),
        (lambda: log_mel([0.0], None), ConfigError, "log_mel: config must be a MelConfig, got NoneType"),
        (lambda: MelStream(CONFIG).push([np.inf]), DataError, "MelStream.push: x must be finite"),
        (lambda: log_mel([0.0], MelConfig(mels=250)), ConfigError, "large enough for 250 mels, got 256"),
        (lambda: mfcc([0.0], CONFIG, 41), ConfigError, "coefficients must be at most 40, got 41"),
        (lambda: MelConfig(hop=300), ConfigError, "hop must be at most 256, got 300"),
        (lambda: MelConfig(window=300), ConfigError, "window must be at most 256, got 300"),
        (lambda: MelConfig(high=5000), ConfigError, "4000 Hz, got 60 and 5000"),
        (lambda: MelConfig(floor=0), ConfigError, "floor must be above 0, got 0"),
        (lambda: MelConfig(centred=1), ConfigError, "centred must be True or False, got 1"),
        (lambda: griffin_lim(np.zeros((3, 7)), CONFIG), DataError, r"\(frames, 40\) .* got \(3, 7\)"),
        (lambda: lpc_of_mel(np.full((3, 40), np.nan), CONFIG), DataError, "NaN"),
        (lambda: lpc_of_mel(np.zeros((3, 40)), CONFIG, 128), ConfigError, "order must be at most 127, got 128"),
    ],
)  # fmt: skip
def test_refuses(call, error, says):
    with pytest.raises(error, match=says):
        call()


# ---- what is had back ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("config", RECIPES[:3])
def test_griffin_lim_has_the_mels_that_it_was_made_of(x, config):
    mel = log_mel(x, config)
    y = griffin_lim(mel, config, iterations=30)
    assert y.dtype == np.float32 and y.shape == ((len(mel) - 1) * config.hop,)
    assert y.tobytes() == griffin_lim(mel, config, iterations=30).tobytes()
    inside, again = slice(5, -5), log_mel(y[: len(x)], config)
    assert np.abs(again - mel)[inside].mean() < 0.1  # scale 4: 0.1 are 3.5 dB
    for moved in (2, -2):
        assert np.abs(np.roll(again, moved, axis=0) - mel)[inside].mean() > 1.3 * np.abs(again - mel)[inside].mean()


def gain(x, predictors, order):
    """Prediction gain in dB with the predictor of the nearest frame."""
    t = np.arange(order, len(x))
    a = predictors[(t + CONFIG.hop // 2) // CONFIG.hop]
    error = x[t] - (a * np.stack([x[t - 1 - k] for k in range(order)], axis=1)).sum(axis=1)
    return 10 * np.log10((x[t] ** 2).sum() / (error**2).sum())


def test_linear_prediction_from_the_mels_is_about_as_good_as_from_the_signal(x):
    order, window = 12, np.hanning(257)[:-1]
    padded = np.pad(x.astype(np.float64), (128, 256))
    own = []
    for f in range(CONFIG.frames(len(x))):
        r = np.fft.irfft(np.abs(np.fft.rfft(padded[f * 80 :][:256] * window, 512)) ** 2)[: order + 1]
        r *= 1 - 6e-5 * np.arange(order + 1) ** 2
        r[0] = r[0] * (1 + 1e-4) + 1e-9
        lags = np.abs(np.arange(order)[:, None] - np.arange(order))
        own.append(np.linalg.solve(r[lags], r[1:]))
    a = lpc_of_mel(log_mel(x, CONFIG), CONFIG, order)
    assert a.dtype == np.float32 and a.shape == (201, order)
    assert gain(x, a, order) > gain(x, np.array(own), order) - 1.0 > 5


def test_predictors_are_stable_and_silence_is_not_predicted(x):
    for row in lpc_of_mel(log_mel(x, CONFIG), CONFIG)[::10]:
        assert np.abs(np.roots(np.concatenate(([1.0], -row.astype(np.float64))))).max() < 1
    assert np.abs(lpc_of_mel(log_mel(np.zeros(800), CONFIG), CONFIG)).max() < 1e-6
