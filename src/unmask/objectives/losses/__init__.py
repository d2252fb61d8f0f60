"""What the contrastive objective minimises: losses on one protocol, which can be summed and taken at several widths."""

from unmask.objectives.losses.base import Loss, LossOutput
from unmask.objectives.losses.infonce import InfoNce
from unmask.objectives.losses.matryoshka import Matryoshka
from unmask.objectives.losses.sum import Sum
from unmask.objectives.losses.teacher import TEACHER, Distillation

__all__ = ["TEACHER", "Distillation", "InfoNce", "Loss", "LossOutput", "Matryoshka", "Sum"]
