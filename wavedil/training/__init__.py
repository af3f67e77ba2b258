"""Training: optimizers, schedules, checkpoints, fine-tuning and the trainer that drives them."""

from wavedil.training import optimizers, schedules
from wavedil.training.finetune import FineTune, LoRA
from wavedil.training.metrics import read_metrics
from wavedil.training.optimizers import SGD, Adam, AdamW
from wavedil.training.progress import Progress
from wavedil.training.sources import Arrays, Batches
from wavedil.training.trainer import Trainer

__all__ = [
    "SGD", "Adam", "AdamW", "Arrays", "Batches", "FineTune", "LoRA", "Progress", "Trainer", "optimizers",
    "read_metrics", "schedules",
]  # fmt: skip
