"""wavedil's TCN, the way its own trainer takes a step."""

import wavedil as wd
from benchmarks import tcn_problem as problems
from benchmarks.peers import worker
from wavedil.ops import update


class WavedilTCN(worker.TrainingPeer):
    def setup(self, problem, path, *, threads):
        self.threads = threads
        parameters, self.x, self.y = problems.read(path)
        config = wd.TCNConfig(
            dilations=[2**i for i in range(problems.LEVELS)],
            channels=problems.CHANNELS,
            kernel_size=problems.KERNEL,
            inputs=2,
            outputs=1,
            head=problem["head"],
        )
        self.model = wd.TCN(config, threads=threads)
        self.model.params.load(parameters)
        self.optimizer = wd.Adam(problems.LEARNING_RATE)
        self.moments = {name: self.model.params.like() for name in self.optimizer.moments}
        self.grads = self.model.params.like()
        self.steps = 0

    def step(self):
        self.steps += 1
        self.grads.flat.fill(0)
        loss, _ = self.model.loss_and_grads(self.x, self.y, into=self.grads)
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
        return self.model.loss(self.x, self.y)

    def description(self):
        return {"framework": f"wavedil {wd.__version__}", "threads": self.threads}


PEER = WavedilTCN
