"""wavedil itself, the way its own trainer takes a step."""

import wavedil as wd
from benchmarks import problem as problems
from benchmarks.peers import worker
from wavedil.ops import update


class WavedilWaveNet(worker.TrainingPeer):
    def setup(self, problem, path, *, threads, recompute=False, device="cpu"):
        self.problem = problem = problems.Problem.from_dict(problem)
        self.threads, self.recompute = threads, recompute
        parameters, self.codes = problems.read(path)
        config = wd.WaveNetConfig(
            dilations=problem.dilations,
            kernel_size=problem.kernel,
            residual_channels=problem.channels,
            dilation_channels=problem.channels,
            skip_channels=problem.channels,
            end_channels=problem.channels,
            classes=problem.classes,
        )
        self.model = wd.WaveNet(config, recompute=recompute, threads=threads, device=device)
        self.model.params.load(parameters)
        self.optimizer = wd.Adam(problems.LEARNING_RATE)
        self.moments = {name: self.model.params.like() for name in self.optimizer.moments}
        self.grads = self.model.params.like()
        self.steps = 0

    def step(self):
        self.steps += 1
        self.grads.flat.fill(0)
        loss, _ = self.model.loss_and_grads(self.codes, into=self.grads)
        norm = update.global_norm(self.grads.flat, threads=self.threads)
        self.optimizer.update(
            self.model.params,
            self.grads,
            self.moments,
            step=self.steps,
            lr=self.optimizer.lr,
            scale=update.clip_scale(norm, problems.CLIP),
            threads=self.threads,
        )
        return loss, norm

    def loss(self):
        return self.model.loss(self.codes)

    def description(self):
        return {"framework": f"wavedil {wd.__version__}", "recompute": self.recompute, "threads": self.threads}


PEER = WavedilWaveNet
