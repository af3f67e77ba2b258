"""Tell languages (here: speakers) apart after five clips of each: a pretrained trunk against one from scratch.

A WaveNet first learns to predict the samples of one speaker, without any label. Its trunk then learns, from five
clips of each language, which language a clip is in: frozen (only the layer on top learns) and fine-tuned. The same
network with initial weights gets the same clips. Each is tried with several draws of the five clips.

    python examples/get_speech.py                  # speech/: five languages, one speaker each
    python examples/language_id.py speech          # some minutes
    python examples/language_id.py                 # the bundled speech: Italian and Russian

It prints a table and leaves language_id.png, language_id_confusion.png and the trunk, language_id_trunk.safetensors.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

import wavedil as wd
from wavedil import report
from wavedil.audio import LabelledClips, augment

HEAD = {"head.*": 5.0}  # factors on the learning rate
ARMS = {
    "from scratch": wd.FineTune(lr_scale=HEAD),
    "pretrained, frozen": wd.FineTune(freeze=["input.*", "blocks.*"], lr_scale=HEAD),
    "pretrained, fine-tuned": wd.FineTune(lr_scale=HEAD | {"input.*": 0.1, "blocks.*": 0.1}),
}
CHANGES = [augment.Gain(-6, 6), augment.Noise(20, 40)]


def language(path):
    """The first folder; recorded silence is left out."""
    first, _, rest = path.partition("/")
    return None if rest.startswith("silence/") else first


def pretrain(path, folder, bundled, blocks, steps, device):
    """Write a model that predicts the samples of English (of the bundle: of both speakers), with averaged weights."""
    data = wd.audio.bundled_clips() if bundled else wd.audio.ClipFolder(f"{folder}/en", validation=0.05)
    model = wd.WaveNet(wd.WaveNetConfig(dilations=[2**i for i in range(blocks)]), seed=0, device=device)
    trainer = wd.Trainer(model, data, optimizer=wd.AdamW(8e-3), schedule=wd.schedules.cosine(steps), batch=2,
                         window=4096, ema=0.998, validation=data)  # fmt: skip
    trainer.fit(steps=steps)
    print(f"pretrained on {data.path.name}: {trainer.validate():.2f} bits/sample after {steps} steps", flush=True)
    trainer.save_model(path)


def classify(trunk, recipe, data, seed, steps, device):
    """A classifier that has learned from the training clips."""
    model = wd.ClipClassifier(trunk, data.labels, pooling="statistics", seed=seed, device=device)
    model.calibrate(data.train_clips())
    wd.Trainer(model, data, optimizer=wd.AdamW(1e-2), schedule=wd.schedules.cosine(steps), batch=8, window=8000,
               seed=seed, finetune=recipe).fit(steps=steps)  # fmt: skip
    return model


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("speech", nargs="?", help="a folder with a folder for each language; default: the bundle")
    parser.add_argument("--shots", type=int, default=5, help="training clips of each language")
    parser.add_argument("--seeds", type=int, default=5, help="draws of these clips")
    parser.add_argument("--steps", type=int, default=40, help="of each classifier")
    parser.add_argument("--pretrain-steps", type=int, default=1500)
    parser.add_argument("--blocks", type=int, default=10)
    parser.add_argument("--trunk", help="a model.safetensors to take instead of pretraining")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N or auto")
    parser.add_argument("--out", default="language_id", help="where pictures go, without .png")
    options = parser.parse_args(arguments)

    folder = options.speech or wd.audio.bundled_clips().path
    data = LabelledClips(folder, label=language, validation=0.1, augment=CHANGES)
    # At most two seconds of each held-out clip, and 20 of each language.
    held, second = [], data.sample_rate
    for label in data.labels:
        held += [clip for clip in data.validation_clips() if clip[2] == label][:20]
    held = [(name, codes[: 2 * second], label) for name, codes, label in held]
    print(f"{len(data.labels)} languages: {', '.join(data.labels)}; {options.shots} clips of each to learn from, "
          f"{len(held)} to judge by", flush=True)  # fmt: skip

    path = options.trunk or f"{options.out}_trunk.safetensors"
    if not options.trunk:
        pretrain(path, folder, not options.speech, options.blocks, options.pretrain_steps, options.device)
    trunk = wd.load(path, device=options.device)
    accuracy, seconds, confusion = {}, {}, {}
    for arm, recipe in ARMS.items():
        begin, accuracy[arm], confusion[arm] = time.perf_counter(), [], 0
        for seed in range(options.seeds):
            few = data.few(options.shots, seed)
            start = trunk.config if arm == "from scratch" else trunk
            model = classify(start, recipe, few, seed, options.steps, options.device)
            result = model.evaluate(held)
            accuracy[arm].append(result.accuracy)
            confusion[arm] = confusion[arm] + result.confusion
        seconds[arm] = (time.perf_counter() - begin) / options.seeds
        print(f"  {arm}: {' '.join(f'{a:.0%}' for a in accuracy[arm])}", flush=True)

    print(f"\n{'accuracy on held-out clips':27} {'median':>7} {'lowest':>7} {'highest':>8} {'seconds a run':>14}")
    for arm, runs in accuracy.items():
        print(f"{arm:27} {np.median(runs):7.0%} {min(runs):7.0%} {max(runs):8.0%} {seconds[arm]:14.0f}")
    print(f"{'chance':27} {1 / len(data.labels):7.0%}")

    # The last model as a stream: what it thinks while it listens.
    name, codes, text = held[-1]
    state, size = model.init_stream(), second // 4
    heard = [model.stream(codes[None, i : i + size], state)[0] for i in range(0, len(codes), size)]
    said = ", ".join(f"{(i + 1) / 4:.2f} s {data.labels[p.argmax()]} {p.max():.0%}" for i, p in enumerate(heard))
    print(f"\n{name} ({text}), quarter of a second by quarter of a second: {said}")

    report.spread(f"{options.out}.png", accuracy, "accuracy on held-out clips", 1 / len(data.labels),
                  f"{options.shots} clips of each language, {options.seeds} draws")  # fmt: skip
    best = max(accuracy, key=lambda arm: np.median(accuracy[arm]))
    report.confusion_matrix(f"{options.out}_confusion.png", confusion[best], data.labels, f"{best}, all draws")
    found = {"labels": data.labels, "judged_by": len(held), "shots": options.shots, "steps": options.steps,
             "pretrain_steps": options.pretrain_steps, "accuracy": accuracy,
             "confusion": {arm: counts.tolist() for arm, counts in confusion.items()}}  # fmt: skip
    Path(f"{options.out}.json").write_text(json.dumps(found, indent=1) + "\n")
    print(f"pictures: {options.out}.png, {options.out}_confusion.png; figures: {options.out}.json")
    return accuracy


if __name__ == "__main__":
    main()
