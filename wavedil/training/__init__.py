"""Training: optimizers, schedules, checkpoints and the trainer that drives them."""

from wavedil.training import schedules
from wavedil.training.optimizers import SGD, Adam, AdamW
from wavedil.training.trainer import Progress, Trainer

__all__ = ["SGD", "Adam", "AdamW", "Progress", "Trainer", "schedules"]
