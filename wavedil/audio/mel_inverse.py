"""What can be had back from a log-mel spectrum without a network: sound by Griffin-Lim, and linear prediction."""

import numpy as np

from wavedil import checks
from wavedil.audio.mel import MelConfig, window_and_filters


def griffin_lim(mel, config: MelConfig, iterations: int = 60, seed: int = 0) -> np.ndarray:
    """Make sound of a log-mel spectrum: the baseline of all vocoders.

    Magnitudes are the non-negative least squares solution of ``A^2 = M |X|^2``; their phases are found by the fast
    Griffin-Lim algorithm from random ones.

    Parameters
    ----------
    mel : array_like of float, shape (frames, mels)
        As `wavedil.audio.log_mel` makes it.
    config : MelConfig
        Its recipe.
    iterations : int, default 60
    seed : int, default 0
        Of the phases.

    Returns
    -------
    numpy.ndarray of float32, shape ((frames - 1) * hop,)
        Sample ``f * hop`` belongs to frame f; a clip of T samples is the first T of them.

    Raises
    ------
    DataError
        If `mel` is not (frames, mels), is empty, or holds NaN or infinite values.

    References
    ----------
    D. Griffin and J. Lim, Signal estimation from modified short-time Fourier transform, IEEE Transactions on Acoustics,
    Speech and Signal Processing 32(2), 1984; N. Perraudin et al., A fast Griffin-Lim algorithm, WASPAA 2013;
    `librosa.griffinlim`, `librosa.util.nnls`.
    """
    checks.whole("griffin_lim", "iterations", iterations)
    power = config.amplitudes(mel).T ** 2
    window, filters = window_and_filters(config)
    length = (power.shape[1] - 1) * config.hop
    import librosa

    magnitudes = np.sqrt(librosa.util.nnls(filters, power)) / window.max()  # librosa's window has its top at 1
    late = 0 if config.centred else config.window - config.window // 2  # librosa takes frames for centred
    more = (length + late) // config.hop + 1 - magnitudes.shape[1]
    y = librosa.griffinlim(np.pad(magnitudes, ((0, 0), (0, more))), n_iter=iterations, hop_length=config.hop,
                           win_length=config.window, n_fft=config.n_fft, window="hann", center=True,
                           length=length + late, random_state=seed)  # fmt: skip
    return y[late:].astype(np.float32)


def lpc_of_mel(mel, config: MelConfig, order: int = 12) -> np.ndarray:
    """Compute the linear predictor of each frame of a log-mel spectrum.

    ``x[t] ~ sum_k a[k] x[t - 1 - k]``, k in [0, order). The power spectrum is interpolated between the filters; its
    inverse Fourier transform, the autocorrelation, gets a noise floor of -40 dB and the lag window ``1 - 6e-5 i^2``;
    Levinson's recursion solves for a.

    Parameters
    ----------
    mel : array_like of float, shape (frames, mels)
        As `wavedil.audio.log_mel` makes it.
    config : MelConfig
        Its recipe.
    order : int, default 12
        Samples that the prediction looks back, below ``n_fft / 2``.

    Returns
    -------
    numpy.ndarray of float32, shape (frames, order)
        Row f is for the samples around ``f * hop``; the filter ``1 / (1 - sum_k a[k] z^-(k + 1))`` is stable.

    Raises
    ------
    DataError
        If `mel` is not (frames, mels), is empty, or holds NaN or infinite values.
    ConfigError
        If `order` is out of range.

    References
    ----------
    J.-M. Valin and J. Skoglund, LPCNet, arXiv:1810.11846, section 2.2; J. Durbin, The fitting of time-series models,
    Review of the International Statistical Institute 28(3), 1960.
    """
    order = checks.whole("lpc_of_mel", "order", order, 1, config.n_fft // 2 - 1)
    logs = 2 * np.log(config.amplitudes(mel))
    _, filters = window_and_filters(config)
    bins = np.arange(config.n_fft // 2 + 1)
    centres = filters @ bins
    at = np.clip(np.searchsorted(centres, bins) - 1, 0, config.mels - 2)
    share = np.clip((bins - centres[at]) / (centres[at + 1] - centres[at]), 0, 1)
    power = np.exp(logs[:, at] * (1 - share) + logs[:, at + 1] * share)
    r = np.fft.irfft(power)[:, : order + 1]
    lags = np.arange(order + 1)
    r *= 1 - 6e-5 * lags**2
    r[:, 0] *= 1 + 1e-4
    return _levinson(r).astype(np.float32)


def _levinson(r):
    """The predictors (frames, order) of autocorrelations (frames, order + 1)."""
    order = r.shape[1] - 1
    a, error = np.zeros((len(r), order)), r[:, 0].copy()
    for i in range(order):
        reflection = (r[:, i + 1] - (a[:, :i] * r[:, i:0:-1]).sum(axis=1)) / error
        a[:, :i] -= reflection[:, None] * a[:, :i][:, ::-1]
        a[:, i] = reflection
        error *= 1 - reflection**2
    return a
