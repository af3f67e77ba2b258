"""Recognise spoken digits of a speaker who was never heard: leave one speaker out.

There is one take of each digit and speaker, so a classifier learns from a handful of clips, changed on the fly. Each
speaker is left out in turn: the trunk (a WaveNet that predicts the samples of the other speakers' speech, no labels)
and the classifier on it know nothing of the speaker that they are judged by.

    python examples/get_speech.py it it-menardi -o italian  # two Italian speakers, a man's and a woman's
    python examples/spoken_digits.py italian       # some minutes
    python examples/spoken_digits.py               # the bundled speech: an Italian and a Russian speaker

Any folder with `SPEAKER/digits/0.wav` to `9.wav` (or another extension) will do. Mind that with one speaker for each
language the digits of the speaker left out are words that nobody has taught: what can be right is what languages share
(tre, tres, trois, three). It prints a table and leaves spoken_digits.png, the confusion matrix.
"""

import argparse

import numpy as np

import wavedil as wd
from wavedil import report
from wavedil.audio import LabelledClips, augment

CHANGES = [augment.Speed(0.85, 1.15), augment.TimeShift(0.05), augment.Gain(-6, 6), augment.Noise(15, 40),
           augment.TimeMask(1, 0.08), augment.FrequencyMask(1, 400)]  # fmt: skip


def digit(path):
    """"3" for SPEAKER/digits/3.wav, None for all else."""
    folders, name = path.split("/")[:-1], path.rsplit("/", 1)[-1].split(".")[0]
    return name if len(folders) == 2 and folders[1] == "digits" and name in set("0123456789") else None


def train(data, speech, blocks, steps, pretrain_steps, device):
    """A classifier on a trunk that has learned to predict speech."""
    trunk = wd.WaveNet(wd.WaveNetConfig(dilations=[2**i for i in range(blocks)]), seed=0, device=device)
    wd.Trainer(trunk, speech, optimizer=wd.AdamW(8e-3), schedule=wd.schedules.cosine(pretrain_steps), batch=2,
               window=4096).fit(steps=pretrain_steps)  # fmt: skip
    model = wd.ClipClassifier(trunk, data.labels, pooling="attentive").calibrate(data.train_clips())
    trainer = wd.Trainer(model, data, optimizer=wd.AdamW(2e-3), schedule=wd.schedules.cosine(steps), batch=8,
                         window=5000, finetune=wd.FineTune(lr_scale={"head.*": 10.0}))  # fmt: skip
    losses = []
    trainer.fit(steps=steps, on_step=lambda progress: losses.append(progress.loss))
    return model, float(np.mean(losses[-10:]))


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("speech", nargs="?", help="a folder with a folder for each speaker; default: the bundle")
    parser.add_argument("--steps", type=int, default=80, help="of each classifier")
    parser.add_argument("--pretrain-steps", type=int, default=300)
    parser.add_argument("--blocks", type=int, default=10)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N or auto")
    parser.add_argument("--out", default="spoken_digits", help="where the picture goes, without .png")
    options = parser.parse_args(arguments)

    folder = options.speech or wd.audio.bundled_clips().path
    names = [name for name, _, _ in wd.audio.ClipFolder(folder, validation=0).train_clips()]
    everyone = LabelledClips(folder, label=digit, validation=0)
    speakers = sorted({name.split("/")[0] for name, _, _ in everyone.train_clips()})
    print(f"{len(speakers)} speakers: {', '.join(speakers)}; {len(everyone.train_clips())} clips of digits", flush=True)

    confusion = np.zeros((len(everyone.labels),) * 2, int)
    print(f"{'left out':12} {'right':>6} {'wrong':>6} {'accuracy':>9} {'training loss, bits':>20}   right were")
    for out in speakers:
        data = LabelledClips(folder, label=digit, augment=CHANGES, validation=lambda n, o=out: n.split("/")[0] == o)
        speech = wd.audio.ClipFolder(folder, validation=[name for name in names if name.startswith(f"{out}/")])
        model, loss = train(data, speech, options.blocks, options.steps, options.pretrain_steps, options.device)
        result = model.evaluate(data.validation_clips())
        right = np.diag(result.confusion)
        confusion += result.confusion
        wrong = result.confusion.sum() - right.sum()
        print(f"{out:12} {right.sum():6} {wrong:6} {result.accuracy:9.0%} {loss:20.2f}  "
              f" {' '.join(np.array(data.labels)[right > 0])}", flush=True)  # fmt: skip
    right, total = np.trace(confusion), confusion.sum()
    accuracy = right / total
    print(f"{'all':12} {right:6} {total - right:6} {accuracy:9.0%}   (chance: 10%)")
    report.confusion_matrix(f"{options.out}.png", confusion, everyone.labels,
                            f"speaker left out: {accuracy:.0%} of {total} right (chance: 10%)")  # fmt: skip
    print(f"picture: {options.out}.png")
    return accuracy


if __name__ == "__main__":
    main()
