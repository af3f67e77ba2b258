"""Clips with labels, for classifiers: the classes of a folder, a split in each of them, random batches."""

import copy
import os
from collections.abc import Callable

import numpy as np

from wavedil import checks
from wavedil.audio import finding
from wavedil.audio.augment import Augmentation
from wavedil.audio.clips import padded
from wavedil.audio.folder import CACHE_LIMIT, ClipFolder
from wavedil.errors import ConfigError, DataError


class LabelledClips:
    """All audio below a folder, each clip with a label, split in each class into training and validation.

    Files are found and decoded as by `ClipFolder`; what cannot be used is listed in `skipped`.

    Parameters
    ----------
    path : str or path
    sample_rate : int, default 8000
        Hz. Files of another rate are refused, unless `resample`: a classifier would learn to hear the rate.
    label : "folder", "name" or callable, default "folder"
        Where labels come from: the first folder below `path`; the file's name without its extension; or
        ``label(path)`` of the path below the folder, with forward slashes, which returns a text, or None to leave the
        clip out.
    labels : sequence of str, optional
        The classes in their order. Each must have clips, and each clip must be in one of them. Default: all that are
        found, sorted.
    validation : float, collection of str or callable, default 0.1
        What to hold out: about this share of each class, by a hash of `seed` and the path, and at least one clip; these
        paths; or those for which ``validation(path)`` is true. 0 holds out nothing.
    seed : int, default 0
        Of the split.
    augment : sequence of Augmentation, default none
        Applied in this order to training clips, anew each time a clip is drawn; see `wavedil.audio.augment`.
    resample : bool, default False
        Allow files of other rates.
    codec, cache_limit, cache_dir
        As in `ClipFolder`.

    Attributes
    ----------
    labels : tuple of str
    sample_rate : int
    codec : Codec
    counts : dict of str to (int, int)
        Clips of each class: for training, and held out.
    skipped : tuple of (str, str)
        Files that cannot be used, each with the reason.

    Raises
    ------
    DataError
        If a class has no clip, none to train on, or only one where a share is to be held out; if a label is not among
        `labels`; if files have unequal sample rates; and where `ClipFolder` raises it.
    ConfigError
        If an argument has an impossible value.
    """

    def __init__(
        self,
        path,
        sample_rate=8000,
        *,
        label="folder",
        labels=None,
        validation=0.1,
        seed=0,
        augment=(),
        resample=False,
        codec="mulaw",
        cache_limit=CACHE_LIMIT,
        cache_dir=None,
    ):
        if label not in ("folder", "name") and not callable(label):
            raise ConfigError(f'LabelledClips: label must be "folder", "name" or callable, got {label!r}')
        self.augment = tuple(augment)
        for change in self.augment:
            if not isinstance(change, Augmentation):
                raise ConfigError(f"LabelledClips: augment must hold augmentations, got {change!r}")
        self._folder = ClipFolder(
            path, sample_rate, validation=0, codec=codec, cache_limit=cache_limit, cache_dir=cache_dir
        )
        self.path, self.sample_rate, self.codec = self._folder.path, self._folder.sample_rate, self._folder.codec
        self.skipped = self._folder.audit.skipped
        if not resample:
            self._check_rates()
        self._all = self._folder.train_clips()
        of_clip = {}  # number of a clip -> its label
        for i, (name, _, _) in enumerate(self._all):
            if (text := self._label(name, label)) is not None:
                of_clip[i] = text
        self.labels = self._classes(of_clip, labels, label == "folder")
        held = self._held_out(of_clip, validation, seed)
        self._train = {text: [i for i in of_clip if of_clip[i] == text and i not in held] for text in self.labels}
        self._validation = {text: [i for i in of_clip if of_clip[i] == text and i in held] for text in self.labels}
        for text in self.labels:
            if not self._train[text]:
                raise DataError(
                    f"{self.path}: class {text!r} must have a clip to train on, all its {len(self._validation[text])} "
                    "are held out"
                )

    @property
    def counts(self):
        """Clips of each class: for training, and held out."""
        return {text: (len(self._train[text]), len(self._validation[text])) for text in self.labels}

    def few(self, clips, seed=0):
        """The same with only so many training clips of each class, drawn by a seed; what is held out stays.

        Raises
        ------
        DataError
            If a class has fewer.
        """
        for text, there in self._train.items():
            if not 1 <= clips <= len(there):
                raise DataError(f"{self.path}: class {text!r} has {len(there)} training clips, got {clips} to draw")
        rng, other = np.random.default_rng(seed), copy.copy(self)
        other._train = {text: sorted(rng.choice(there, clips, replace=False)) for text, there in self._train.items()}
        return other

    def batch(self, rng, batch, window):
        """Draw random training clips, each class as often as any other.

        Parameters
        ----------
        rng : numpy.random.Generator
            The same state gives the same batch.
        batch : int
            Number of clips B.
        window : int
            The most samples of a clip; of a longer one a random part is taken.

        Returns
        -------
        codes : (B, T) array of the codec's type
            T is the length of the longest; the rest is silence.
        labels : (B,) array of str
        lengths : (B,) array of int64
            Samples of each clip.
        """
        where = "LabelledClips.batch"
        batch, window = checks.whole(where, "batch", batch), checks.whole(where, "window", window)
        texts = [self.labels[i] for i in rng.integers(len(self.labels), size=batch)]
        clips = []
        for text in texts:
            codes = self._all[self._train[text][rng.integers(len(self._train[text]))]][1]
            if self.augment:
                x = self.codec.decode(codes)
                for change in self.augment:
                    x = change(x, self.sample_rate, rng)
                codes = self.codec.encode(x)
            start = rng.integers(max(len(codes) - window, 0) + 1)
            clips.append(codes[start : start + window])
        return self._rows(clips, texts)

    def train_clips(self):
        """Return (path below the folder, 1-D codes, label) of each training clip, class by class."""
        return self._listed(self._train)

    def validation_clips(self):
        """Return (path below the folder, 1-D codes, label) of each held-out clip, class by class."""
        return self._listed(self._validation)

    def validation_batches(self, batch, window):
        """Yield the arguments of a classifier's ``loss`` and the number of clips in them: whole held-out clips."""
        clips = sorted(self.validation_clips(), key=lambda clip: len(clip[1]))
        for i in range(0, len(clips), batch):
            _, codes, texts = zip(*clips[i : i + batch], strict=True)
            yield self._rows(codes, texts), len(codes)

    def _rows(self, clips, texts):
        codes, lengths = padded(clips, self.codec)
        return codes, np.array(texts), lengths

    # checks -----------------------------------------------------------------------------------------------------------
    def _check_rates(self):
        rates = self._folder.audit.rates
        if set(rates) != {self.sample_rate}:
            found = ", ".join(f"{count} at {rate} Hz" for rate, count in rates.items())
            raise DataError(
                f"{self.path}: expected clips at {self.sample_rate} Hz, got {found}; pass sample_rate, or "
                "resample=True (if the rates go with the classes, the rate is what will be learned)"
            )

    def _label(self, name, label):
        if label == "name":
            return os.path.splitext(name.rsplit("/", 1)[-1])[0]
        if label == "folder":
            if "/" not in name:
                raise DataError(f"{self.path}: expected each clip in a folder of its class, got {name}")
            return name.split("/", 1)[0]
        text = label(name)
        if text is not None and not (isinstance(text, str) and text):
            raise ConfigError(f"LabelledClips: label({name!r}) must return a text or None, got {text!r}")
        return text

    def _classes(self, of_clip, labels, folders):
        found = set(of_clip.values())
        if folders:  # a folder without a usable clip is a class that nobody can learn
            for entry in sorted(os.scandir(self.path), key=lambda entry: entry.name):
                if entry.is_dir() and entry.name not in found and (labels is None or entry.name in labels):
                    raise DataError(f"{self.path}: class {entry.name!r} must have a clip, its folder has no usable one")
        if labels is None:
            labels = sorted(found)
        elif isinstance(labels, str) or len(set(labels)) != len(labels) or not all(isinstance(t, str) for t in labels):
            raise ConfigError(f"LabelledClips: labels must be a sequence of different texts, got {labels!r}")
        for text in labels:
            if text not in found:
                raise DataError(f"{self.path}: class {text!r} must have a clip, got none")
        for i, text in of_clip.items():
            if text not in labels:
                raise DataError(
                    f"{self.path}: {self._all[i][0]} has the unknown label {text!r}, expected one of "
                    f"{', '.join(labels)}; a label function may return None to leave clips out"
                )
        if len(labels) < 2:
            raise DataError(f"{self.path}: expected clips of at least 2 classes, got {', '.join(labels) or 'none'}")
        return tuple(labels)

    def _held_out(self, of_clip, validation, seed):
        names = {i: self._all[i][0] for i in of_clip}
        if isinstance(validation, Callable):
            return {i for i, name in names.items() if validation(name)}
        if finding.is_paths(validation):
            held = finding.named(self.path, validation, names.values())
            return {i for i, name in names.items() if name in held}
        validation = finding.share("LabelledClips", validation, "paths or a function")
        held = set()
        for text in self.labels if validation else ():
            mine = [i for i in of_clip if of_clip[i] == text]
            if len(mine) < 2:
                raise DataError(
                    f"{self.path}: class {text!r} must have 2 clips, one to train on and one to hold out, got 1; "
                    "validation=0 holds out none"
                )
            mine.sort(key=lambda i: finding.chance(seed, names[i]))
            held.update(mine[: min(max(1, round(validation * len(mine))), len(mine) - 1)])
        return held

    def _listed(self, clips):
        return [(*self._all[i][:2], text) for text in self.labels for i in clips[text]]
