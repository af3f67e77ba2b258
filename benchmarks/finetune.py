"""Fine-tuning against from scratch: how much speech and how many steps a new speaker needs, and what is forgotten.

A network is trained once on English speech. Then each of two other speakers is learned from 10, 60 and 300 s: from
scratch, by full fine-tuning, with the lower half frozen, and with low-rank adapters, with three seeds each (of the new
speech's windows, and of the weights from scratch; the pretrained network is always the same). Each arm has had three
learning rates on 60 s of the first speaker, the same three for all arms; the best is used everywhere. Fine-tuning gets
a fifth of the steps from scratch; full fine-tuning on 60 s also as many. Validation is on held-out clips of both
speakers.

It needs the folders that ``examples/get_speech.py`` makes, and goes on where it stopped: a finished run is not done
again. Bits against steps do not depend on the machine's load; seconds are steps times a time per step that is measured
at the end, on a machine that should then be calm.
"""

import json
import statistics
import time
from dataclasses import asdict, dataclass

import numpy as np

import wavedil as wd
from benchmarks import harness, plots
from benchmarks.harness import say

ARMS = ("from scratch", "full", "lower half frozen", "LoRA", "full, all steps")
COLOURS = {"full, all steps": "#6bbf9c", "LoRA": "#d9742b", "from scratch": "#777777", "full": "#0b6e4f",
           "lower half frozen": "#3d6fa5"}


@dataclass(frozen=True)
class Plan:
    """What is run; results of another plan are not gone on with."""

    old: str = "en"
    targets: tuple[str, ...] = ("it", "ru")
    seconds: tuple[float, ...] = (60.0, 10.0, 300.0)  # of new speech; the first is what learning rates are tried on
    seeds: tuple[int, ...] = (0, 1, 2)
    rates: tuple[float, ...] = (1e-3, 3e-3, 9e-3)
    dilations: tuple[int, ...] = tuple(2**i for i in range(10))
    channels: int = 32
    batch: int = 2
    window: int = 4096
    pretraining_steps: int = 2000
    pretraining_rate: float = 6e-3
    steps: int = 800  # from scratch
    share: int = 5  # fine-tuning gets so many times fewer
    held_out: float = 25.0  # seconds of each speaker


QUICK = Plan(targets=("ru",), old="it", seconds=(10.0,), seeds=(0, 1), rates=(1e-3, 9e-3), dilations=(1, 2, 4, 8),
             channels=8, window=1024, pretraining_steps=40, steps=40, held_out=5.0)  # fmt: skip


def config_of(plan):
    channels = dict.fromkeys(("residual_channels", "dilation_channels", "skip_channels", "end_channels"), plan.channels)
    return wd.WaveNetConfig(dilations=plan.dilations, **channels)


def recipe_of(plan, arm):
    half = len(plan.dilations) // 2 - 1
    return {"full": wd.FineTune(), "full, all steps": wd.FineTune(),
            "lower half frozen": wd.FineTune(freeze=["input.*", f"blocks.0-{half}.*"]),
            "LoRA": wd.FineTune(lora=wd.LoRA(2), train="*.bias")}.get(arm)  # fmt: skip


