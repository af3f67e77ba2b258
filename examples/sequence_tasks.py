"""Standard sequence tasks for a TCN (arXiv:1803.01271, section 4), with data that needs no download.

    python examples/sequence_tasks.py adding-200 --seed 0
    python examples/sequence_tasks.py adding-600 --steps 6000
    python examples/sequence_tasks.py digits
    python examples/sequence_tasks.py permuted-digits
    python examples/sequence_tasks.py text

adding            the sum of the two numbers that are marked in a sequence of 200 or 600 random ones; mean square error
digits            which digit an image of 8 x 8 pixels shows, read pixel by pixel (scikit-learn's bundled digits)
permuted-digits   the same pixels in a fixed random order
text              the next character of Python's own help texts (`pydoc_data.topics`, which comes with Python); bits
"""

import argparse
import functools
import math
import time

import numpy as np

import wavedil as wd
from wavedil.training import Arrays


class Adding:
    """Random numbers in [0, 1), of which one in each half has a mark; the target is the sum of the two."""

    def __init__(self, time):
        self.time = time

    def batch(self, rng, batch, window=None):
        x = np.zeros((batch, self.time, 2), np.float32)
        x[..., 0] = rng.random((batch, self.time))
        half, rows = self.time // 2, np.arange(batch)
        places = rng.integers(half, size=batch), half + rng.integers(self.time - half, size=batch)
        for place in places:
            x[rows, place, 1] = 1
        return x, sum(x[rows, place, 0] for place in places)[:, None]


def adding(length, seed, **options):
    """8 levels of 24 channels with kernel 8 see 3571 rows, of which a prediction reads 600."""
    levels = 8 if length > 300 else 7
    config = wd.TCNConfig(dilations=[2**i for i in range(levels)], channels=24, kernel_size=8, inputs=2, head="last")
    test = Adding(length).batch(np.random.default_rng(10**6), 1000)
    return {
        "model": wd.TCN(config, seed=seed, **options),
        "data": Adding(length),
        "options": {"optimizer": wd.Adam(4e-3), "batch": 32, "clip": 0.5},
        "steps": 12000 if length > 300 else 6000,
        "measure": lambda model: {"test MSE": float(np.mean((model.predict(test[0]) - test[1]) ** 2))},
    }


def digits(permuted, seed, **options):
    """1797 images: the last 360 are the test; the pixels run from 0 to 1."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x = (images / 16).astype(np.float32)[:, :, None]
    if permuted:
        x = x[:, np.random.default_rng(1).permutation(64)]
    count = len(x) - 360
    config = wd.TCNConfig(dilations=[1, 2, 4, 8], channels=32, kernel_size=5, inputs=1, outputs=10, head="last",
                          loss="cross_entropy", dropout=0.1)  # fmt: skip
    return {
        "model": wd.TCN(config, seed=seed, **options),
        "data": Arrays(x[:count], labels[:count], per_item=True),
        "options": {"optimizer": wd.AdamW(4e-3), "batch": 64},
        "steps": 2000,
        "measure": lambda model: {
            "test accuracy": float(np.mean(model.predict(x[count:]).argmax(1) == labels[count:]))
        },
    }


def text(seed, **options):
    """465,126 characters of 103 kinds with Python 3.11; the last tenth is the test."""
    from pydoc_data.topics import topics

    whole = "\n\n".join(topics[name] for name in sorted(topics))
    kinds = sorted(set(whole))
    codes = np.searchsorted(kinds, list(whole))
    count = len(codes) * 9 // 10
    config = wd.TCNConfig(dilations=[1, 2, 4, 8, 16], channels=128, kernel_size=3, classes=len(kinds), inputs=64,
                          outputs=len(kinds), loss="cross_entropy", dropout=0.1)  # fmt: skip
    field = config.receptive_field

    def bits(model):
        """Of each character of the test, with its whole past in sight."""
        part = codes[count - field :]
        weights = np.ones((1, len(part) - 1), np.float32)
        weights[:, : field - 1] = 0
        return {"test bits per character": model.loss(part[None, :-1], part[None, 1:], weights) / math.log(2)}

    return {
        "model": wd.TCN(config, seed=seed, **options),
        "data": Arrays(codes[None, : count - 1], codes[None, 1:count], context=field),
        "options": {"optimizer": wd.AdamW(2e-3), "batch": 16, "window": 256},
        "steps": 2000,
        "measure": bits,
    }


TASKS = {
    "adding-200": functools.partial(adding, 200),
    "adding-600": functools.partial(adding, 600),
    "digits": functools.partial(digits, False),
    "permuted-digits": functools.partial(digits, True),
    "text": text,
}


def start(name, seed=0, steps=None, threads=None, folder=None, device="cpu"):
    """A trainer for a task, its number of steps, and a function that measures a model.

    If the folder holds an unfinished run, the trainer goes on with it.
    """
    task = TASKS[name](seed, threads=threads, device=device)
    steps = steps or task["steps"]
    if folder is not None and (folder / "trainer.safetensors").exists():
        return wd.Trainer.resume(folder, task["data"], threads=threads, device=device), steps, task["measure"]
    schedule = wd.schedules.cosine(steps, warmup=min(100, steps // 10))
    options = task["options"] | {"seed": seed, "schedule": schedule, "folder": folder}
    return wd.Trainer(task["model"], task["data"], **options), steps, task["measure"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N or auto")
    options = parser.parse_args()

    def on_step(progress):
        if progress.step % 100 == 0 or progress.seconds_left == 0:
            print(f"step {progress.step}: training loss {progress.loss:.3g}, {progress.seconds_left:.0f} s left")

    trainer, steps, measure = start(options.task, options.seed, options.steps, options.threads, device=options.device)
    print(trainer.model)
    begin = time.perf_counter()
    trainer.fit(steps=steps, on_step=on_step)
    seconds = time.perf_counter() - begin
    print(", ".join(f"{name} {value:.4g}" for name, value in measure(trainer.model).items()), f"({seconds:.0f} s)")


if __name__ == "__main__":
    main()
