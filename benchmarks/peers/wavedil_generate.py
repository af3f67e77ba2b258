"""wavedil generates and streams, through the calls that a user makes."""

import functools
import math
import time
from pathlib import Path

import numpy as np

import wavedil as wd
from benchmarks import problem as problems
from benchmarks.peers import probe, worker
from wavedil import streaming


class WavedilGenerate(worker.Peer):
    def do_setup(self, problem, path, *, batch, threads, rate=16000, device="cpu", storage=None):
        self.problem, self.batch, self.storage = problems.Problem.from_dict(problem), batch, storage
        parameters, self.codes = problems.read(path)
        channels = self.problem.channels
        config = wd.WaveNetConfig(
            dilations=self.problem.dilations,
            kernel_size=self.problem.kernel,
            residual_channels=channels,
            dilation_channels=channels,
            skip_channels=channels,
            end_channels=channels,
            classes=self.problem.classes,
            sample_rate=rate,
        )
        self.model = wd.WaveNet(config, threads=threads, device=device)
        self.model.params.load(parameters)
        return {"framework": f"wavedil {wd.__version__}", "threads": threads}

    def do_check(self, greedy):
        """Of the logits after every code of the file, and the codes that follow when the likeliest is taken."""
        codes = self.codes[: self.batch]
        likeliest = self.model.generate(greedy, self.batch, temperature=0, primer=codes)
        return {"logits": probe.probe(self.model.logits(codes)), "greedy": likeliest.tolist()}

    def do_time(self, n, repeat):
        """Seconds to generate n samples of each stream: packing the weights and drawing included."""
        generate = functools.partial(self.model.generate, n, self.batch, storage=self.storage)
        return {"seconds": worker.time_calls(generate, repeat)}

    def do_stream(self, what, block, count):
        """Seconds of each block of a live stream: of `model.stream` alone, or of `Predictor` from audio to audio."""
        if what == "audio":
            predictor = streaming.Predictor(self.model)
            x = np.random.default_rng(0).uniform(-0.5, 0.5, block).astype(np.float32)
            seconds = worker.time_calls(lambda: predictor.process(x), count + 10)
            return {"seconds": seconds[10:], "state_bytes": predictor.state.nbytes}
        state, codes = self.model.init_stream(), np.random.default_rng(0).integers(0, 256, (1, block))
        seconds = worker.time_calls(lambda: self.model.stream(codes, state), count + 10)
        return {"seconds": seconds[10:], "state_bytes": state.nbytes}

    def do_bits(self, steps, seconds, kinds):
        """Bits/sample of held-out speech after some steps on the bundled clips, by how a stream's weights are stored.

        Sums of the same codes in the same order, so that the differences are those of the weights alone.
        """
        clips = wd.audio.bundled_clips()
        model = wd.WaveNet(wd.WaveNetConfig(problems.Problem(32).dilations, sample_rate=clips.sample_rate))
        wd.Trainer(model, clips, optimizer=wd.AdamW(4e-3), window=2048, batch=4).fit(steps=steps)
        bits = {}
        for kind in kinds:
            total = count = 0
            for _, codes, _ in clips.validation_clips():
                codes = np.concatenate([[128], codes])[None, : round(seconds * clips.sample_rate)].astype(np.int64)
                logits = model.stream(codes[:, :-1], model.init_stream(storage=kind))[0]
                logits = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
                chosen = np.take_along_axis(logits, codes[0, 1:, None], axis=1)[:, 0]
                total += float((np.log(np.exp(logits).sum(axis=1)) - chosen).sum())
                count += len(chosen)
            bits[str(kind)] = total / count / math.log(2)
        return {"bits": bits, "samples": count, "steps": steps}

    def do_save(self, path):
        self.model.save(Path(path))

    def do_first(self, path):
        """Seconds from a file to the first sample, in a process that has done nothing yet."""
        begin = time.perf_counter()
        model = wd.load(Path(path))
        loaded = time.perf_counter()
        model.generate(1)
        first = time.perf_counter()
        model.generate(1)
        return {"load": loaded - begin, "first_sample": first - loaded, "second_call": time.perf_counter() - first}


PEER = WavedilGenerate