def fit(plan, arm, model, data, rate, steps, seed, old=None, threads=None):
    """Train; returns what is to be remembered of it."""
    trainer = wd.Trainer(
        model, data, optimizer=wd.AdamW(rate), schedule=wd.schedules.cosine(steps, warmup=min(10, steps // 4)),
        batch=plan.batch, window=plan.window, seed=seed, validation=data, validate_every=max(1, steps // 10),
        finetune=recipe_of(plan, arm), threads=threads,
    )  # fmt: skip
    curve = [(0, trainer.validate())]
    training = []

    def on_step(progress):
        training.append(progress.loss)
        if progress.validation is not None:
            curve.append((progress.step, progress.validation))

    trainer.fit(steps=steps, on_step=on_step)
    return {
        "arm": arm, "rate": rate, "steps": steps, "seed": seed, "curve": curve, "best": min(bits for _, bits in curve),
        "last": curve[-1][1], "training": statistics.fmean(training[-steps // 10 :]),
        "trained": trainer.weights.count, "parameters": model.params.count,
        "old": trainer.validate(old) if old is not None else None,
    }  # fmt: skip


class Runs:
    """All results, kept in the JSON file from run to run."""

    def __init__(self, plan, settings):
        self.plan, self.settings = plan, settings
        self.path = settings.out / "finetune.json"
        recipes = {arm: recipe_of(plan, arm).to_dict() for arm in ARMS if arm != "from scratch"}
        self.about = {"plan": json.loads(json.dumps(asdict(plan))), "recipes": recipes, "rates": {}, "runs": {},
                      "seconds_per_step": {}}
        if self.path.exists():
            earlier = json.loads(self.path.read_text())
            if earlier.get("plan") == self.about["plan"]:
                self.about |= {key: earlier[key] for key in ("rates", "runs", "seconds_per_step")}
        self._speech = {}

    def speech(self, speaker, seconds=None):
        if (speaker, seconds) not in self._speech:
            folder = wd.audio.ClipFolder(self.settings.speech / speaker)
            self._speech[speaker, seconds] = folder.take(seconds, validation=self.plan.held_out)
        return self._speech[speaker, seconds]

    def keep(self, key, result):
        self.about["runs"][key] = result
        self.settings.out.mkdir(parents=True, exist_ok=True)
        whole = self.path.with_suffix(".part")
        whole.write_text(json.dumps(self.about, indent=1))
        whole.replace(self.path)  # a kill loses one run at most

    def pretrained(self):
        """The network that fine-tuning starts from: trained once, then read from a file."""
        plan, path = self.plan, self.settings.out / "finetune-pretrained.safetensors"
        if "pretraining" in self.about["runs"] and path.exists():
            return wd.load(path, threads=self.settings.threads)
        model = wd.WaveNet(config_of(plan), seed=0, threads=self.settings.threads)
        data = self.speech(plan.old)
        result = fit(plan, "pretraining", model, data, plan.pretraining_rate, plan.pretraining_steps, 0)
        model.save(path)
        self.keep("pretraining", result)
        return model

    def one(self, arm, target, seconds, seed, rate):
        """One run, unless it has been done."""
        key = f"{arm} | {target} | {seconds:g} s | seed {seed} | rate {rate:g}"
        if key in self.about["runs"]:
            return self.about["runs"][key]
        plan = self.plan
        if arm == "from scratch":
            model = wd.WaveNet(config_of(plan), seed=seed, threads=self.settings.threads)
        else:
            model = self.pretrained()
        steps = plan.steps if arm in ("from scratch", "full, all steps") else plan.steps // plan.share
        begin = time.perf_counter()
        old = None if arm == "from scratch" else self.speech(plan.old)
        result = fit(plan, arm, model, self.speech(target, seconds), rate, steps, seed, old)
        result |= {"target": target, "seconds": seconds}
        self.keep(key, result)
        forgot = "" if old is None else f", old speaker {result['old']:.3f}"
        say(f"{key}: {result['curve'][0][1]:.3f} -> {result['last']:.3f}, best {result['best']:.3f}{forgot}; "
            f"{time.perf_counter() - begin:.0f} s")
        return result

    def done(self, arm=None, target=None, seconds=None):
        """Runs with the chosen rates."""
        return [
            run for key, run in self.about["runs"].items() if key != "pretraining" and arm in (None, run["arm"])
            and target in (None, run["target"]) and seconds in (None, run["seconds"])
            and run["rate"] == self.about["rates"].get(run["arm"])
        ]  # fmt: skip


def time_steps(runs):
    """Median seconds of a step of each arm, in alternation."""
    plan, data = runs.plan, runs.speech(runs.plan.targets[0], runs.plan.seconds[0])
    trainers = {arm: wd.Trainer(runs.pretrained(), data, batch=plan.batch, window=plan.window,
                                finetune=recipe_of(plan, arm)) for arm in ARMS[:4]}  # fmt: skip

    def steps_of(trainer, count):
        seconds = []
        for _ in range(count):
            begin = time.perf_counter()
            trainer.fit(steps=1)
            seconds.append(time.perf_counter() - begin)
        return seconds

    for trainer in trainers.values():
        steps_of(trainer, 3)
    rounds, count = (2, 3) if runs.settings.quick else (9, 20)
    times = harness.alternate({arm: lambda t=t: steps_of(t, count) for arm, t in trainers.items()}, rounds)
    # Against the full step: half of it frozen must take less.
    times[ARMS[4]] = times["full"]
    return {arm: {**harness.summary(seconds), "ratio": harness.ratio(seconds, times["full"])["median"]}
            for arm, seconds in times.items()}  # fmt: skip


def judge(runs):
    """What the project set itself, and what came; medians over the seeds."""
    plan, first = runs.plan, runs.plan.seconds[0]
    out = []
    for target in plan.targets:
        by_arm = {arm: runs.done(arm, target, first) for arm in ARMS}
        scratch = statistics.median(run["best"] for run in by_arm["from scratch"])
        full = statistics.median(run["last"] for run in by_arm["full"])
        before = runs.about["runs"]["pretraining"]["last"]
        for arm, done in by_arm.items():
            if arm == "from scratch":
                continue
            last = statistics.median(run["last"] for run in done)
            reached = [next((step for step, bits in run["curve"] if bits <= scratch), None) for run in done]
            never = plan.steps + 1
            steps = statistics.median(never if step is None else step for step in reached)
            out.append({
                "target": target, "arm": arm, "seconds": first, "scratch_best": scratch, "last": last,
                "lower_by": 1 - last / scratch, "steps_to_scratch_best": None if steps == never else steps,
                "share_of_steps": None if steps == never else steps / plan.steps, "against_full": last / full - 1,
                "trained_share": done[0]["trained"] / done[0]["parameters"],
                "forgot": statistics.median(run["old"] for run in done) - before,
            })  # fmt: skip
    return out


def draw(runs):
    plan, about = runs.plan, runs.about
    columns = 1 + len(plan.targets)
    footnote = (f"{len(plan.dilations)} blocks, {plan.channels} channels, batch {plan.batch} x {plan.window}; "
                f"{len(plan.seeds)} seeds: median, and all of them in the band; "
                f"pretrained on {plan.old}, {plan.pretraining_steps} steps")  # fmt: skip
    fig, axes = plots.figure(4.3 * columns, 7.2, 2, columns, footnote)
    grid = [axes[:columns], axes[columns:]]
    first = plan.seconds[0]
    for column, target in enumerate(plan.targets):
        for row, ax in enumerate(line[column] for line in grid):
            for arm in ARMS:
                done = runs.done(arm, target, first)
                if not done:
                    continue
                steps = np.array([step for step, _ in done[0]["curve"]])
                bits = np.array([[value for _, value in run["curve"]] for run in done])
                x = steps if row == 0 else steps * about["seconds_per_step"][arm]["median"]
                ax.plot(x, np.median(bits, axis=0), color=COLOURS[arm], label=arm, linewidth=1.6)
                ax.fill_between(x, bits.min(axis=0), bits.max(axis=0), color=COLOURS[arm], alpha=0.2, linewidth=0)
            scratch = [run["best"] for run in runs.done("from scratch", target, first)]
            ax.axhline(statistics.median(scratch), color=COLOURS["from scratch"], linewidth=0.8, linestyle=":")
            everything = [bits for run in runs.done(None, target, first) for _, bits in run["curve"][1:]]
            ax.set_ylim(min(everything) - 0.08, min(everything) + 1.5)
            ax.set_xlabel("step" if row == 0 else "seconds on this machine, validation left out")
            ax.set_ylabel("bits/sample of held-out clips")
            ax.set_title(f"{target}: {first:g} s of new speech", fontsize=10, loc="left")
    grid[0][0].legend(fontsize=8, frameon=False)

    amount, forgotten = grid[0][-1], grid[1][-1]
    seconds = sorted(plan.seconds)
    for arm in ARMS:
        for style, target in zip(("-", "--"), plan.targets, strict=False):
            points = [(s, [run["last"] if arm != "from scratch" else run["best"] for run in runs.done(arm, target, s)],
                       [run["old"] for run in runs.done(arm, target, s)]) for s in seconds]  # fmt: skip
            points = [point for point in points if point[1]]
            x = [s for s, _, _ in points]
            label = f"{arm}, {target}"
            for ax, which in ((amount, 1), (forgotten, 2)):
                if which == 2 and arm == "from scratch":
                    continue
                values = [statistics.median(point[which]) for point in points]
                spread = [[v - min(p[which]) for v, p in zip(values, points, strict=True)],
                          [max(p[which]) - v for v, p in zip(values, points, strict=True)]]  # fmt: skip
                ax.errorbar(x, values, yerr=spread, fmt=f"o{style}", color=COLOURS[arm], markersize=3.5, linewidth=1.4,
                            capsize=2, label=label)  # fmt: skip
    before = about["runs"]["pretraining"]["last"]
    forgotten.axhline(before, color="#777777", linewidth=0.8, linestyle=":")
    forgotten.annotate("before", (seconds[0], before), (0, 2), textcoords="offset points", fontsize=7)
    for ax, title, unit in ((amount, "new speaker, at the end", "bits/sample"),
                            (forgotten, "old speaker afterwards: less is less forgotten", "bits/sample")):  # fmt: skip
        ax.set_xscale("log")
        ax.set_xticks(seconds, [f"{s:g} s" for s in seconds])
        ax.minorticks_off()
        ax.set_xlabel("new speech")
        ax.set_ylabel(unit)
        ax.set_title(title, fontsize=10, loc="left")
    low, high = amount.get_ylim()
    amount.set_ylim(low, high + 0.35 * (high - low))  # room for the legend
    amount.legend(fontsize=6.5, frameon=False, ncols=2, loc="upper right")
    return fig


def run(settings):
    plan = QUICK if settings.quick else Plan()
    missing = [speaker for speaker in (plan.old, *plan.targets) if not (settings.speech / speaker).is_dir()]
    if missing:
        say(f"finetune: left out: {settings.speech} has no folder {missing[0]}: python examples/get_speech.py makes it")
        return
    runs = Runs(plan, settings)
    runs.pretrained()
    say(f"pretrained on {plan.old}: {runs.about['runs']['pretraining']['last']:.3f} bits/sample")
    first = plan.seconds[0]
    for arm in ARMS:
        tried = {rate: runs.one(arm, plan.targets[0], first, plan.seeds[0], rate)["best"] for rate in plan.rates}
        runs.about["rates"][arm] = min(tried, key=tried.get)
        say(f"{arm}: rate {runs.about['rates'][arm]:g} of " + ", ".join(f"{r:g}: {b:.3f}" for r, b in tried.items()))
    order = [(first, seed) for seed in plan.seeds]
    order += [(seconds, seed) for seed in plan.seeds for seconds in plan.seconds[1:]]
    for seconds, seed in order:
        for target in plan.targets:
            for arm in ARMS if seconds == first else ARMS[:4]:
                runs.one(arm, target, seconds, seed, runs.about["rates"][arm])
    busy = harness.busy(harness.machine())
    if busy and runs.about["seconds_per_step"]:
        say(f"seconds per step are those of before: {busy}")
    else:
        runs.about["seconds_per_step"] = time_steps(runs)
    runs.about["judged"] = judge(runs)
    for row in runs.about["judged"]:
        say(json.dumps({key: round(v, 4) if isinstance(v, float) else v for key, v in row.items()}))
    harness.write_results("finetune", runs.about, draw(runs), settings)
