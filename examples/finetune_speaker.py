"""Train once on 24 minutes of English, then adapt to an Italian, a Russian and a French speaker with 60 seconds each.

    python examples/finetune_speaker.py          # fetches the speech first (examples/get_speech.py)

For each speaker it prints the bits/sample of held-out clips before and after, against a network of the same size that
learns the speaker from scratch in the same time, and writes a sample to listen to. Under 15 minutes on 2 cores.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import wavedil as wd

SECONDS = 60.0  # of each new speaker
SPEAKERS = {"it": "Italian", "ru": "Russian", "fr": "French"}


def train(model, data, steps, rate, what, **options):
    """Train and return the bits/sample of the held-out clips before and after."""
    trainer = wd.Trainer(model, data, optimizer=wd.AdamW(rate), schedule=wd.schedules.cosine(steps, warmup=10), batch=2,
                         validation=data, validate_every=steps, **options)
    before, begin = trainer.validate(), time.perf_counter()

    def on_step(progress):
        if progress.step % max(1, steps // 5) == 0:
            print(f"  {what}: step {progress.step}/{steps}, training {progress.loss:.2f} bits/sample, "
                  f"{time.perf_counter() - begin:.0f} s", flush=True)

    trainer.fit(steps=steps, on_step=on_step)
    return before, trainer.validate()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speech", type=Path, default=Path("speech"), help="where get_speech.py puts the speakers")
    parser.add_argument("--out", type=Path, default=Path("runs/finetune_speaker"), help="for models and samples")
    parser.add_argument("--steps", type=int, default=2500, help="on English; a speaker gets a tenth of that")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N or auto")
    arguments = parser.parse_args()
    missing = [name for name in ("en", *SPEAKERS) if not (arguments.speech / name).is_dir()]
    if missing:
        fetch = [sys.executable, Path(__file__).with_name("get_speech.py"), *missing, "-o", arguments.speech]
        if subprocess.run(fetch).returncode:
            sys.exit(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    config = wd.WaveNetConfig(dilations=[2**i for i in range(10)])
    steps, few = arguments.steps, max(1, arguments.steps // 10)

    english = wd.audio.ClipFolder(arguments.speech / "en")
    path = arguments.out / "english.safetensors"
    if path.exists():
        print(f"English: {path} is there already")
    else:
        print(f"English: {english.audit.train_seconds / 60:.1f} min, {steps} steps")
        model = wd.WaveNet(config, seed=0, device=arguments.device)
        _, bits = train(model, english, steps, 6e-3, "English")
        model.save(path)
        print(f"English: {bits:.3f} bits/sample of held-out clips")

    rows = []
    for name, language in SPEAKERS.items():
        data = wd.audio.ClipFolder(arguments.speech / name).take(SECONDS)
        scratch = wd.WaveNet(config, seed=0, device=arguments.device)
        _, alone = train(scratch, data, few, 9e-3, f"{language} from scratch")
        model = wd.load(path, device=arguments.device)
        before, after = train(model, data, few, 3e-3, f"{language} from English")
        old = wd.Trainer(model, english, validation=english).validate()
        rows.append((language, alone, before, after, old))
        model.save(arguments.out / f"{name}.safetensors")
        codes = model.generate(3 * data.sample_rate, seed=0)
        wd.audio.write_audio(arguments.out / f"{name}.wav", wd.audio.mulaw_decode(codes[0]), data.sample_rate)

    print(f"\nbits/sample of held-out clips; {SECONDS:.0f} s of each new speaker, {few} steps")
    print(f"{'speaker':10}{'from scratch':>14}{'before':>10}{'fine-tuned':>12}{'English then':>14}")
    for language, alone, before, after, old in rows:
        print(f"{language:10}{alone:14.3f}{before:10.3f}{after:12.3f}{old:14.3f}")
    print(f"\nIn {arguments.out}: {', '.join(f'{name}.wav' for name in SPEAKERS)}, and the models beside them.")


if __name__ == "__main__":
    main()
