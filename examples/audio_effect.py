"""Learn an audio effect from a pair of WAV files: dry, and wet as the effect made it.

    python examples/audio_effect.py                        makes both from the bundled speech first
    python examples/audio_effect.py --dry a.wav --wet b.wav
    wavedil stream effect -i effect/dry.wav -o effect/streamed.wav

The effect that the script makes is a nonlinearity with memory: an overdriven stage whose gain sags under loud input,
with feedback. A TCN learns it sample by sample from random windows, with the receptive field's past before each. The
last tenth of the pair is held out; what is reported is its error-to-signal ratio, sum (wet - y)^2 / sum wet^2.
"""

import argparse
import math
from pathlib import Path

import numpy as np

import wavedil as wd
from wavedil.training import Arrays


def overdrive(x):
    """y = tanh(gain x + 0.5 y'), gain = 6 / (1 + 8 e), where the envelope e follows |x| and y' is the sample before."""
    y, envelope, before = np.empty_like(x), 0.0, 0.0
    for t, sample in enumerate(x.tolist()):
        envelope += 0.01 * (abs(sample) - envelope)
        before = math.tanh(6 / (1 + 8 * envelope) * sample + 0.5 * before)
        y[t] = 0.7 * before
    return y


def make_pair(folder, seconds=60):
    """Dry speech and what the overdrive makes of it, as two WAV files."""
    manifest, clips = wd.audio.bundled_manifest(), Path(wd.audio.__file__).with_name("bundled")
    rate, dry = manifest["sample_rate"], np.zeros(0, np.float32)
    for clip in manifest["clips"]:
        if clip["kind"] == "sentences" and len(dry) < seconds * rate:
            dry = np.concatenate([dry, wd.audio.read_audio(clips / clip["path"], rate)])
    dry = dry[: seconds * rate]
    paths = folder / "dry.wav", folder / "wet.wav"
    for path, sound in zip(paths, (dry, overdrive(dry)), strict=True):
        wd.audio.write_audio(path, sound, rate)
    return paths


def error_to_signal(model, dry, wet, begin):
    """Of everything from sample ``begin`` on; the network hears all that comes before."""
    y = model.predict(dry[None, :, None])[0, :, 0]
    return float(np.sum((wet[begin:] - y[begin:]) ** 2, dtype=np.float64) / np.sum(wet[begin:] ** 2, dtype=np.float64))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", type=Path)
    parser.add_argument("--wet", type=Path)
    parser.add_argument("--out", type=Path, default=Path("effect"), help="folder of the run")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N or auto")
    parser.add_argument("--seconds", type=int, default=60, help="length of the pair that is made")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if (options.dry is None) != (options.wet is None):
        parser.error("give both --dry and --wet, or neither")
    paths = (options.dry, options.wet) if options.dry else make_pair(options.out, options.seconds)
    import soundfile

    rate = soundfile.info(paths[0]).samplerate
    dry, wet = (wd.audio.read_audio(path, rate) for path in paths)
    if len(dry) != len(wet):
        parser.error(f"the two files must be equally long, got {len(dry)} and {len(wet)} samples")

    config = wd.TCNConfig(dilations=[2**i for i in range(9)], channels=16, kernel_size=3, sample_rate=rate)
    model = wd.TCN(config, seed=0, device=options.device)
    print(f"{model}: {1000 * model.receptive_field / rate:.0f} ms")
    held_out = len(dry) * 9 // 10
    data = Arrays(dry[None, :held_out, None], wet[None, :held_out, None], context=model.receptive_field - 1)

    def on_step(progress):
        if progress.step % 100 == 0:
            ratio = progress.loss / float(np.mean(wet**2))
            print(f"step {progress.step}: error to signal {ratio:.2%}, {progress.seconds_left:.0f} s left")

    schedule = wd.schedules.cosine(options.steps, warmup=min(50, options.steps // 10))
    trainer = wd.Trainer(model, data, optimizer=wd.Adam(4e-3), schedule=schedule, batch=16, window=2048,
                         folder=options.out)  # fmt: skip
    trainer.fit(steps=options.steps, on_step=on_step)
    ratio = error_to_signal(model, dry, wet, held_out)
    print(f"held out: error-to-signal ratio {ratio:.3%} ({10 * math.log10(ratio):.1f} dB)")
    print(f"hear it: wavedil stream {options.out} -i {paths[0]} -o streamed.wav")


if __name__ == "__main__":
    main()
