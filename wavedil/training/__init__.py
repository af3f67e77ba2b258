"""Training: optimizers, schedules, checkpoints, fine-tuning and the trainer that drives them."""

from wavedil.training import schedules
from wavedil.training.finetune import FineTune, LoRA
from wavedil.training.optimizers import SGD, Adam, AdamW
from wavedil.training.sources import Arrays, Batches
from wavedil.training.trainer import Progress, Trainer

__all__ = ["SGD", "Adam", "AdamW", "Arrays", "Batches", "FineTune", "LoRA", "Progress", "Trainer", "schedules"]
